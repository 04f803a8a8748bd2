"""HPNN sign masks, trained under the key, and their exact twin for a model already trained.

Source: Chakraborty, Mondal & Srivastava (2020), eprint 2020/1016.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.core.bits import check_leaves, non_differentiable
from modellock_jax.core.keys import check_key, redacted
from modellock_jax.core.lock import Key, Lock, Loss, Params
from modellock_jax.core.outputs import Outputs, output_axes
from modellock_jax.core.paths import paths
from modellock_jax.core.source import Rng, random_words
from modellock_jax.locks._scheme import Break, Files, Scheme
from modellock_jax.locks._signs import check_negates, in_pieces, negate, signs_of

__all__ = ["SIGN_FLIP", "SIGN_MASK", "SignKey", "sign_flip", "sign_mask"]


class SignKey(NamedTuple):
    """`signs`: int8 `[bits]`, each +1 or -1 (a relaxed key may hold floats)."""

    signs: jax.Array

    def __repr__(self) -> str:
        return redacted(self)


def sign_mask(bits: int = 256, per: Literal["channel", "unit"] = "channel") -> Lock:
    """Multiply each pre-activation by a secret sign: unit j uses bit j mod `bits`.

    Pre-activations are floats `[B, ..., C]`. The model is trained under the key (`owner_forward`); the
    parameters are not touched.

    Args:
        bits: Length of the key, at least 1. A key of +1 alone is never drawn.
        per: With "channel" units are counted along the last axis; with "unit" every entry after the
            batch axis counts, in C order, as the paper's accelerator does.

    Returns:
        A lock with `init` and `mask`; its key is a `SignKey`.

    Raises:
        ValueError: For other settings, or a key of another length.

    **Guarantees.** Exactly the network with rows of weights and biases negated; with all signs +1 the
    plain network. A layer of fewer units than `bits` leaves later bits unused. A BatchNorm after the
    mask gives the bits away, sign(running mean * expected mean): use GroupNorm. **Broken** from the
    weights alone (`attacks.signs_from_weights`), by fine-tuning with little data (Malhotra 2023) and,
    with queries to an unlocked model, by Li et al. (2024).

    Source: Chakraborty et al. (2020).

    >>> import jax, modellock_jax as ml
    >>> lock = ml.sign_mask(bits=2)
    >>> lock.mask(ml.SignKey(jax.numpy.array([1, -1])), "dense", jax.numpy.ones((1, 3))).tolist()
    [[1.0, -1.0, 1.0]]
    """
    _check(bits)
    if per not in ("channel", "unit"):
        raise ValueError(f'sign_mask: per must be "channel" or "unit", not {per!r}')

    def mask(key: Key, site: str, h: jax.Array) -> jax.Array:
        check_key("sign_mask", key, SignKey, (bits,))
        units = h.shape[-1:] if per == "channel" else h.shape[1:]
        signs = signs_of(key.signs.astype(h.dtype), units)
        return h * signs.reshape((1,) * (h.ndim - len(units)) + units)

    def init(rng: Rng, params: Params) -> SignKey:
        return _draw(rng, bits, per)

    return Lock(init, mask=mask)


def sign_flip(bits: int = 256, outputs: Outputs | None = None) -> Lock:
    """Negate the output rows of every layer's weights, and its bias, by secret signs; no retraining.

    Channel j uses bit j mod `bits`. Floats are negated by their sign bit, integers in two's complement.

    | leaf, its name after a `/` or a `.` | outputs |
    | --- | --- |
    | `kernel`, any number of axes (Flax); `lora_b` | last axis |
    | `weight`, two axes or more (PyTorch, Equinox) | first axis |
    | `bias` beside one of them | as beside it |
    | `weight` of an embedding | none |

    An embedding is a `weight` with two axes and no bias, in a module with `emb` in its name, or `wte` or
    `wpe`. A `weight` whose outputs lie on another axis, as in PyTorch's transposed convolutions, is
    refused if its bias shows that, and else negated along its first axis all the same: give `outputs`.
    `acts_on(lock, params)` lists the leaves.

    Args:
        bits: Length of the key, at least 1. A key of +1 alone is never drawn.
        outputs: For other names and axes, `outputs(path) -> axis` for each leaf, biases too; None for
            one to leave as it is.

    Returns:
        A lock with `init`, `encrypt` and `decrypt`; its key is a `SignKey`.

    Raises:
        ValueError: For other settings, if there is no such leaf, or if one has no entries, no axes, or a
            bias of another length; in `encrypt` for a key that negates no channel, unless compiled.
        TypeError: For unsigned integers, and when differentiated (relax `sign_mask` instead, which
            is the same function).

    **Guarantees.** The twin of `sign_mask(bits)`: `forward(encrypt(key, p), x)` equals
    `owner_forward(sign_mask(bits), forward)(key, p, x)`. decrypt inverts encrypt on bits; magnitudes
    stay in the open. With sharded leaves no device talks to another. Signs cancel where two masked
    layers meet in a product, as query and key of attention do. Attacks on `sign_mask` apply: it is
    **broken** from the weights alone.

    Source: the identity behind Chakraborty et al. (2020).

    >>> import jax, modellock_jax as ml
    >>> params = {"kernel": jax.numpy.ones((1, 3)), "bias": jax.numpy.ones(3)}
    >>> locked, _ = ml.sign_flip(bits=2).encrypt(ml.SignKey(jax.numpy.array([1, -1])), params)
    >>> locked["kernel"].tolist(), locked["bias"].tolist()
    ([[1.0, -1.0, 1.0]], [1.0, -1.0, 1.0])
    """
    _check(bits)
    if outputs is not None and not callable(outputs):
        raise TypeError(f"sign_flip: outputs must be a function of a path, not {outputs!r}")

    def axes_of(params: Params) -> dict[int, int]:
        axes, names = output_axes("sign_flip", params, outputs), jax.tree.leaves(paths(params))
        for i, leaf in enumerate(jax.tree.leaves(params)):
            if i in axes:
                _check_negatable(names[i], leaf)
        return axes

    @non_differentiable("sign_flip")
    def flip(key: SignKey, params: Params) -> Params:
        leaves, tree = jax.tree.flatten(params)
        axes = axes_of(params)
        flipped = negate([*axes.values()], key.signs, [leaves[i] for i in axes])
        for i, leaf in zip(axes, flipped):
            leaves[i] = leaf
        return jax.tree.unflatten(tree, leaves)

    def check(params: Params) -> None:
        check_leaves("sign_flip", params)
        axes_of(params)

    def init(rng: Rng, params: Params) -> SignKey:
        check(params)
        return _draw(rng, bits, "channel")

    def decrypt(key: Key, locked: Params) -> Params:
        check(locked)
        check_key("sign_flip", key, SignKey, (bits,))
        return flip(key, locked)

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        locked = decrypt(key, params)
        leaves = jax.tree.leaves(params)
        check_negates(key.signs, max(leaves[i].shape[axis] for i, axis in axes_of(params).items()))
        return locked, key

    return Lock(init, encrypt, decrypt)


def _check_negatable(path: str, leaf: Any) -> None:
    if jnp.issubdtype(leaf.dtype, jnp.unsignedinteger):
        raise TypeError(
            f"sign_flip: the leaf `{path}` has dtype {leaf.dtype}, which has no negative values; "
            "leave it out with only(lock, where)"
        )
    if not leaf.size or not leaf.ndim:
        raise ValueError(
            f"sign_flip: the leaf `{path}` has shape {list(leaf.shape)}, so there is nothing to "
            "negate; leave it out with only(lock, where)"
        )


def _negate_one(rng: jax.Array, key: SignKey) -> SignKey:
    """Return the nearest wrong key: one sign negated."""
    j = jax.random.randint(rng, (), 0, key.signs.shape[0])
    return SignKey(key.signs.at[j].multiply(-1))


def _mask_bits(params: Params, sites: Any, bits: int = 256, per: str = "channel") -> float:
    """Key space in bits: the signs that reach a unit; `sites` maps a name to its shape [B, ..., C]."""
    units = [shape[-1] if per == "channel" else math.prod(shape[1:]) for shape in sites.values()]
    used = min(bits, max(units))
    return math.log2(2**used - (used == bits))


def _flip_bits(params: Params, sites: Any, bits: int = 256) -> float:
    """Key space in bits: the signs that reach a channel."""
    return _mask_bits(params, sites, bits)


def _check(bits: int) -> None:
    if bits < 1:
        raise ValueError(f"bits must be at least 1, not {bits}")


def _draw(rng: Rng, bits: int, per: str) -> SignKey:
    # One name for sign_mask per channel and sign_flip, which share their key.
    words = random_words(rng, bits, f"signs(bits={bits}, per={per!r})")
    signs = 1 - 2 * (words & 1).astype(jnp.int8)
    # A key of +1 alone would lock nothing.
    return SignKey(jnp.where((signs > 0).all(), -signs, signs))


_BROKEN = (
    Break(
        attack="signs_from_weights",
        how="the locked weights alone, without data or a device, give nearly the whole key",
    ),
    Break(
        attack="sign_mask_oracle",
        how="the logits that an unlocked device gives for a few images give the exact key",
        source="Li et al., DAC 2024",
    ),
    Break(attack="relaxed_key", how="a few labelled images give a key that opens it nearly"),
    Break(
        how="fine-tuning with little data repairs the weights", source="Malhotra, 2023, a survey"
    ),
)
SIGN_MASK = Scheme(
    name="sign_mask",
    factory=sign_mask,
    paper="Chakraborty et al. (2020), eprint 2020/1016",
    acts="pre-activations: each multiplied by a sign",
    trained_under=True,
    protects="A model trained with the signs of its pre-activations under a key answers badly without "
    "it.",
    lies_open="The weights lie open: any thief can train on.",
    broken=(
        *_BROKEN,
        Break(
            attack="signs_from_base",
            how="where training began at a public model, its columns negated by the key, that model "
            "gives the key by their directions",
            source="ArrowMatch, USENIX Security 2025",
        ),
    ),
    twin="sign_flip",
    near=_negate_one,
    bits=_mask_bits,
    study="sign_mask(per='unit')",
    variants=("sign_mask(per='channel')",),
    files="acts on pre-activations, of a model trained under its key, and changes nothing in a file; "
    "use sign_flip, its twin for trained models, or stream_lock",
)
SIGN_FLIP = Scheme(
    name="sign_flip",
    factory=sign_flip,
    paper="the identity behind Chakraborty et al. (2020), eprint 2020/1016",
    acts="weights: rows of kernels and biases negated",
    trained_under=False,
    protects="Rows of weights and biases are negated by a key; the file loads and answers badly.",
    lies_open="The absolute values of all weights lie open.",
    broken=(
        *_BROKEN,
        Break(
            attack="signs_from_base",
            how="a public model that it was fine-tuned from gives the exact key by the directions of "
            "columns",
            source="ArrowMatch, USENIX Security 2025",
        ),
    ),
    twin="sign_mask",
    near=_negate_one,
    bits=_flip_bits,
    study="sign_flip",
    files=Files(by_axes=True, in_pieces=in_pieces),
)
