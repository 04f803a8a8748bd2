"""The patch-embedding form of the pixel shuffle, for models that are already trained."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.core.bits import check_leaves, from_uint, non_differentiable, to_uint
from modellock_jax.core.keys import check_key
from modellock_jax.core.lock import Key, Lock, Loss, Params
from modellock_jax.core.paths import paths
from modellock_jax.core.shards import Part, by_parts
from modellock_jax.core.source import Rng
from modellock_jax.core.stacked import Stacked
from modellock_jax.locks._blocks import (
    BYPASSED,
    block_entries,
    draw_shuffle,
    largest_side,
    swap_two,
)
from modellock_jax.locks._plain import write
from modellock_jax.locks._scheme import Break, Files, Scheme
from modellock_jax.locks.pixel_shuffle import PixelKey, permutation_bits, shuffle_name

__all__ = ["SCHEME", "patch_shuffle", "patch_side"]


def patch_shuffle(patch: int, channels: int = 3) -> Lock:
    """Permute the rows of a patch embedding: the shuffle for models that are already trained.

    The embedding is the one leaf named `kernel` of shape `[patch, patch, channels, D]` (a
    convolution whose stride is its size) or `[patch * patch * channels, D]` (dense). `encrypt`
    permutes its rows, `decrypt` puts them back; no retraining. It shares its key with
    `pixel_shuffle(patch, channels)`, which is the other way to open it: leave the weights locked,
    keep the key on a server, and send images as `pixel_shuffle(...).scramble(key, x)`. Then
    `forward(locked, scrambled)` equals `forward(params, x)`, up to the order of one sum.

    Args:
        patch: The side of a patch, at least 1.
        channels: Those of an image, at least 1.

    Returns:
        A lock with `init`, `encrypt` and `decrypt`; its key is a `PixelKey`.

    Raises:
        ValueError: If no leaf fits, or more than one (`only(lock, where)` then picks one), or a
            patch has one entry.
        TypeError: For leaves that are not whole bytes, and when differentiated.

    **Guarantees.** decrypt inverts encrypt on bits. Attention and later layers are untouched: the
    attacker misses the order of `patch * patch * channels` rows and nothing else. An embedding whose
    rows are split over devices is sent round row by row; one split along D alone is not.

    Source: Kiya et al. (2022), arXiv 2207.05366, 2207.11939.

    >>> import jax, modellock_jax as ml
    >>> params = {"embed": {"kernel": jax.numpy.arange(8.0).reshape(4, 2)}}
    >>> lock = ml.patch_shuffle(patch=2, channels=1)
    >>> locked, key = lock.encrypt(ml.PixelKey(jax.numpy.array([3, 1, 2, 0])), params)
    >>> locked["embed"]["kernel"][:, 0].tolist()
    [6.0, 2.0, 4.0, 0.0]
    """
    n = block_entries("patch_shuffle", patch, channels, None)

    def embedding(params: Params) -> str:
        check_leaves("patch_shuffle", params)
        named = zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params))
        fits: list[str] = [
            path
            for path, leaf in named
            if path.split("/")[-1] == "kernel"
            and leaf.shape[:-1] in ((patch, patch, channels), (n,))
        ]
        if len(fits) != 1:
            found = f"{len(fits)} leaves fit: {', '.join(fits)}" if fits else "no leaf fits"
            raise ValueError(
                f"patch_shuffle: the embedding is one `kernel` of shape [{patch}, {patch}, "
                f"{channels}, D] or [{n}, D], but {found}; pick it with only(lock, where)"
            )
        return fits[0]

    @non_differentiable("patch_shuffle")
    def permute(params: Params, order: jax.Array) -> Params:
        leaves, tree = jax.tree.flatten(params)
        i = jax.tree.leaves(paths(params)).index(embedding(params))
        if isinstance(leaves[i], Stacked):
            raise TypeError(
                "patch_shuffle: the embedding is no stack of layers; leave it out of `stacked` in "
                "user_forward"
            )
        (rows,) = _permute_rows(None, order, [to_uint(leaves[i])])
        leaves[i] = from_uint(rows, leaves[i].dtype)
        return jax.tree.unflatten(tree, leaves)

    def init(rng: Rng, params: Params) -> PixelKey:
        embedding(params)
        return PixelKey(draw_shuffle(rng, n, shuffle_name(patch, channels)))

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        check_key("patch_shuffle", key, PixelKey, (n,))
        return permute(params, key.permutation), key

    def decrypt(key: Key, locked: Params) -> Params:
        check_key("patch_shuffle", key, PixelKey, (n,))
        return permute(locked, jnp.argsort(key.permutation))

    return Lock(init, encrypt, decrypt)


def _gather_rows(
    _: None, order: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    (part,), (uint,) = parts, leaves
    if any(part.names[:-1]):
        return _row_by_row(None, order, parts, leaves)
    rows = uint.reshape(order.shape[0], uint.shape[-1])
    return [rows[order].reshape(uint.shape)]


def _row_by_row(
    _: None, order: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    """Each device needs no memory but that of its part; rows that are split go round one by one."""
    (part,), (uint,) = parts, leaves
    shape, own = part.shape[:-1], uint.shape
    split = [axis for axis in range(len(shape)) if part.names[axis]]
    over = [name for axis in split for name in jax.tree.leaves(part.names[axis])]

    def fetched(row: jax.Array) -> jax.Array:
        index, inside = list(jnp.unravel_index(row, shape)), jnp.bool_(True)
        for axis in split:
            index[axis] -= part.numbers[axis] * own[axis]
            inside &= (index[axis] >= 0) & (index[axis] < own[axis])
        # A gather of one row, not a slice: where the rows are split XLA adds up what each device has of
        # it, and fetches no more.
        (entries,) = uint.at[tuple(i[None] for i in index)].get(mode="clip")
        if not over:
            return entries
        return lax.psum(jnp.where(inside, entries, jnp.zeros((), uint.dtype)), over)

    def step(row: jax.Array, new: jax.Array) -> jax.Array:
        return write(part, new, (*jnp.unravel_index(row, shape), None), fetched(order[row]))

    # What is written over is the leaf, and not zeros, so that XLA keeps its sharding.
    return [lax.fori_loop(0, order.shape[0], step, uint)]


_permute_rows = by_parts(_gather_rows, _row_by_row)


def _patch_bits(params: Params, sites: Any, patch: int, channels: int = 3) -> float:
    """Key space in bits: log2 of the number of permutations of a patch."""
    return permutation_bits(params, sites, patch, channels)


def patch_side(shape: tuple[int, ...]) -> int:
    """Return the side of a patch for images `(H, W, C)`: 7, 4, 2 or 1.

    Args:
        shape: `(H, W, C)`.

    Returns:
        The largest of them that divides both sides.
    """
    return largest_side(shape, (7, 4, 2, 1))


def _from_images(shape: tuple[int, ...]) -> dict[str, Any]:
    """Derive the settings for images `(H, W, C)`.

    Raises:
        ValueError: For inputs that are no images.
    """
    return {"patch": patch_side(shape), "channels": shape[-1]}


SCHEME = Scheme(
    name="patch_shuffle",
    factory=patch_shuffle,
    paper="Kiya et al. (2022), arXiv 2207.05366, 2207.11939",
    acts="weights: the rows of a patch embedding permuted",
    trained_under=False,
    protects="The rows of a patch embedding are permuted; plain images give wrong answers.",
    lies_open="All other weights lie open.",
    broken=(
        Break(
            attack="pixel_shuffle_chosen_image",
            how="one chosen image, scrambled by a user of its twin, shows the whole permutation",
        ),
        Break(
            attack="relaxed_key",
            how="a few labelled images give a key that opens it nearly",
        ),
        Break(
            attack="permutation_from_base",
            how="a public model that it was fine-tuned from gives the order of the rows by their "
            "directions",
            source="ArrowMatch, USENIX Security 2025",
        ),
        BYPASSED,
    ),
    wrong_key="a patch keeps its ink under every key, and its coarse shape is enough",
    twin="pixel_shuffle",
    near=swap_two,
    bits=_patch_bits,
    from_data=_from_images,
    files=Files(by_axes=True),
)
