"""Several locks as one, and a lock on some leaves alone."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from modellock_jax.core.keys import describe
from modellock_jax.core.lock import Key, Lock, Loss, Params, unmasked, unscrambled
from modellock_jax.core.masks import Chained, Mask, Selected
from modellock_jax.core.paths import paths
from modellock_jax.core.source import Rng, for_lock, split

__all__ = ["chain", "only"]


def chain(*locks: Lock) -> Lock:
    """Make one lock of several: applied in order, decrypted in reverse.

    `loss` is always the owner's loss of the plain parameters: a later lock gets it composed with the
    decryption of the earlier ones. A lock that needs its gradient (`adv_params`) must therefore come
    before bit ciphers, and a chain in the wrong order raises instead of doing nothing.

    Args:
        *locks: One lock or more, the first to be applied first.

    Returns:
        A lock whose key is a tuple of keys, one per lock in order.

    Raises:
        ValueError: If no lock is given; in `encrypt`, if two links have one key, since a lock could undo
            another. Under `jit` that is seen where both are one argument.
        TypeError: In every function, if the key is not one key per lock.

    >>> import jax, modellock_jax as ml
    >>> params = {"w": jax.numpy.ones(4)}
    >>> lock = ml.chain(ml.deep_lock(), ml.stream_lock())
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> lock.decrypt(key, locked)["w"].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if not locks:
        raise ValueError("chain: give at least one lock, as in chain(deep_lock(), stream_lock())")

    def keys_of(key: Key) -> tuple[Key, ...]:
        if not isinstance(key, tuple) or hasattr(key, "_fields") or len(key) != len(locks):
            raise TypeError(
                f"chain: the key must be a tuple of {len(locks)} keys, one per lock in order, "
                f"not {describe(key)}; make one with init(rng, params)"
            )
        return key

    def init(rng: Rng, params: Params) -> Key:
        return tuple(lock.init(r, params) for lock, r in zip(locks, split(rng, len(locks))))

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        finished = []
        _check_distinct(keys_of(key))
        for lock, k in zip(locks, keys_of(key)):
            params, k = lock.encrypt(k, params, loss)
            loss = None if loss is None else _after(loss, lock, k)
            finished.append(k)
        return params, tuple(finished)

    def decrypt(key: Key, locked: Params) -> Params:
        for lock, k in zip(reversed(locks), reversed(keys_of(key))):
            locked = lock.decrypt(k, locked)
        return locked

    def scramble(key: Key, x: jax.Array) -> jax.Array:
        for lock, k in zip(locks, keys_of(key)):
            x = lock.scramble(k, x)
        return x

    # What no lock does stays the default, so that the fields show where a chain acts.
    masks = tuple(None if lock.mask is unmasked else lock.mask for lock in locks)
    mask: Mask = Chained(masks, keys_of) if any(masks) else unmasked
    scrambles = any(lock.scramble is not unscrambled for lock in locks)
    return Lock(init, encrypt, decrypt, scramble if scrambles else unscrambled, mask)


def _check_distinct(keys: tuple[Key, ...]) -> None:
    for j, later in enumerate(keys):
        for i, earlier in enumerate(keys[:j]):
            if _is_same(earlier, later):
                raise ValueError(
                    f"chain: links {i + 1} and {j + 1} have the same key; draw one for each with "
                    "init(rng, params)"
                )


def _is_same(one: Key, other: Key) -> bool:
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    trees: list[Any] = [jax.tree.structure(key) for key in (one, other)]
    if not leaves or trees[0] != trees[1]:
        return False
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves + others):
        return all(a is b for a, b in zip(leaves, others))
    return all(np.array_equal(a, b) for a, b in zip(leaves, others))


def _after(loss: Loss, lock: Lock, key: Key) -> Loss:
    return lambda params: loss(lock.decrypt(key, params))


def only(lock: Lock, where: Callable[[str], bool]) -> Lock:
    """Restrict a lock to the leaves, and the mask's sites, whose path satisfies `where`.

    `scramble` acts on inputs and is not restricted. From a host `Source`, the key depends on which
    leaves are chosen.

    Args:
        lock: Any lock.
        where: `where(path) -> bool` of a leaf's path such as `"params/Dense_0/kernel"`, and for the mask
            of a site's name such as `"Dense_0"`.

    Returns:
        A lock with the same kind of key.

    Raises:
        ValueError: If no leaf satisfies `where`, or, in a forward, if no site does and the lock has a
            mask.

    >>> import jax, modellock_jax as ml
    >>> params = {"a": jax.numpy.ones(4), "b": jax.numpy.ones(4)}
    >>> lock = ml.only(ml.deep_lock(), lambda path: path == "a")
    >>> locked, _ = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> bool((locked["a"] == 1).all()), bool((locked["b"] == 1).all())
    (False, True)
    """

    def select(params: Params) -> Params:
        # None is an empty subtree: what is not selected vanishes, and every path stays the same.
        chosen = jax.tree.map(
            lambda path, leaf: leaf if where(path) else None, paths(params), params
        )
        if not jax.tree.leaves(chosen):
            known = ", ".join(jax.tree.leaves(paths(params))[:4])
            raise ValueError(f"only: no leaf's path satisfies `where`; the paths begin {known}")
        return chosen

    def merge(chosen: Params, params: Params) -> Params:
        return jax.tree.map(
            lambda c, p: p if c is None else c, chosen, params, is_leaf=lambda leaf: leaf is None
        )

    def init(rng: Rng, params: Params) -> Key:
        chosen = select(params)
        known = jax.tree.leaves(paths(chosen))
        return lock.init(for_lock(rng, f"only({known!r})"), chosen)

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        inner = None if loss is None else lambda chosen: loss(merge(chosen, params))
        locked, key = lock.encrypt(key, select(params), inner)
        return merge(locked, params), key

    def decrypt(key: Key, locked: Params) -> Params:
        return merge(lock.decrypt(key, select(locked)), locked)

    mask: Mask = unmasked if lock.mask is unmasked else Selected(lock.mask, where)
    return Lock(init, encrypt, decrypt, lock.scramble, mask)
