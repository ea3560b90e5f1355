"""How a command that runs as a service is stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

__all__ = ["stop_on_signals"]

REPEATED_S = 0.5
"""A second signal within this time is the first one again, sent to the process and to its whole group."""


def stop_on_signals(ask_to_stop: Callable[[], object]) -> None:
    """Have the first SIGTERM or Ctrl-C ask; the second one ends the process, whatever it is waiting for."""
    asked_s = 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal asked_s
        if asked_s and time.monotonic() - asked_s >= REPEATED_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked_s = asked_s or time.monotonic()
        ask_to_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
