"""What connects a handle to its bus in an event loop, and again when the bus was lost: the twin of `BusHandle`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from eventbus_mp.aio.instrumented import make_loop_session
from eventbus_mp.aio.loops import Loop, Task
from eventbus_mp.aio.running import running_loop
from eventbus_mp.aio.session import LoopSession
from eventbus_mp.aio.transport import LoopTransport
from eventbus_mp.client import sessions
from eventbus_mp.client.connect import Link as PipeLink
from eventbus_mp.client.connect import connection_over, open_link
from eventbus_mp.client.handle_state import PAUSE_FIRST_S, PAUSE_MAX_S, HandleState
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.client.hooks import Hooks
from eventbus_mp.client.steps import Steps
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost, NoSuchBus, UsageError
from eventbus_mp.lifecycle import FORK_MARK, notice_fork
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.protocol import requests
from eventbus_mp.statistics import SubscriberKey

__all__ = ["LoopHandle"]

log = logging.getLogger("eventbus_mp")

T = TypeVar("T")


class LoopHandle(HandleState[LoopSession]):
    """The part of `aio.EventBus` that has a session, and another one when that is lost. See `HandleState`."""

    def _begin(self) -> None:
        super()._begin()
        sessions.note_handle(self)
        self._loop: Loop | None = None
        """The one that this handle connects in."""
        self._unhosted: list[HandlerSpec] = []
        """What was decorated and is not subscribed yet: the next call does it."""
        self._returning: Task | None = None

    # --- the session ---

    async def _live(self) -> LoopSession:
        """The session; connects if there is none, or if it was lost, and subscribes what was decorated meanwhile."""
        if not FORK_MARK[0]:
            notice_fork()
        session = self._session
        if session is None or (session.is_lost and self._comes_back(session)):
            session = await self._open(session)
        session.link.check_loop()
        if self._unhosted:
            await self._subscribe_decorated(session)
        return session

    async def _subscribe_decorated(self, session: LoopSession) -> None:
        """Subscribe what was decorated. One task does it, and those that come meanwhile wait for it."""
        async with session.transport.loop.opening:
            while self._unhosted:
                spec = self._unhosted[0]
                try:
                    await self._subscribe(session, spec)
                except UsageError:  # It never can be. After any other error the next call tries again.
                    self._unhosted.remove(spec)
                    self._forget(spec.key)
                    raise
                self._unhosted.remove(spec)

    async def _on_live(self, call: Callable[[LoopSession], Awaitable[T]]) -> T:
        """Make a call, and once more on the next session if the bus is lost meanwhile."""
        session = await self._live()
        try:
            return await call(session)
        except ManagerLost as error:
            return await call(await self._after_loss(session, error))

    async def _run(self, make: Callable[[LoopSession], Steps[T]]) -> T:
        """Do the steps that `make` gives for a session; once more on the next one if the bus is lost meanwhile."""
        return await self._on_live(lambda session: session.link.run(make(session)))

    async def _ask(self, kind: type[requests.Request], *fields: Any) -> Any:
        return await self._on_live(lambda session: session.link.request(kind, *fields))

    async def _after_loss(self, session: LoopSession, error: ManagerLost) -> LoopSession:
        """The session on which a call is made again that has ended with `error`.

        Raises:
            ManagerLost: `error`, if the bus was not lost by it, or this handle does not come back.
        """
        if not session.is_lost:
            raise error
        if not self._comes_back(session):
            self._tell_lost(session)
            raise error
        found = await self._live()
        if found.is_lost:
            raise error
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed(f"this handle of bus {self.name!r} was closed; open another EventBus")

    def _loop_here(self) -> Loop:
        """The loop that this call runs in, to connect in it."""
        loop = self._loop
        if loop is None or not loop.is_here():
            loop = running_loop()
            if loop.is_structured:
                raise UsageError(
                    f"under trio, this handle of bus {self.name!r} is used inside `async with EventBus(...) as bus:`, "
                    "the block that its tasks live in; its first call came from outside"
                )
            # What the other one, if there was one, had under way has ended with it.
            self._loop, self._returning = loop, None
        return loop

    async def _enter(self) -> None:
        """An `async with` block begins."""
        self._check_open()
        if self._session is None and (self._loop is None or not self._loop.is_here()):
            self._loop = running_loop()
        assert self._loop is not None
        await self._loop.enter()

    async def _leave(self) -> None:
        """The block ends, after `_close`, or because it could not connect."""
        if self._loop is not None:
            await self._loop.leave()

    async def _open(self, lost: LoopSession | None) -> LoopSession:
        """Connect, in the place of a session that was lost, if there was one; one task does it for all."""
        self._check_open()
        async with self._loop_here().opening:
            session = self._session
            if session is not None and session is not lost:
                return session
            self._check_open()
            if lost is not None:
                self._tell_lost(lost)
            hooks = self._make_hooks() if self._instruments else None
            try:
                with hooks.bracket("connect", self.name) if hooks is not None else nullcontext():
                    session = await self._begin_session(lost, hooks)
            except NoSuchBus:
                if lost is None:
                    raise
                return lost  # It was shut down, and nobody has started it again: its calls raise what they did.
            self._session = session
        if lost is not None:
            sessions.let_go(lost)
            log.warning("bus %r is back: manager %d", self.name, session.connection.manager_pid)
        return session

    async def _begin_session(self, lost: LoopSession | None, hooks: Hooks | None) -> LoopSession:
        session = await self._connect(lost, hooks)
        try:
            await self._set_up(session, lost)
        except BaseException:
            sessions.close_session(session)
            raise
        return session

    async def _connect(self, lost: LoopSession | None, hooks: Hooks | None) -> LoopSession:
        starts = self._starts and (lost is None or not lost.connection.was_shut_down())
        loop = self._loop_here()
        if sessions.is_in_process(self.name):
            open_it = sessions.opener_of(self.name)
            session = open_it(self.name, self.config, hooks, observes=self._observes, starts=starts, loop=loop)
            assert isinstance(session, LoopSession)
            self._clock_ns = session.connection.transport.time_ns
        else:
            session = await self._connect_apart(loop, hooks, starts=starts)
        if lost is not None:
            session.identity = lost.identity
        session.connection.on_lost = partial(_note_lost, weakref.ref(self), session)
        sessions.keep_session(self, session)
        return session

    async def _connect_apart(self, loop: Loop, hooks: Hooks | None, *, starts: bool) -> LoopSession:
        link = await _apart(loop, partial(open_link, self.name, self.config, starts=starts), _drop)
        transport = LoopTransport(loop, link.incoming, link.outgoing)
        connection = connection_over(link, self.name, self.config, transport)
        session = make_loop_session(connection, SHARED_MEMORY, transport, hooks)
        if self.config.show_stacks:
            session.answer_for_stacks()
        if self._observes:
            session.observe()
        return session

    async def _set_up(self, session: LoopSession, lost: LoopSession | None) -> None:
        """Register topics, and subscribe all that was subscribed."""
        await session.link.run(session.registering(self._topics))
        if self._required:
            session.require(self._required)
        self._unhosted.clear()
        for spec in tuple(self._specs.values()):
            await self._subscribe(session, spec)
        if lost is not None:
            for inbox in tuple(self._inboxes):
                await inbox._resume(session)

    async def _subscribe(self, session: LoopSession, spec: HandlerSpec) -> SubscriberKey:
        session.keeps = self  # A listener goes on when the user has let go of its handle.
        return await session.link.run(session.subscribing(spec))

    # --- what was lost ---

    def _note_lost(self, session: LoopSession) -> None:
        """The manager is gone. If something is subscribed, come back although nobody calls."""
        if (self._specs or self._inboxes) and self._comes_back(session) and not self._closed:
            work, name = partial(self._return_by_itself, session), f"eventbus_mp-return-{self.name}"
            self._returning = session.transport.loop.spawn(work, name, _ignore)

    async def _return_by_itself(self, lost: LoopSession) -> None:
        self._tell_lost(lost)
        pause_s, said = PAUSE_FIRST_S, False
        while self._session is lost and self._comes_back(lost):
            try:
                await self._live()
            except EventBusError as error:
                if not said:
                    log.error("bus %r is tried again and again: %s", self.name, error)
                said = True
            if self._session is lost:
                await lost.transport.loop.pause(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    # --- the end ---

    async def _close(self, *, cancels: bool) -> None:
        """Leave the bus, after the handlers that run, or with these cancelled."""
        session = self._session or self._leaves_later
        runs = session is not None and not session.transport.is_deserted  # else: its handlers never come to an end
        if session is not None and runs:
            session.link.check_loop()
        self._session, self._leaves_later, self._closed = None, session, True
        returning, self._returning = self._returning, None
        loop = self._loop
        if returning is not None and loop is not None and not loop.is_closed() and returning is not loop.current_task():
            returning.cancel()
        if session is None:
            return
        try:
            if runs:
                await session.leave(cancels=cancels)
        finally:  # Cancelled, it closes all the same, and what the handlers had goes back.
            sessions.close_session(session)
            self._leaves_later = None

    # --- for `sessions` ---

    def _abandon(self) -> None:
        """In a forked child: start again on the next use."""
        self._begin()

    def _end(self) -> None:
        """The process ends: do not come back by itself."""
        self._closed = True

    def _set_aside(self, changes: dict[str, Any]) -> Callable[[], None]:
        """Leave the session as it is, and connect elsewhere in the next loop; what goes back to the first."""
        state = self._session, self._hooks, self._loop, dict(self._specs), list(self._unhosted), self.config
        self._session = self._hooks = self._loop = None
        self.config = replace(self.config, **changes)

        def go_back() -> None:
            self._let_go()
            self._session, self._hooks, self._loop, self._specs, self._unhosted, self.config = state

        return go_back

    def _let_go(self) -> None:
        """Be as if never used; what was subscribed is forgotten."""
        self._leave_loop()
        self._specs, self._unhosted = {}, []

    def _leave_loop(self) -> None:
        """The loop of a test has ended: subscribe the same in the next one."""
        session, self._session, self._hooks, self._loop = self._session, None, None, None
        self._clock_ns, self._unhosted = None, list(self._specs.values())
        if session is not None:
            sessions.close_session(session)


def _note_lost(handle: Callable[[], LoopHandle | None], lost: LoopSession) -> None:
    found = handle()
    lost.is_lost = True
    if found is not None:
        found._note_lost(lost)


def _ignore(task: Task) -> None:
    """It ends when the handle is back."""


async def _apart(loop: Loop, call: Callable[[], T], drop: Callable[[Future[T]], object]) -> T:
    """Make a call that blocks in a thread of its own; if this is cancelled, `drop` gets the result."""
    thread = ThreadPoolExecutor(1, "eventbus_mp-connect")
    future = thread.submit(call)
    thread.shutdown(wait=False)  # It ends with the call.
    try:
        return await loop.result_of(future)
    except BaseException as error:
        if loop.is_cancellation(error):
            future.add_done_callback(drop)
        raise


def _drop(opened: Future[PipeLink]) -> None:
    """Nobody wants this link any more."""
    if opened.cancelled():
        return
    with suppress(EventBusError):  # It was in vain.
        opened.result().close()
