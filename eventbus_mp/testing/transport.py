"""A client's link to a manager in the same thread, and calls that are due later; inprocess.py drives both."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol

from eventbus_mp.aio.loops import Loop
from eventbus_mp.client.transport import fresh
from eventbus_mp.errors import EventBusError, InternalError, UsageError
from eventbus_mp.locking import NonReentrantLock, reentered
from eventbus_mp.testing.clock import ManualClock

__all__ = ["InLoopTransport", "InProcessTransport", "LaterInProcess", "World"]


class World(Protocol):
    """What a link needs of its bus (`InProcessBus`)."""

    name: str
    clock: ManualClock
    owner: tuple[int, int]
    outgoing: deque[tuple[int, bytes]]
    after_step: deque[Callable[[], object]]
    late_calls: list[LaterInProcess]

    def step(self) -> bool: ...

    def jump(self, deadline_ns: int | None) -> bool: ...


class InProcessTransport:
    """One client's link to a manager in the same thread; a `Transport` (client/transport.py says what each call
    does)."""

    def __init__(self, bus: World, number: int) -> None:
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
        self._check_owner()
        if self._error is not None:
            raise fresh(self._error)
        self._bus.outgoing.append((self.number, data))

    def wait(self, ready: Callable[[], Any], timeout_s: float | None = None, crew: object = None) -> bool:
        """See `Transport.wait`. All other clients, the manager and the clock go on meanwhile."""
        self._check_owner()
        deadline_ns = None if timeout_s is None else self.monotonic_ns() + int(timeout_s * 1e9)
        while not ready():
            if self._error is not None:
                raise fresh(self._error)
            if self.lock.is_mine:
                raise reentered()
            if not self._bus.step() and not self._bus.jump(deadline_ns):
                return bool(ready())
        return True

    def wake(self, *, followers: bool = False) -> None:
        """There is no other thread to wake."""

    def after_turn(self, what: Callable[[], object]) -> None:
        """See `Transport.after_turn`. A turn is a step of the bus."""
        self._bus.after_step.append(what)

    def late_call(self, call: Callable[[], object], delay_s: float) -> LaterInProcess:
        """See `Transport.late_call`."""
        later = LaterInProcess(self._bus, call, int(delay_s * 1e9))
        self._bus.late_calls.append(later)
        return later

    def watch(self, fd: int, on_ready: Callable[[], object]) -> None:
        """Descriptors are of other processes, and there are none."""
        raise NotImplementedError("a bus in one process waits for no descriptor")

    def unwatch(self, fd: int) -> None:
        """None is watched."""

    def rest(self) -> bytes:
        """Nothing: a client here does not come back."""
        return b""

    def when_idle(self, due_ms: Callable[[], float | None], call: Callable[[], object]) -> None:
        """Nobody is idle: time does not pass by itself."""

    @property
    def ended(self) -> bool:
        """Whether the link has ended."""
        return self._error is not None

    def end(self, error: EventBusError) -> None:
        """See `Transport.end`."""
        self._error = self._error or error

    def close(self, error: EventBusError, farewell: bytes, before: Callable[[], object] = lambda: None) -> None:
        """See `Transport.close`."""
        with self.lock.held():
            before()
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

    def _check_owner(self) -> None:
        if self._bus.owner != (os.getpid(), get_ident()):
            raise UsageError(
                f"bus {self._bus.name!r} is a TestBus, which lives in the thread that has made it; for a test with "
                "threads or processes take a real bus, as the fixture `bus_processes` gives"
            )


class InLoopTransport(InProcessTransport):
    """The same for a client in an event loop, whose tasks wait (`LoopTransportLike`)."""

    is_behind = False
    """Nobody ever is."""

    def __init__(self, bus: World, number: int, loop: Loop) -> None:
        super().__init__(bus, number)
        self.loop = loop
        self.after_reading: Callable[[], None] = lambda: None

    @property
    def is_deserted(self) -> bool:
        """See `LoopTransport.is_deserted`."""
        return not self.loop.is_running()

    def check(self) -> None:
        """See `LoopTransport.check`."""
        if self._error is not None:
            raise fresh(self._error)

    def wait(self, ready: Callable[[], Any], timeout_s: float | None = None, crew: object = None) -> bool:
        """See `LoopTransport.wait`."""
        if not ready():
            self.check()
            if timeout_s != 0:
                raise InternalError("a call would have blocked the event loop")
        return bool(ready())

    def wake(self, *, followers: bool = False) -> None:
        """See `LoopTransport.wake`."""
        self.after_reading()

    def read(self) -> None:
        """See `InProcessTransport.read`; tasks that wait for it hear of it."""
        super().read()
        self.after_reading()

    def end(self, error: EventBusError) -> None:
        """See `Transport.end`."""
        super().end(error)
        self.after_reading()

    def close(self, error: EventBusError, farewell: bytes, before: Callable[[], object] = lambda: None) -> None:
        """See `Transport.close`."""
        super().close(error, farewell, before)
        self.after_reading()


class LaterInProcess:
    """A call that is due at a time of the test's clock; see `LateCallLike`."""

    def __init__(self, bus: World, call: Callable[[], object], delay_ns: int) -> None:
        self._bus = bus
        self.call = call
        self._delay_ns = delay_ns
        self.due_ns: int | None = None

    @property
    def is_armed(self) -> bool:
        """See `LateCallLike.is_armed`."""
        return self.due_ns is not None

    def arm(self) -> None:
        """See `LateCallLike.arm`."""
        if self.due_ns is None:
            self.due_ns = self._bus.clock.monotonic_ns() + self._delay_ns

    def close(self) -> None:
        """See `LateCallLike.close`."""
        if self in self._bus.late_calls:
            self._bus.late_calls.remove(self)

    abandon = close
