"""What connects a handle to its bus, and again when the bus was lost.

A bus is lost when its manager and its standby are both gone. The first that notices, a call or the thread that runs the
listeners, comes back: it starts the bus or finds it, and subscribes there all that the handle had subscribed. What was
unsettled is lost with the old bus, and that is said once. After a shutdown a handle does not start the bus again, but
comes back when somebody else has.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from eventbus_mp.client import sessions
from eventbus_mp.client.handle_state import PAUSE_FIRST_S, PAUSE_MAX_S, HandleState
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.client.hooks import Hooks
from eventbus_mp.client.instrumented import InstrumentedSession
from eventbus_mp.client.session import Session
from eventbus_mp.client.steps import Steps
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost, NoSuchBus
from eventbus_mp.lifecycle import FORK_MARK, imports_program, is_multiprocessing_child, notice_fork
from eventbus_mp.protocol import requests
from eventbus_mp.statistics import SubscriberKey

__all__ = ["BusHandle"]

log = logging.getLogger("eventbus_mp")

T = TypeVar("T")


class _Return(NamedTuple):
    """A handle that comes back: the thread that subscribes on the new session what there was on the lost one."""

    session: Session
    thread: int
    over: threading.Event


class BusHandle(HandleState[Session]):
    """The part of `EventBus` that has a session, and another one when that is lost."""

    _left_in_parent: tuple[str, ...] = ()
    """In a forked child that has not connected: the names of what its parent has subscribed."""

    def _begin(self) -> None:
        super()._begin()
        self._leaving = threading.Event()
        self._return: _Return | None = None
        self._get_ident = threading.get_ident
        """gevent replaces it, and what the lock and the event above are made of."""
        sessions.note_handle(self)

    def close(self) -> None:
        """Leave the bus: listeners stop, and unsettled deliveries go to other processes. Repeated, it does nothing.

        Blocks until the listener that is running has returned. Afterwards every call of this handle raises `BusClosed`.
        A signal handler may call it while its thread waits, for example for an inbox, and gets `UsageError` while its
        thread publishes or connects.

        Raises:
            EventBusError: There is no memory for what views show. The process stays connected until `close` is called
                again.
        """
        if self._session is not None:
            self._session.refuse_reentry()
        with self._lock.held():
            session, self._session, self._closed = self._session or self._leaves_later, None, True
        self._leaving.set()
        if session is not None:
            self._leaves_later = session
            sessions.close_session(session)
            self._leaves_later = None

    # --- the session ---

    def _live(self) -> Session:
        """The session; connects if there is none, or if it was lost. Raises as connecting does."""
        if not FORK_MARK[0]:
            notice_fork()
        session = self._session
        if session is None or (session.is_lost and self._comes_back(session)):
            return self._open(session)
        return session

    def _on_live(self, call: Callable[[Session], T]) -> T:
        """Make a call, and once more on the next session if the bus is lost meanwhile."""
        session = self._live()
        try:
            return call(session)
        except ManagerLost as error:
            return call(self._after_loss(session, error))

    def _run(self, make: Callable[[Session], Steps[T]]) -> T:
        """Do the steps that `make` gives for a session; once more on the next one if the bus is lost meanwhile."""
        return self._on_live(lambda session: session.connection.run(make(session)))

    def _made(self, make: Callable[[Session], T]) -> T:
        """Make what comes back with this handle when the bus was lost."""
        made = self._on_live(make)
        self._inboxes.add(made)
        return made

    def _ask(self, kind: type[requests.Request], *fields: Any) -> Any:
        return self._on_live(lambda session: session.connection.request(kind, *fields))

    def _after_loss(self, session: Session, error: ManagerLost) -> Session:
        """The session on which a call is made again that has ended with `error`.

        Raises:
            ManagerLost: `error`, if the bus was not lost by it, or this handle does not come back.
        """
        if not session.is_lost:
            raise error
        if not self._comes_back(session):
            self._tell_lost(session)
            raise error
        found = self._live()
        if found.is_lost:
            raise error
        return found

    def _open(self, lost: Session | None) -> Session:
        """Connect, in the place of a session that was lost, if there was one. It runs hooks: with no lock held."""
        if lost is not None:
            self._tell_lost(lost)
        elif self._session is None and self._get_ident is not threading.get_ident:
            self._begin()
        shared = None if self._observes else sessions.worker_session(self.name, self.config.run_dir)
        try:
            if shared is not None or not self._instruments:
                if self._instruments and not isinstance(shared, InstrumentedSession):
                    self._warn_of_pool()
                return self._connect(shared, None, lost)
            hooks = self._make_hooks()  # Two threads at once make them twice, and use one of them.
            return hooks.around("connect", partial(self._connect, None, hooks, lost), self.name)
        except NoSuchBus:
            if lost is None:
                raise
            return lost  # It was shut down, and nobody has started it again: its calls raise what they did.

    def _connect(self, shared: Session | None, hooks: Hooks | None, lost: Session | None) -> Session:
        with self._lock.held():
            if self._closed:
                raise self._was_closed()
            if self._session is not None and self._session is not lost:
                return self._session
            under_way = self._return
            if under_way is None:
                session = self._join(shared, hooks, lost)
                left, self._left_in_parent = self._left_in_parent, ()
        if under_way is not None:
            return self._await(under_way)
        if left and shared is None and not is_multiprocessing_child():
            self._warn_of_parent(left)
        if lost is not None:
            self._restore(session, lost)
        return session

    def _join(self, shared: Session | None, hooks: Hooks | None, lost: Session | None) -> Session:
        """Connect, with the lock held. One that comes back is not used before it is subscribed again."""
        starts = self._starts and (lost is None or not lost.connection.was_shut_down())
        open_session = sessions.opener_of(self.name)
        session = shared or open_session(self.name, self.config, hooks, observes=self._observes, starts=starts)
        if lost is not None:
            session.succeed(lost)
        session.after_loss = partial(_return_by_itself, weakref.ref(self))
        sessions.keep_session(self, session)
        try:
            # The config's topics are among them; a worker's session is shared, so its handle's own may be new.
            session.register_topics(self._topics)
            if self._required:
                session.require(self._required)
        except BaseException:
            sessions.close_session(session)
            raise
        if lost is None:
            self._use(session)
        else:
            self._return = _Return(session, threading.get_ident(), threading.Event())
        return session

    def _use(self, session: Session) -> None:
        self._session = session
        self._clock_ns = session.connection.transport.time_ns if sessions.is_in_process(self.name) else None

    def _await(self, under_way: _Return) -> Session:
        """The session, when it is subscribed again: what is published earlier would not reach this handle's own
        listeners. A hook of the thread that subscribes does not wait for itself."""
        if under_way.thread == threading.get_ident():
            return under_way.session
        under_way.over.wait()
        return self._live()

    def _restore(self, session: Session, lost: Session) -> None:
        """Subscribe what was subscribed. If that is interrupted, the next call begins again."""
        try:
            for spec in tuple(self._specs.values()):
                self._host_on(session, spec)
            for inbox in tuple(self._inboxes):
                inbox._resume(session)
        except BaseException:
            self._end_return(None)
            sessions.let_go(session)
            raise
        self._end_return(session)
        sessions.let_go(lost)
        log.warning("bus %r is back: manager %d", self.name, session.connection.manager_pid)

    def _end_return(self, session: Session | None) -> None:
        """It has come back with this session; None: it has not."""
        with self._lock.held():
            under_way, self._return = self._return, None
            if session is not None and not self._closed:
                self._use(session)
        if under_way is not None:
            under_way.over.set()
        if session is not None and self._closed:
            sessions.close_session(session)
            raise self._was_closed()

    def _was_closed(self) -> BusClosed:
        return BusClosed(f"this handle of bus {self.name!r} was closed; open another EventBus")

    def _host(self, spec: HandlerSpec) -> SubscriberKey:
        if imports_program():
            return spec.key
        self._left_in_parent = ()  # It subscribes for itself.
        key = self._on_live(partial(self._host_on, spec=spec))
        self._keep(spec)
        return key

    def _warn_of_parent(self, names: tuple[str, ...]) -> None:
        """A server's worker is used as its master was: events go to the master, and nothing else says so."""
        log.warning(
            "bus %r: this process was forked after %s had been subscribed, so those events go to its parent and not "
            "here; subscribe in each worker (gunicorn --preload: in post_worker_init; uWSGI: in a @postfork function)",
            self.name,
            ", ".join(map(repr, names)),
        )

    def _warn_of_pool(self) -> None:
        """A worker's handles share its session, and this one's instruments would be missed in silence."""
        log.warning(
            "bus %r: this handle's instruments are not used in this worker, whose handles share the connection of its "
            "pool, and the pool's handle has none; give them to the handle that the pool is made with",
            self.name,
        )

    def _host_on(self, session: Session, spec: HandlerSpec) -> SubscriberKey:
        session.keeps = self  # A listener goes on when the user has let go of its handle.
        return spec.host(session)

    # --- what was lost ---

    def _return_by_itself(self, lost: Session) -> None:
        """In the thread that ran the listeners: come back although nobody calls."""
        self._tell_lost(lost)
        pause_s, said = PAUSE_FIRST_S, False
        while self._session is lost and self._comes_back(lost) and not self._leaving.is_set():
            try:
                self._live()
            except EventBusError as error:
                if not said:
                    log.error("bus %r is tried again and again: %s", self.name, error)
                said = True
            if self._session is not lost or self._leaving.wait(pause_s):
                return
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    # --- for `sessions` ---

    def _abandon(self) -> None:
        """In a forked child: start again on the next use."""
        names = tuple(spec.key.name for spec in self._specs.values()) or self._left_in_parent
        self._begin()
        self._left_in_parent = names

    def _end(self) -> None:
        """The process ends: do not come back by itself."""
        self._leaving.set()

    def _let_go(self) -> None:
        """Be as if never used; what was subscribed is forgotten."""
        session, self._session, self._hooks, self._specs = self._session, None, None, {}
        self._clock_ns = None
        if session is not None:
            sessions.close_session(session)

    def _set_aside(self, changes: dict[str, Any]) -> Callable[[], None]:
        """Leave the session as it is, and subscribe the same on another one; what goes back to the first."""
        session, hooks, specs, config = self._session, self._hooks, dict(self._specs), self.config
        self._session = self._hooks = None
        self.config = replace(config, **changes)

        def go_back() -> None:
            self._let_go()
            self._session, self._hooks, self._specs, self.config = session, hooks, specs, config

        try:
            for spec in specs.values():
                self._host_on(self._live(), spec)
        except BaseException:
            go_back()
            raise
        return go_back


def _return_by_itself(handle: Callable[[], BusHandle | None], lost: Session) -> None:
    found = handle()
    if found is not None:
        found._return_by_itself(lost)
