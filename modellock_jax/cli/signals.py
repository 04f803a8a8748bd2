"""Signals that end a command: each unwinds it, so that nothing half done stays behind."""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any

from modellock_jax import _temporary

__all__ = ["Stopped", "catch", "over"]

# Left alone: what stops a process, or tells of windows, children and urgent data; what the processor
# raises, from which Python cannot return; and what Python ignores, since the call fails then.
_SPARED = {
    "KILL", "STOP", "TSTP", "TTIN", "TTOU", "CONT", "CHLD", "WINCH", "URG", "INFO", "SEGV", "BUS",
    "FPE", "ILL", "PIPE", "XFSZ",
}  # fmt: skip
_over = False  # the command is, and its exit code stands


class Stopped(BaseException):
    """A signal came; `number` is its number. No `Exception`, so that nothing takes it for a fault."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        """As SIGTERM."""
        known = {number.value: number.name for number in signal.Signals}
        return known.get(self.number, f"signal {self.number}")


def catch() -> None:
    """From here on a signal that would end the process raises `Stopped` in its main thread.

    A signal that is ignored stays so, as SIGHUP under nohup. A second one, while the first unwinds,
    removes what is not finished and ends the process at once.
    """
    global _over
    _over = False
    _temporary.begin()
    raised: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if _over:
            return
        if raised:
            _end_now(number)
        try:
            _temporary.interrupt(Stopped(number))
        except Stopped:
            raised.append(number)
            raise

    spared = {getattr(signal, f"SIG{name}", None) for name in _SPARED}
    for number in signal.valid_signals() - spared:
        if signal.getsignal(number) in _DEFAULT:
            signal.signal(number, handle)
    sys.unraisablehook = _unraisable
    sys.excepthook = _uncaught


_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


def over() -> None:
    """Change nothing by signals any more, for the command is over, and leave nothing unfinished."""
    global _over
    _over = True
    _temporary.remove_all()


def _end_now(number: int) -> None:
    _temporary.remove_all()
    os._exit(128 + number)


def _unraisable(args: Any) -> None:
    """Python drops what is raised in a destructor; a signal must not be lost there."""
    if isinstance(args.exc_value, Stopped):
        _end_now(args.exc_value.number)
    with contextlib.suppress(Exception):
        sys.__unraisablehook__(args)


def _uncaught(kind: type[BaseException], fault: BaseException, trace: Any) -> None:
    if isinstance(fault, Stopped):
        _end_now(fault.number)
    sys.__excepthook__(kind, fault, trace)
