"""Errors that carry no secrets along: a traceback keeps the local variables of every frame it names."""

import functools
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def clears_frames(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose errors hold no local variable, neither its own nor of what it called.

    **Guarantees.** Programs that print or send tracebacks with their variables (rich, sentry) find
    none below the caller. Kept are the error, its message and attributes, and every line's number;
    not kept is an error that another hides by `from None`.

    >>> @clears_frames
    ... def divide(secret: int) -> float:
    ...     return secret / 0
    >>> try:
    ...     divide(7)
    ... except ZeroDivisionError as error:
    ...     [frame.f_locals.get("secret") for frame, _ in traceback.walk_tb(error.__traceback__)]
    [None, None, None]
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _clear(error)
            raise

    return call


def _clear(error: BaseException) -> None:
    links: list[BaseException | None] = [error]
    seen: set[int] = set()
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            if link.__suppress_context__:  # what `from None` hides may hold the text it was about
                link.__context__ = None
            links += [link.__cause__, link.__context__]
