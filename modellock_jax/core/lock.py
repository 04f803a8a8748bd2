"""The one idea: a lock is five pure functions, and each person holds one forward function.

The *owner* trains and locks a model, the *user* has the key, the *attacker* has everything but
the key::

    owner_forward(lock, forward)(key, params, x)     # scramble + mask: what the owner trains
    user_forward(lock, forward)(key, locked, x)      # decrypt, then the same
    forward(locked, x)                               # what the attacker holds
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.core.masks import check_mask_applied
from modellock_jax.core.paths import paths
from modellock_jax.core.source import Rng
from modellock_jax.core.stacked import as_lazy_layers, as_stacked

__all__ = [
    "Forward",
    "Key",
    "Lock",
    "Loss",
    "Params",
    "Tap",
    "owner_forward",
    "unmasked",
    "unscrambled",
    "untapped",
    "user_forward",
]

Params = Any
"""A pytree of arrays."""

Key = Any
"""A pytree of arrays: a NamedTuple for one lock, a tuple of keys for a chain."""

Tap = Callable[[str, jax.Array], jax.Array]
"""`tap(site, h) -> h`, called on the output of every linear layer, before its activation."""

Forward = Callable[..., Any]
"""`forward(params, x, tap=untapped, **kwargs) -> y`, calling `h = tap("conv1", h)` at each site."""

Loss = Callable[[Params], jax.Array]
"""`loss(params) -> scalar`, the owner's loss on a batch of the owner's choice."""


def untapped(site: str, h: jax.Array) -> jax.Array:
    """Change nothing: the tap with which the attacker's forward runs.

    Args:
        site: The name of a layer.
        h: Its pre-activation, of any shape.

    Returns:
        `h`.
    """
    return h


def _encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
    return params, key


def _decrypt(key: Key, locked: Params) -> Params:
    return locked


def unscrambled(key: Key, x: jax.Array) -> jax.Array:
    """Return the inputs as they are: the default of a lock.

    Args:
        key: Any key.
        x: Inputs `[B, ...]`.

    Returns:
        `x`.
    """
    return x


def unmasked(key: Key, site: str, h: jax.Array) -> jax.Array:
    """Return a pre-activation as it is: the default of a lock.

    Args:
        key: Any key.
        site: Where it is.
        h: A pre-activation `[B, ..., C]`.

    Returns:
        `h`.
    """
    return h


class Lock(NamedTuple):
    """A lock: five pure data-to-data functions; the fields a scheme fills in show where it acts.

    `init(rng, params) -> key`
        draws a key; `rng` is a JAX PRNG key or a host `Source`.
    `encrypt(key, params, /, loss=None) -> (locked, key)`
        the owner, once; may finish the key.
    `decrypt(key, locked) -> params`
        the user, at load.
    `scramble(key, x) -> x`
        every batch.
    `mask(key, site, h) -> h`
        every pre-activation.

    **Guarantees.** decrypt inverts encrypt on bits; both keep structure, shapes, dtypes and
    shardings; a key is a pytree of arrays, so `vmap` over keys is `vmap` over an argument; a second
    key costs no second trace. A lock is closed over, never passed to `jit`.
    """

    init: Callable[[Rng, Params], Key]
    encrypt: Callable[..., tuple[Params, Key]] = _encrypt
    decrypt: Callable[[Key, Params], Params] = _decrypt
    scramble: Callable[[Key, jax.Array], jax.Array] = unscrambled
    mask: Callable[[Key, str, jax.Array], jax.Array] = unmasked


def owner_forward(lock: Lock, forward: Forward) -> Callable[..., Any]:
    """Make the forward that the owner trains: inputs scrambled and pre-activations masked.

    Args:
        lock: Any lock.
        forward: `forward(params, x, tap=untapped, **kwargs) -> y`.

    Returns:
        `f(key, params, x, **kwargs) -> y`; keyword arguments reach `forward` unchanged.

    Raises:
        ValueError: In `f`, where a mask would act nowhere: `forward` never calls `tap`, or no site
            satisfies the `where` of an `only`. It names the sites there are. A chain is refused if one
            of its masks is.

    >>> import jax, modellock_jax as ml
    >>> def forward(params, x, tap=ml.untapped):
    ...     return tap("dense", x @ params["dense"]["kernel"])
    >>> params = {"dense": {"kernel": jax.numpy.ones((2, 3))}}
    >>> lock = ml.sign_mask(bits=3)
    >>> key = ml.SignKey(jax.numpy.array([1, -1, 1], "int8"))
    >>> ml.owner_forward(lock, forward)(key, params, jax.numpy.ones((1, 2)))
    Array([[ 2., -2.,  2.]], dtype=float32)
    """

    def owner(key: Key, params: Params, x: jax.Array, **kwargs: Any) -> Any:
        sites: list[str] = []

        def tap(site: str, h: jax.Array) -> jax.Array:
            sites.append(site)
            return lock.mask(key, site, h)

        y = forward(params, lock.scramble(key, x), tap, **kwargs)
        if lock.mask is not unmasked:
            check_mask_applied(lock.mask, sites)
        return y

    return owner


def user_forward(
    lock: Lock, forward: Forward, stacked: Callable[[str], bool] | None = None
) -> Callable[..., Any]:
    """Make the forward of the user, who has the key: decrypt, then as the owner.

    Args:
        lock: Any lock.
        forward: `forward(params, x, tap=untapped, **kwargs) -> y`.
        stacked: `stacked(path) -> bool` chooses leaves `[L, ...]` that hold one entry for each of L
            layers, over which `forward` runs a `lax.scan`: each is opened in the loop, where its layer
            uses it. Under `jax.checkpoint` of the loop's body, gradients with respect to `x` open
            it once more instead of keeping it. Leaves that are not chosen are opened at the start.

    Returns:
        `f(key, locked, x, **kwargs) -> y`. With the right key its output equals the output of
        `owner_forward` on the plain parameters, bit for bit.

    Raises:
        ValueError: In `f`, if `stacked` chooses no leaf, or one without axes.
        TypeError: In `f`, if the lock cannot open a chosen leaf layer by layer.

    >>> import jax, modellock_jax as ml
    >>> def forward(params, x, tap=ml.untapped):
    ...     return jax.lax.scan(lambda h, layer: (h @ layer["w"], None), x, params["layers"])[0]
    >>> params = {"layers": {"w": jax.random.normal(jax.random.key(1), (12, 4, 4))}}
    >>> lock = ml.stream_lock()
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> user = ml.user_forward(lock, forward, lambda path: path.startswith("layers/"))
    >>> x = jax.numpy.ones((1, 4))
    >>> bool((user(key, locked, x) == forward(params, x)).all())
    True
    """
    owner = owner_forward(lock, forward)

    def user(key: Key, locked: Params, x: jax.Array, **kwargs: Any) -> Any:
        if stacked is None:
            return owner(key, lock.decrypt(key, locked), x, **kwargs)
        planned = lock.decrypt(key, _mark_stacked(stacked, locked))
        return owner(key, as_lazy_layers(planned), x, **kwargs)

    return user


def _mark_stacked(chooses: Callable[[str], bool], locked: Params) -> Params:
    names = paths(locked)
    chosen = jax.tree.map(chooses, names)
    if not any(jax.tree.leaves(chosen)):
        known = ", ".join(jax.tree.leaves(names)[:4])
        raise ValueError(f"user_forward: `stacked` chooses no leaf; the paths begin {known}")
    for path, leaf, is_chosen in zip(*map(jax.tree.leaves, (names, locked, chosen))):
        if is_chosen and not jnp.ndim(leaf):
            raise ValueError(f"user_forward: `{path}` has no axis of layers; leave it out")
    return as_stacked(locked, chosen)
