"""The sessions that one process has open, and what becomes of them when it is forked and when it ends.

Sessions are kept here as well as by their handles: a forked child has to give up those whose handles were dropped, and
the end of the process has to say goodbye for them. When a handle is dropped and left neither a listener nor an open
view, its session is closed.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from eventbus_mp.client.crews import Threads
from eventbus_mp.client.hooks import Hooks, InstrumentSource
from eventbus_mp.client.instrumented import open_session
from eventbus_mp.client.session import Session
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import EventBusError
from eventbus_mp.lifecycle import (
    FORK_MARK,
    ExitStage,
    ForkStage,
    after_fork_in_child,
    around_fork,
    at_exit,
    before_os_exit,
    run_exit_hooks_in_child,
)
from eventbus_mp.memory.page_copies import PageCopies, Shown
from eventbus_mp.protocol.requests import Introduce

__all__ = [
    "Handle",
    "become_worker",
    "close_session",
    "disregard",
    "handles_of",
    "is_in_process",
    "is_workers",
    "keep_session",
    "let_go",
    "note_handle",
    "opener_of",
    "standing_in",
    "worker_session",
]

log = logging.getLogger("eventbus_mp")


class Handle(Protocol):
    """What holds a session, and has to start again in a forked child."""

    name: str
    _closed: bool

    def _set_aside(self, changes: dict[str, Any]) -> Callable[[], None]: ...

    def _let_go(self) -> None: ...

    def _abandon(self) -> None: ...

    def _end(self) -> None: ...


Opener = Callable[..., Session]
"""What connects a handle to its bus: `open_session`, or what takes the same arguments."""
END_PATIENCE_S = 1.0
"""How long a thread without a handler may take to end."""

_handles: weakref.WeakSet[Handle] = weakref.WeakSet()
_sessions: set[Session] = set()
_workers: dict[tuple[str, str | None], Session] = {}
"""In a worker process, its connection: (bus, run directory) -> session."""
_makers: dict[tuple[str, str | None], Callable[[], Session]] = {}
"""In a worker process that has not connected yet: what opens that session."""
_stand_ins: dict[str, list[Opener]] = {}
"""Bus -> what its handles connect to in its place; the last one counts."""
_copies: dict[int, PageCopies] = {}
"""Thread that is forking -> what it has copied for the child."""


def become_worker(
    bus: str, config: BusConfig, topics: tuple[str, ...], instruments: Iterable[InstrumentSource] = ()
) -> None:
    """Make this process a worker of a pool: listeners without threads of their own run in `session.loop.run`, on the
    main thread.

    From now on all handles of this bus in this process share one session, which `worker_session` opens. What a handler
    settles must come from the link that holds the delivery, and the handler has a handle of its own, which it brought
    from the pool's parent. `topics` are registered: the worker may be the first process of a bus that was lost.
    """
    _makers[bus, config.run_dir] = partial(_open_worker_session, bus, config, topics, tuple(instruments))


def worker_session(bus: str, run_dir: str | None) -> Session | None:
    """The session that this process has as a worker of that bus; None if it is not a worker of it.

    The first call connects, and blocks like every connecting. It runs hooks: call it with no lock held.

    Raises:
        ManagerLost: No manager could be reached or started in time.
    """
    key = bus, run_dir
    make = _makers.pop(key, None)
    if make is not None:
        _workers[key] = make()
        before_os_exit(_hand_back)
    return _workers.get(key)


def _open_worker_session(
    bus: str, config: BusConfig, topics: tuple[str, ...], instruments: tuple[InstrumentSource, ...]
) -> Session:
    hooks = Hooks(instruments) if instruments else None
    open_it = partial(open_session, bus, config, hooks, threads=Threads.BUT_SHARED)
    session = open_it() if hooks is None else hooks.around("connect", open_it, bus)
    session.connection.send_oneway(Introduce, "worker")
    session.register_topics(topics)
    return session


def opener_of(bus: str) -> Opener:
    """What connects to the bus in this process."""
    found = _stand_ins.get(bus)
    return found[-1] if found else open_session


def is_in_process(bus: str) -> bool:
    """Whether a bus of this process, of a test, stands in for the one of this name: there is no manager's process."""
    return opener_of(bus) is not open_session


@contextmanager
def standing_in(bus: str, opener: Opener = open_session, **changes: Any) -> Iterator[Callable[[], None]]:
    """Within the block, every handle of the bus in this process connects by `opener`, for a test.

    One that is connected leaves that as it is for the time of the block, and subscribes by `opener` what it had
    subscribed. After the block all is as before; a handle that was made in the block is as if it had not been used.

    Args:
        bus: Its name.
        opener: What connects.
        changes: Fields of `BusConfig` for the handles that there are.

    Yields:
        A function that puts back these handles already.
    """
    stack = _stand_ins.setdefault(bus, [])
    stack.append(opener)
    with ExitStack() as end, ExitStack() as undo:
        end.callback(stack.remove, opener)
        before = handles_of(bus)
        for handle in before:
            undo.callback(handle._set_aside(changes))
        try:
            yield undo.close
        finally:
            for handle in tuple(_handles):
                if handle.name == bus and handle not in before:
                    handle._let_go()


