"""The patch-embedding form of the pixel shuffle, for models that are already trained."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.base import Key, Lock, Loss, Params, Rng, check_key, paths
from modellock_jax.bits import bitwise, check_leaves, from_uint, to_uint
from modellock_jax.layers import Stacked
from modellock_jax.schemes.pixel_shuffle import (
    PixelKey,
    block_entries,
    draw_permutation,
    permutation_bits,
    shuffle_name,
)
from modellock_jax.schemes.shards import Part, by_parts, cut


def patch_shuffle(patch: int, channels: int = 3) -> Lock:
    """Permute the rows of a patch embedding: the shuffle for models that are already trained.

    The embedding is the one leaf named `kernel` of shape `[patch, patch, channels, D]` (a
    convolution whose stride is its size) or `[patch * patch * channels, D]` (dense). `encrypt`
    permutes its rows, `decrypt` puts them back; no retraining. It shares its key with
    `pixel_shuffle(patch, channels)`, which is the other way to open it: leave the weights locked,
    keep the key on a server, and send images as `pixel_shuffle(...).scramble(key, x)`. Then
    `forward(locked, scrambled)` equals `forward(params, x)`, up to the order of one sum.

    Raises `ValueError` if no leaf fits, or more than one (`only(lock, where)` then picks one);
    `TypeError` for leaves that are not whole bytes, and when differentiated.

    **Guarantees.** decrypt inverts encrypt on bits. Attention and later layers are untouched: the
    attacker misses the order of `patch * patch * channels` rows and nothing else. An embedding whose
    rows are split over devices is gathered by each of them; one split along D alone is not.

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
        fits = [
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

    @bitwise("patch_shuffle")
    def permute(params: Params, order: jax.Array) -> Params:
        leaves, tree = jax.tree.flatten(params)
        i = jax.tree.leaves(paths(params)).index(embedding(params))
        if isinstance(leaves[i], Stacked):
            raise TypeError(
                "patch_shuffle: the embedding is no stack of layers; leave it out of `layers` in "
                "user_forward"
            )
        (rows,) = _permute_rows(None, order, [to_uint(leaves[i])])
        leaves[i] = from_uint(rows, leaves[i].dtype)
        return jax.tree.unflatten(tree, leaves)

    def init(rng: Rng, params: Params) -> PixelKey:
        embedding(params)
        return PixelKey(draw_permutation(rng, n, shuffle_name(patch, channels)))

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        check_key("patch_shuffle", key, PixelKey, (n,))
        return permute(params, key.permutation), key

    def decrypt(key: Key, locked: Params) -> Params:
        check_key("patch_shuffle", key, PixelKey, (n,))
        return permute(locked, jnp.argsort(key.permutation))

    return Lock(init, encrypt, decrypt)


@by_parts
def _permute_rows(
    _: None, order: jax.Array, parts: list[Part], leaves: list[jax.Array]
) -> list[jax.Array]:
    (part,), (uint,) = parts, leaves
    own = uint.shape
    for axis, names in enumerate(part.names[:-1]):
        if names:
            uint = lax.all_gather(uint, names, axis=axis, tiled=True)
    # All rows, and of each the entries that lie here.
    shape = (*part.shape[:-1], own[-1])
    uint = uint[tuple(slice(n) for n in shape)].reshape(order.shape[0], own[-1])[order]
    return [cut(uint.reshape(shape), Part(shape, (*part.numbers[:-1], 0), part.names), own)]


def patch_bits(params: Params, sites: Any, patch: int, channels: int = 3) -> float:
    """Key space in bits: log2 of the number of permutations of a patch."""
    return permutation_bits(params, sites, patch, channels)
