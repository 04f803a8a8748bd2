"""Programs that are compiled once, and run on every model that an attack is let loose on."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax

from modellock_jax.core.lock import Forward, Lock, user_forward

KEPT = 8
"""How many programs of a kind are kept: they are large, and most attacks are run once."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its first arguments and its settings, which equals another of the same."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    settings: tuple[tuple[str, Any], ...]

    def __call__(self, *more: Any) -> Any:
        return self.function(*self.args, *more, **dict(self.settings))


def bind(function: Callable[..., Any], *args: Any, **settings: Any) -> Bound:
    """Bind arguments as `functools.partial` does, but so that programs can be found again."""
    return Bound(function, args, tuple(sorted(settings.items())))


compiled = lru_cache(maxsize=KEPT)(jax.jit)
"""`jax.jit` of a function that equals an earlier one, as `Bound` ones do, is the earlier program."""


@lru_cache(maxsize=KEPT)
def user_program(lock: Lock, forward: Forward) -> Callable[..., Any]:
    """Return what the holder of a key runs, compiled once for all keys."""
    return jax.jit(user_forward(lock, forward))