def handles_of(bus: str) -> list[Handle]:
    """The handles of the bus in this process that are not closed."""
    return [handle for handle in tuple(_handles) if handle.name == bus and not handle._closed]


def note_handle(handle: Handle) -> None:
    """There is a handle, which has not been used yet."""
    _handles.add(handle)


def disregard(handle: Handle) -> None:
    """A bus of its own has this handle: it is not moved by `standing_in`, and neither a fork nor the end concern it."""
    _handles.discard(handle)


def keep_session(handle: Handle, session: Session) -> None:
    """Note that `handle` holds `session`, which is its own or the worker's."""
    if session not in _workers.values():
        run_exit_hooks_in_child()
        before_os_exit(_hand_back)
        _sessions.add(session)
        # It refers to the session, whose handlers may refer to the handle: it has to go with the session.
        session.finalizer = weakref.finalize(handle, _release, session)
        session.finalizer.atexit = False


def close_session(session: Session) -> None:
    """Close it, unless it is the worker's, which ends with the worker. Repeated, it does nothing.

    Raises:
        EventBusError: There is no memory for what its views show; it can be tried again.
    """
    if session in _sessions:
        _sessions.discard(session)
        try:
            session.close()
        except EventBusError:
            _sessions.add(session)
            raise


def let_go(session: Session) -> None:
    """Give up one whose bus was lost and whose handle has another one. Repeated, it does nothing."""
    if session in _sessions:
        _sessions.discard(session)
        session.let_go()


def is_workers(session: Session) -> bool:
    """Whether it is the session of this process as a worker."""
    return session in _workers.values()


def _release(session: Session) -> None:
    """The handle is gone. Listeners and views may continue without it; if there are none, nobody needs the session."""
    if not FORK_MARK[0]:
        return  # It is the parent's.
    if not session.endpoints() and not session.leases.open:
        close_session(session)


def _copy_views() -> None:
    """Before a fork: the child has nobody who keeps the memory for its views, and the parent may let go of it before
    the child has done anything."""
    shown = [each for session in (*_sessions, *_workers.values()) for each in session.leases.shown()]
    if shown:
        try:
            _copies[get_ident()] = PageCopies(shown)
        except OSError as error:
            log.error("what views show cannot be copied before a fork: %s", error)


def _drop_copies() -> None:
    copies = _copies.pop(get_ident(), None)
    if copies is not None:
        copies.drop()


def _abandon_all() -> None:
    kept = _put_copies_in_place()
    for session in (*_sessions, *_workers.values()):
        try:
            session.abandon(kept)
        except OSError as error:
            log.error("what views of the parent show may change in this child: %s", error)
    _sessions.clear()
    _workers.clear()
    _makers.clear()
    for handle in tuple(_handles):
        handle._abandon()


def _put_copies_in_place() -> list[Shown]:
    """What was copied for this child shows the copies; and what that is."""
    copies = _copies.pop(get_ident(), None)
    while _copies:  # For the children of other threads.
        _copies.popitem()[1].drop()
    if copies is None:
        return []
    kept = list(copies.shown)
    try:
        copies.put_in_place()
    except OSError as error:
        log.error("what views of the parent show may change in this child: %s", error)
    return kept


def _close_all() -> None:
    for handle in tuple(_handles):
        handle._end()
    for session in tuple(_sessions):
        _sessions.discard(session)
        patience_s = session.connection.config.exit_timeout_s
        for name in session.close(patience_s):
            log.error(
                "bus %r: the handler of %s still runs after exit_timeout_s, %g s, and ends with its process; "
                "its event goes to another one",
                session.connection.bus,
                name,
                patience_s,
            )


def _hand_back() -> None:
    """The process ends by `os._exit(0)`: what it has goes to others, unless that may be what ends it.

    In the middle of a handler it counts as a crash, or an event that ends its process would come again for ever.
    """
    sessions = (*_sessions, *_workers.values())
    if any(session.running_handlers for session in sessions):
        return
    for handle in tuple(_handles):
        handle._end()
    for session in sessions:
        with suppress(EventBusError):  # The bus has ended, or this thread is in the middle of one of its calls.
            session.close(END_PATIENCE_S)


around_fork(_copy_views, _drop_copies)
after_fork_in_child(ForkStage.SESSIONS, _abandon_all)
at_exit(ExitStage.SESSIONS, _close_all)
