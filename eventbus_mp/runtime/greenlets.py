"""Greenlets in the place of threads: what gevent and eventlet make of a process by patching the standard library.

The bus can do with greenlets if `threading` and `select` were both replaced, and with threads if neither was. Anything
else is refused with one sentence: a call that waits would stop all greenlets, or take one for another.
"""

from __future__ import annotations

import select
import sys
import threading

from eventbus_mp.errors import UsageError

__all__ = ["check_patches", "uses_greenlets"]

_BUILTIN = type(len)
_EVENTLET = (
    "eventbus_mp does not work under eventlet, which has patched this process and has no select.poll; use threads or "
    "processes instead of eventlet, or gevent with monkey.patch_all()"
)
_BY_HALVES = (
    "gevent has replaced {done} in this process but not {left}; the bus needs both or neither: call "
    "gevent.monkey.patch_all(), without leaving out `thread` or `select`"
)


def uses_greenlets() -> bool:
    """Whether what looks like a thread in this process is a greenlet."""
    return not isinstance(threading.get_ident, _BUILTIN)


def check_patches() -> None:
    """Check that the bus can live with what this process has patched. Never blocks.

    Raises:
        UsageError: It cannot; the text says what to do.
    """
    waits = getattr(select, "poll", None)
    if waits is None or _is_eventlet():
        raise UsageError(_EVENTLET)
    waits_for_greenlets = not isinstance(waits, _BUILTIN)
    if uses_greenlets() != waits_for_greenlets:
        done, left = ("select", "threads") if waits_for_greenlets else ("threads", "select")
        raise UsageError(_BY_HALVES.format(done=done, left=left))


def _is_eventlet() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and any(map(patcher.is_monkey_patched, ("select", "thread")))
