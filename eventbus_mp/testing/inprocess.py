"""A whole bus in one thread: the manager's core and executor, and any number of clients, under a clock that a test
holds.

Everything is the real thing but three ports: frames go through lists and not through pipes (`InProcessTransport`),
payloads lie in plain memory (`HeapStore`), and time is a `ManualClock`. What would be other processes and threads is
done while a client waits, one step at a time and always in the same order, so the same calls always give the same run.

When nothing is left to do, the clock jumps to what is due next (trio's `MockClock` calls that autojump): a wait of a
minute takes no time. A wait that nothing can end is an error, and not a test that hangs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from threading import get_ident
from typing import Any

from eventbus_mp.aio.instrumented import make_loop_session
from eventbus_mp.aio.loops import Loop
from eventbus_mp.client import sessions
from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.crews import Threads
from eventbus_mp.client.handler_loop import HandlerLoop
from eventbus_mp.client.hooks import Hooks
from eventbus_mp.client.instrumented import make_session
from eventbus_mp.client.session import Session
from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.errors import EventBusError, NoSuchBus, ProtocolError, UsageError
from eventbus_mp.geometry import shared_span_bytes
from eventbus_mp.instrument import Instrument
from eventbus_mp.manager.executor import EffectExecutor
from eventbus_mp.memory.heap import HeapStore
from eventbus_mp.protocol.client_events import ManagerChanged, pack_client_event
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.messages import (
    SPAN_CANCELLED,
    LinkLost,
    LinkOpened,
    ManagerReplaced,
    Message,
    SpanWanted,
    TimePassed,
)
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.testing.clock import ManualClock
from eventbus_mp.testing.loop import TestLoop
from eventbus_mp.testing.transport import InLoopTransport, InProcessTransport, LaterInProcess

__all__ = ["SETTINGS", "InProcessBus"]

log = logging.getLogger("eventbus_mp.manager")

# A client whose link has ended cannot come back by itself: it would look for a manager's process.
SETTINGS = {"memory_bytes_max": 16 << 20, "check_invariants": True, "reconnect": False}
PREFIX = "in-process-"
STEPS_MAX = 100_000
"""More than this at one moment has no end. A step is a message, a read, or all that is pending for a handler."""


class InProcessBus:
    """The manager's side, and what drives everything.

    Args:
        name: The bus's name.
        config: The settings; None: those of a test, and `settings`.
        clock: The time; None: a new one.
        store: Where payloads lie; None: as much plain memory as is asked for.
        settings: Fields of `BusConfig`; invariants are checked after every message unless they say otherwise.
    """

    def __init__(
        self,
        name: str = "test",
        *,
        config: BusConfig | None = None,
        clock: ManualClock | None = None,
        store: HeapStore | None = None,
        **settings: Any,
    ) -> None:
        self.name = name
        self.config = config or BusConfig(**{**SETTINGS, **settings})
        self.clock = clock or ManualClock()
        self.store = store or HeapStore()
        self.core = BusCore(self.config, self.clock.monotonic_ns())
        self.outgoing: deque[tuple[int, bytes]] = deque()
        """What clients have written and the manager has not read: (link, data), b"" for the end of a link."""
        self.after_step: deque[Callable[[], object]] = deque()
        """What `Transport.after_turn` was given."""
        self.manager_pid = os.getpid()
        self.owner = os.getpid(), get_ident()
        """The process and the thread that may use it."""
        self.late_calls: list[LaterInProcess] = []
        """One for each client."""
        self._executor = EffectExecutor(self.core, PREFIX, self, self.store)
        self._transports: dict[int, InProcessTransport] = {}
        self._decoders: dict[int, ManagerDecoder] = {}
        self._sessions: dict[int, Session] = {}
        self._link_serial = 0
        self._running: set[HandlerLoop] = set()
        """Those that are in the middle of something: they are not entered again."""
        self._held_orders: list[SpanWanted] | None = None
        """While memory plays full: what clients have ordered."""

    # --- clients ---

    def connect(self, *, hooks: Hooks | None = None, **settings: Any) -> Session:
        """A client of its own, as another process would be."""
        return self._connect(replace(self.config, **settings), hooks)

    def open(
        self,
        bus: str,
        config: BusConfig,
        hooks: Hooks | None,
        *,
        threads: Threads = Threads.ALL,
        observes: bool = False,
        starts: bool = True,
        loop: Loop | None = None,
    ) -> Session:
        """What `open_session` does, for handles of this bus; its listeners run in `step`, whatever `threads` says.

        With `loop`, it is a `LoopSession` of that loop, whose tasks run them.

        Raises:
            NoSuchBus: It was shut down.
            UsageError: The loop is none that drives this bus.
        """
        if loop is not None:
            running = asyncio.get_running_loop()
            if not isinstance(running, TestLoop) or running.world is not self:
                raise UsageError(
                    f"bus {bus!r} is a TestBus: an aio.EventBus uses it in the coroutine that TestBus.run is given"
                )
        if self.is_shut_down:
            raise NoSuchBus(f"bus {bus!r}, a TestBus, was shut down")
        session = self._connect(config, hooks, loop)
        if observes:
            session.observe()
        return session

    @property
    def is_shut_down(self) -> bool:
        """Whether a client has ended the bus."""
        return self._executor.is_stopping

    @property
    def sessions(self) -> list[Session]:
        """Those of the clients that are connected."""
        return list(self._sessions.values())

    def is_running(self, session: Session) -> bool:
        """Whether one of this client's handlers is being run."""
        return not self._running.isdisjoint(session.crews.loops)

    def _connect(self, config: BusConfig, hooks: Hooks | None, loop: Loop | None = None) -> Session:
        self._link_serial = number = self._link_serial + 1
        if loop is None:
            connection = self._link(config, InProcessTransport(self, number))
            session = make_session(connection, self.store, hooks, threads=Threads.NONE)
        else:
            transport = InLoopTransport(self, number, loop)
            session = make_loop_session(self._link(config, transport), self.store, transport, hooks)
        self._sessions[number] = session
        return session

    def _link(self, config: BusConfig, transport: InProcessTransport) -> Connection:
        number = transport.number
        self._transports[number], self._decoders[number] = transport, ManagerDecoder(number)
        memory_bytes_max = self.config.memory_bytes_max
        assert memory_bytes_max is not None
        span_bytes = shared_span_bytes(memory_bytes_max)
        welcome = Welcome(number, PREFIX, span_bytes, memory_bytes_max, 0, self.manager_pid)
        self._perform(LinkOpened(number, 1000 + number))
        return Connection(self.name, config, welcome, transport, lambda: "")

    def handle(
        self,
        topics: tuple[str, ...] = (),
        *,
        instruments: Sequence[Instrument] = (),
        require: Sequence[str] = (),
        **settings: Any,
    ) -> EventBus:
        """An `EventBus` with a client of its own."""
        bus = EventBus(self.name, topics, config=replace(self.config, **settings), instruments=instruments)
        session = self.connect(hooks=Hooks(instruments) if instruments else None, **settings)
        sessions.keep_session(bus, session)
        sessions.disregard(bus)
        session.register_topics(topics)
        if require:
            session.require(require)
        bus._session = session
        return bus

    def kill(self, session: Session) -> None:
        """The client's process dies: what it has written counts, and nothing more comes."""
        number = session.connection.welcome.link
        self.outgoing.append((number, b""))
        self._transports[number].end(EventBusError("this client was killed by the test"))

    def replace_manager(self, frames_kept: int = 0) -> None:
        """The manager dies and its standby goes on.

        Of the frames that each client has not read, the first `frames_kept` were in its pipe by then. The standby has
        read what the manager had read: it has the same core (core/bus.py, manager/takeover.py).
        """
        self.manager_pid += 1
        self._perform(ManagerReplaced(self.manager_pid))
        for transport in self._transports.values():
            frames = list(transport.incoming)
            transport.incoming.clear()
            transport.incoming.extend(frames[:frames_kept])
            transport.incoming.append((pack_client_event(ManagerChanged(self.manager_pid)), False))
            transport.incoming.extend(frame for frame in frames[frames_kept:] if frame[1])

    @contextmanager
    def full_memory(self) -> Iterator[None]:
        """Within the block nobody gets memory: what clients order is kept back, and what they have is taken away."""
        self._carry_all()
        for session in self.sessions:
            session.publisher.retire_spans()
        self._carry_all()
        held: list[SpanWanted] = []
        self._held_orders = held
        try:
            yield
        finally:
            self._held_orders = None
            for order in held:
                if order.link in self._decoders:
                    self._perform(order)

    # --- what drives it ---

    def step(self) -> bool:
        """Do the next thing that is to be done; False: there is nothing until time passes or somebody calls."""
        if self._carry():
            return True
        for session, loop in self._loops():
            if loop.has_work:
                self._run_handlers(session, loop)
                return True
        now_ns = self.clock.monotonic_ns()
        due_ns = self.core.next_due_ns()
        if due_ns is not None and due_ns <= now_ns and not self._executor.is_stopping:
            self._perform(TimePassed())
            return True
        for late in self.late_calls:
            if late.due_ns is not None and late.due_ns <= now_ns:
                late.due_ns = None
                with suppress(EventBusError):  # Its client was killed.
                    late.call()
                return True
        return False

    def _carry(self) -> bool:
        """Take the next message where it is going; False: there is none."""
        if self.after_step:
            self.after_step.popleft()()
            return True
        if self.outgoing:
            self._read(*self.outgoing.popleft())
            return True
        for transport in self._transports.values():
            if transport.incoming and not transport.ended:
                transport.read()
                return True
        return False

    def _carry_all(self) -> None:
        more = True
        while more:
            more = self._carry()

    def run(self) -> None:
        """Do all that is to be done at this moment.

        Raises:
            RuntimeError: That has no end.
        """
        for _ in range(STEPS_MAX):
            if not self.step():
                return
        raise RuntimeError(
            f"after {STEPS_MAX} steps there is still something to do at the same moment: does a handler publish, or "
            "raise Retry, without end?"
        )

    def jump(self, deadline_ns: int | None) -> bool:
        """Let time pass until something is due, at most to the deadline: False when that is reached.

        Raises:
            RuntimeError: Nothing will ever be due, and somebody waits without a limit.
        """
        due_ns = self._next_due_ns()
        if deadline_ns is not None and (due_ns is None or due_ns >= deadline_ns):
            self.clock.advance_to(deadline_ns)
            return False
        if due_ns is None:
            raise RuntimeError("this wait has no end: nobody has anything to do, and nothing is due")
        self.clock.advance_to(due_ns)
        return True

    def _next_due_ns(self) -> int | None:
        """When the manager has something to do, a report is due, or a batch that no client has run yet."""
        dues = [loop.due_ns for _, loop in self._loops()]
        core_ns = self.core.next_due_ns() if not self._executor.is_stopping else None
        late = [call.due_ns for call in self.late_calls]
        due_ns = min([*dues, *(due for due in (core_ns, *late) if due is not None)], default=inf)
        return None if due_ns == inf else int(due_ns)

    def _loops(self) -> list[tuple[Session, HandlerLoop]]:
        """Those that may run handlers at this moment, each with its client."""
        sessions = [session for session in self._sessions.values() if not session.connection.lost]
        return [(session, loop) for session in sessions for loop in session.crews.loops if loop not in self._running]

    def _run_handlers(self, session: Session, loop: HandlerLoop) -> None:
        self._running.add(loop)
        try:
            loop.run_pending()
        except EventBusError:
            if not session.connection.lost:
                raise
            # The test has killed this client in the middle of its handler.
        finally:
            self._running.discard(loop)

    def _read(self, number: int, data: bytes) -> None:
        if number not in self._decoders:
            return
        if not data:
            self._close(number)
            self._perform(LinkLost(number, crashed=True))
            return
        try:
            messages = self._decoders[number].feed(data)
        except ProtocolError as error:
            self.cut_off(number, str(error))
            self._perform(LinkLost(number, crashed=True))
            return
        for message in messages:
            self._perform(message)

    def _perform(self, message: Message) -> None:
        if self._held_orders is not None and isinstance(message, SpanWanted):
            self._hold(self._held_orders, message)
            return
        following = deque([message])
        while following:
            following.extend(self._executor.perform(following.popleft(), self.clock.monotonic_ns()))

    @staticmethod
    def _hold(held: list[SpanWanted], order: SpanWanted) -> None:
        if order.urgency != SPAN_CANCELLED:
            held.append(order)
            return
        for earlier in held:
            if (earlier.link, earlier.length) == (order.link, order.length):
                held.remove(earlier)
                return

    def _close(self, number: int) -> None:
        del self._decoders[number]
        self._transports[number].end(EventBusError("the manager has closed this link"))
        del self._transports[number], self._sessions[number]

    # --- what the executor posts to ---

    def post(self, link: int, frames: list[bytes], *, is_reply: bool = False) -> None:
        """Frames for a client; dropped when its link is closed."""
        transport = self._transports.get(link)
        if transport is not None:
            transport.incoming.extend((frame, is_reply) for frame in frames)

    def cut_off(self, link: int, reason: str) -> bool:
        """A client broke the protocol. Returns whether its link was open."""
        if link not in self._decoders:
            return False
        log.warning("client %d broke the protocol and is cut off: %s", link, reason)
        self._close(link)
        return True
