"""What one process has open: its sessions, what becomes of them at a fork and at the end, and the worker's own.

Sessions are kept here and not only by their handles, so that one whose handle was dropped is still given up by a
forked child, and still says goodbye at exit. A dropped handle that left neither a listener nor an open view closes
its session.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable
from functools import cache
from typing import Protocol

from eventbus_mp.client.session import Session

__all__ = ["at_end_of_child", "become_worker", "close_session", "imports_program", "keep_session", "worker_session"]

PACKAGES = ("multiprocessing", "multiprocess")

EXIT_PATIENCE_S = 5.0
"""How long a listener may go on when the process wants to end."""


class Handle(Protocol):
    """What holds a session and must begin anew in a forked child."""

    def abandon(self) -> None: ...


_handles: weakref.WeakSet[Handle] = weakref.WeakSet()
_sessions: set[Session] = set()
_workers: dict[tuple[str, str | None], Session] = {}
"""In a worker process, its connection: (bus, run directory) -> session."""


def become_worker(session: Session) -> None:
    """All handles of this session's bus, in this process, use it from now on."""
    _workers[session.connection.bus, session.connection.config.run_dir] = session


def worker_session(bus: str, run_dir: str | None) -> Session | None:
    return _workers.get((bus, run_dir))


def keep_session(handle: Handle, session: Session) -> None:
    """Note that `handle` holds `session`, its own or the worker's."""
    _handles.add(handle)
    if session not in _workers.values():
        _say_goodbye_at_the_end(os.getpid())
        _sessions.add(session)
        weakref.finalize(handle, _let_go, session).atexit = False


def close_session(session: Session) -> None:
    """Close it, unless it is the worker's, which ends with the worker."""
    if session in _sessions:
        _sessions.discard(session)
        session.close()


def _let_go(session: Session) -> None:
    """Nobody has the handle any more; listeners and views may go on without it."""
    if not session.endpoints() and not session.leases.open:
        close_session(session)


def _after_fork_in_child() -> None:
    for session in (*_sessions, *_workers.values()):
        session.abandon()
    _sessions.clear()
    _workers.clear()
    for handle in tuple(_handles):
        handle.abandon()


def _close_all() -> None:
    for session in tuple(_sessions):
        _sessions.discard(session)
        session.close(EXIT_PATIENCE_S)


def imports_program() -> bool:
    """Whether this is a child of multiprocessing, or its fork server, that is only importing the program again."""
    modules = [sys.modules.get(f"{package}.process") for package in PACKAGES]
    return any(getattr(module.current_process(), "_inheriting", False) for module in modules if module is not None)


@cache
def _say_goodbye_at_the_end(pid: int) -> None:
    """Once a process. To the manager it would be a crash, and what the child had in hand suspect."""
    at_end_of_child(_close_all, 0)


def at_end_of_child(call: Callable[[], None], priority: int) -> None:
    """Call it at the end of this process if it is a child of multiprocessing, or of multiprocess: without `atexit`.

    Those of a higher priority are called first.
    """
    for package in PACKAGES:
        process, util = sys.modules.get(f"{package}.process"), sys.modules.get(f"{package}.util")
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, call, exitpriority=priority)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
