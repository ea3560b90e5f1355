"""The sessions that one process has open, and what becomes of them when it is forked and when it ends.

Sessions are kept here as well as by their handles: a forked child has to give up those whose handles were dropped, and
the end of the process has to say goodbye for them. When a handle is dropped and left neither a listener nor an open
view, its session is closed.
"""

from __future__ import annotations

import weakref
from typing import Protocol

from eventbus_mp.client.session import Session
from eventbus_mp.config import BusConfig
from eventbus_mp.lifecycle import ExitStage, ForkStage, after_fork_in_child, at_exit, run_exit_hooks_in_child

__all__ = ["Handle", "close_session", "connect_worker", "keep_session", "worker_session"]

EXIT_PATIENCE_S = 5.0
"""How long a listener may continue when the process wants to end."""


class Handle(Protocol):
    """What holds a session, and has to start again in a forked child."""

    def _abandon(self) -> None: ...


_handles: weakref.WeakSet[Handle] = weakref.WeakSet()
_sessions: set[Session] = set()
_workers: dict[tuple[str, str | None], Session] = {}
"""In a worker process, its connection: (bus, run directory) -> session."""


def connect_worker(bus: str, config: BusConfig) -> Session:
    """Connect this process as a worker of a pool: the session's listeners run in `session.loop.run`, on its thread.

    From now on all handles of this bus in this process share the session. What a handler settles must come from the
    link that holds the delivery, and the handler has a handle of its own, which it brought from the pool's parent.
    Blocks like every connecting.

    Raises:
        ManagerLost: No manager could be reached or started in time.
    """
    session = Session.open(bus, config, threaded=False)
    session.register_topics(config.topics)
    _workers[bus, config.run_dir] = session
    return session


def worker_session(bus: str, run_dir: str | None) -> Session | None:
    """The session that this process has as a worker of that bus; None if it is no worker of it."""
    return _workers.get((bus, run_dir))


def keep_session(handle: Handle, session: Session) -> None:
    """Note that `handle` holds `session`, which is its own or the worker's."""
    _handles.add(handle)
    if session not in _workers.values():
        run_exit_hooks_in_child()
        _sessions.add(session)
        weakref.finalize(handle, _release, session).atexit = False


def close_session(session: Session) -> None:
    """Close it, unless it is the worker's, which ends with the worker. Repeated, it does nothing."""
    if session in _sessions:
        _sessions.discard(session)
        session.close()


def _release(session: Session) -> None:
    """The handle is gone. Listeners and views may continue without it; if there are none, nobody needs the session."""
    if not session.endpoints() and not session.leases.open:
        close_session(session)


def _abandon_all() -> None:
    for session in (*_sessions, *_workers.values()):
        session.abandon()
    _sessions.clear()
    _workers.clear()
    for handle in tuple(_handles):
        handle._abandon()


def _close_all() -> None:
    for session in tuple(_sessions):
        _sessions.discard(session)
        session.close(EXIT_PATIENCE_S)


after_fork_in_child(ForkStage.SESSIONS, _abandon_all)
at_exit(ExitStage.SESSIONS, _close_all)
