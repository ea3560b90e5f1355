"""A whole bus in one thread: the manager's core and executor, and any number of clients, under a clock that a test
holds.

Everything is the real thing but three ports: frames go through lists and not through pipes (`InProcessTransport`),
payloads lie in plain memory (`HeapStore`), and time is a `ManualClock`. What would be other processes and threads is
done while a client waits, one step at a time and always in the same order, so the same calls always give the same run.

When nothing is left to do, the clock jumps to what is due next (trio's `MockClock` calls that autojump): a wait of a
minute takes no time. A wait that nothing can end is an error, and not a test that hangs.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eventbus_mp.client import sessions
from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.session import Session
from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.errors import EventBusError, ProtocolError
from eventbus_mp.geometry import shared_span_bytes
from eventbus_mp.locking import NonReentrantLock, reentered
from eventbus_mp.manager.executor import EffectExecutor
from eventbus_mp.memory.heap import HeapStore
from eventbus_mp.protocol import records
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.messages import LinkLost, LinkOpened, ManagerReplaced, Message, TimePassed
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.testing.clock import ManualClock

__all__ = ["InProcessBus", "InProcessTransport"]

log = logging.getLogger("eventbus_mp.manager")

MEMORY_BYTES = 16 << 20
PREFIX = "in-process-"


class InProcessTransport:
    """One client's link to a manager in the same thread; a `Transport` (client/transport.py says what each call
    does)."""

    def __init__(self, bus: InProcessBus, number: int) -> None:
        self.number = number
        self.lock = NonReentrantLock()
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.resume: Callable[[], bool] = lambda: False
        self.monotonic_ns = bus.clock.monotonic_ns
        self.time_ns = bus.clock.time_ns
        self.incoming: deque[tuple[bytes, bool]] = deque()
        """Frames that the client has not read, and whether each is of a reply."""
        self._bus = bus
        self._error: EventBusError | None = None

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        if self._error is not None:
            raise self._again(self._error)
        self._bus.outgoing.append((self.number, data))

    def wait(self, ready: Callable[[], Any], timeout_s: float | None = None) -> bool:
        """See `Transport.wait`. All other clients, the manager and the clock go on meanwhile."""
        deadline_ns = None if timeout_s is None else self.monotonic_ns() + int(timeout_s * 1e9)
        while not ready():
            if self._error is not None:
                raise self._again(self._error)
            if self.lock.is_mine:
                raise reentered()
            if not self._bus.step() and not self._bus.jump(deadline_ns):
                return bool(ready())
        return True

    def wake(self, *, followers: bool = False) -> None:
        """There is no other thread to wake."""

    def watch(self, fd: int, on_ready: Callable[[], object]) -> None:
        """Descriptors are of other processes, and there are none."""
        raise NotImplementedError("a bus in one process waits for no descriptor")

    def unwatch(self, fd: int) -> None:
        """None is watched."""

    @property
    def ended(self) -> bool:
        """Whether the link has ended."""
        return self._error is not None

    def end(self, error: EventBusError) -> None:
        """See `Transport.end`."""
        self._error = self._error or error

    def close(self, error: EventBusError, farewell: bytes) -> None:
        """See `Transport.close`."""
        self.lock.refuse_reentry()
        if self._error is None:
            self._bus.outgoing.append((self.number, farewell))
        self._error = self._error or error
        self._bus.outgoing.append((self.number, b""))

    def abandon(self, error: EventBusError) -> None:
        """See `Transport.abandon`."""
        self._error = error

    def read(self) -> None:
        """Give the client what has arrived, as one read of a pipe would."""
        data = b"".join(frame for frame, _ in self.incoming)
        self.incoming.clear()
        self.on_data(data)

    @staticmethod
    def _again(error: EventBusError) -> EventBusError:
        return type(error)(*error.args)


class InProcessBus:
    """The manager's side, and what drives everything.

    Args:
        name: The bus's name.
        clock: The time; None: a new one.
        store: Where payloads lie; None: as much plain memory as is asked for.
        settings: Fields of `BusConfig`; invariants are checked after every message unless they say otherwise.
    """

    def __init__(
        self, name: str = "test", *, clock: ManualClock | None = None, store: HeapStore | None = None, **settings: Any
    ) -> None:
        settings = {"memory_bytes_max": MEMORY_BYTES, "check_invariants": True, **settings}
        self.name = name
        self.config = BusConfig(**settings)
        self.clock = clock or ManualClock()
        self.store = store or HeapStore()
        self.core = BusCore(self.config, self.clock.monotonic_ns())
        self.outgoing: deque[tuple[int, bytes]] = deque()
        """What clients have written and the manager has not read: (link, data), b"" for the end of a link."""
        self.manager_pid = os.getpid()
        self._executor = EffectExecutor(self.core, PREFIX, self, self.store)
        self._transports: dict[int, InProcessTransport] = {}
        self._decoders: dict[int, ManagerDecoder] = {}
        self._sessions: dict[int, Session] = {}
        self._link_serial = 0
        self._running: set[int] = set()
        """Links whose handlers are in the middle of something: they are not entered again."""

    # --- clients ---

    def connect(self, **settings: Any) -> Session:
        """A client of its own, as another process would be."""
        config = replace(self.config, **settings)
        self._link_serial = number = self._link_serial + 1
        transport = InProcessTransport(self, number)
        self._transports[number], self._decoders[number] = transport, ManagerDecoder(number)
        assert config.memory_bytes_max is not None
        span_bytes = shared_span_bytes(config.memory_bytes_max)
        welcome = Welcome(number, PREFIX, span_bytes, config.memory_bytes_max, 0, self.manager_pid)
        self._perform(LinkOpened(number, 1000 + number))
        session = Session(Connection(self.name, config, welcome, transport, lambda: ""), self.store, threaded=False)
        self._sessions[number] = session
        return session

    def handle(self, topics: tuple[str, ...] = (), **settings: Any) -> EventBus:
        """An `EventBus` with a client of its own."""
        bus = EventBus(self.name, topics, config=replace(self.config, **settings))
        session = self.connect(**settings)
        sessions.keep_session(bus, session)
        session.register_topics(topics)
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
            transport.incoming.append((records.pack_manager_replaced(self.manager_pid), False))
            transport.incoming.extend(frame for frame in frames[frames_kept:] if frame[1])

    # --- what drives it ---

    def step(self) -> bool:
        """Do the next thing that is to be done; False: there is nothing until time passes or somebody calls."""
        if self.outgoing:
            self._read(*self.outgoing.popleft())
            return True
        for transport in self._transports.values():
            if transport.incoming and not transport.ended:
                transport.read()
                return True
        for number, session in self._sessions.items():
            if number not in self._running and session.loop.has_work and not session.connection.lost:
                self._run_handlers(number, session)
                return True
        due_ns = self.core.next_due_ns()
        if due_ns is not None and due_ns <= self.clock.monotonic_ns() and not self._executor.is_stopping:
            self._perform(TimePassed())
            return True
        return False

    def run(self) -> None:
        """Do all that is to be done at this moment."""
        more = True
        while more:
            more = self.step()

    def jump(self, deadline_ns: int | None) -> bool:
        """Let time pass until something is due, at most to the deadline: False when that is reached.

        Raises:
            RuntimeError: Nothing will ever be due, and somebody waits without a limit.
        """
        due_ns = self.core.next_due_ns() if not self._executor.is_stopping else None
        if deadline_ns is not None and (due_ns is None or due_ns >= deadline_ns):
            self.clock.advance_to(deadline_ns)
            return False
        if due_ns is None:
            raise RuntimeError("this wait has no end: nobody has anything to do, and nothing is due")
        self.clock.advance_to(due_ns)
        return True

    def _run_handlers(self, number: int, session: Session) -> None:
        self._running.add(number)
        try:
            session.loop.run_pending()
        finally:
            self._running.discard(number)

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
        following = deque([message])
        while following:
            following.extend(self._executor.perform(following.popleft(), self.clock.monotonic_ns()))

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
