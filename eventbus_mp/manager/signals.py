"""The signals of a manager and its standby: which ask it to end, and that nothing of its starter's settings stays.

A process inherits what its parent has ignored or blocked, even over `exec`: a program that takes SIGTERM by `sigwait`
would have a manager that never hears it, and one that ignores SIGCHLD a manager that cannot wait for its standby.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["END_SIGNALS", "ignore_end_signals", "reset_signals", "restore_signals", "set_signals"]

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""A service may be configured to stop its processes by any of these. A Ctrl-C does not reach a manager, which has a
session of its own."""
_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""By these, services tell all their processes to load their settings or to open their logs again."""

_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores them itself: a write then raises."""

Handlers = dict[int, Any]


def reset_signals() -> None:
    """Undo what this process has inherited: every signal has its default action, and none is blocked."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in _PYTHONS_OWN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def set_signals(on_end_asked: Callable[[int, FrameType | None], None]) -> None:
    """Have `on_end_asked` called when this manager is asked to end, and survive what is not meant for it."""
    for number in END_SIGNALS:
        signal.signal(number, on_end_asked)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)


def ignore_end_signals() -> Handlers:
    """In a standby: leave it to the manager. `restore_signals` takes what this returns."""
    return {number: signal.signal(number, signal.SIG_IGN) for number in END_SIGNALS}


def restore_signals(handlers: Handlers) -> None:
    """The standby is the manager now."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
