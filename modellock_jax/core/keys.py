"""What locks say of keys: whether one fits, and its repr, which shows nothing secret."""

from typing import Any

import jax.numpy as jnp

__all__ = ["check_key", "describe", "redacted"]


def check_key(
    scheme: str, key: Any, kind: Any, *shapes: tuple[int, ...], dtype: Any = None
) -> None:
    """Refuse a key that another lock made, or this lock with other settings.

    Args:
        scheme: The lock's name, for the message.
        key: What was given as a key.
        kind: The key's NamedTuple.
        *shapes: Those of its fields, in order.
        dtype: That of every field; None for any.

    Raises:
        TypeError: For another structure or dtype.
        ValueError: For other shapes.
    """
    if not isinstance(key, kind):
        raise TypeError(
            f"{scheme}: the key must be a {kind.__name__}, not {describe(key)}; "
            "make one with init(rng, params)"
        )
    for field, value, shape in zip(key._fields, key, shapes):
        if jnp.shape(value) != shape:
            raise ValueError(
                f"{scheme}: the key's `{field}` has shape {list(jnp.shape(value))}, not "
                f"{list(shape)}: it was made with other settings or for another model"
            )
        if dtype is not None and jnp.result_type(value) != dtype:
            raise TypeError(
                f"{scheme}: the key's `{field}` has dtype {jnp.result_type(value)}, not "
                f"{jnp.dtype(dtype)}; make one with init(rng, params)"
            )


def describe(key: Any) -> str:
    """Name the type of a key, and its length, for a message.

    Args:
        key: A key, or whatever came in its place.

    Returns:
        A few words, with nothing of what is in it.
    """
    length = f" of {len(key)}" if type(key) in (tuple, list) else ""
    return f"a {type(key).__name__}{length}"


def redacted(key: Any) -> str:
    """Write the repr of a lock's key: what its fields are, and not what is in them.

    Args:
        key: A NamedTuple of arrays.

    Returns:
        As `SignKey(signs=int8[256])`.
    """
    fields = ", ".join(
        f"{name}={jnp.result_type(value)}{list(jnp.shape(value))}"
        if hasattr(value, "shape")
        else f"{name}={type(value).__name__}"
        for name, value in zip(key._fields, key)
    )
    return f"{type(key).__name__}({fields})"
