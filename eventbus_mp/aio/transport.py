"""The transport of a link in an event loop: the loop calls when the pipe has something, or has room again.

It is the twin of `PipeTransport`, in which threads wait. No call here blocks: what the pipe does not take is kept and
written when there is room. `write` never refuses, so a publisher first looks at `is_behind`, and waits.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic_ns, time_ns
from typing import Any, Protocol

from eventbus_mp.aio.loops import Loop, Timer
from eventbus_mp.client.transport import Transport, fresh, read_to_end
from eventbus_mp.errors import EventBusError, InternalError
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.runtime.pipe import READ_BYTES

__all__ = ["LaterInLoop", "LoopTransport", "LoopTransportLike"]

log = logging.getLogger("eventbus_mp")

IDLE_LOOK_S = 0.25
"""How often to look whether what is to be done when the pipe is idle is due."""


class LaterInLoop:
    """A call that the loop makes some time after it was armed; see `LateCallLike`."""

    def __init__(self, loop: Loop, call: Callable[[], object], delay_s: float) -> None:
        self._loop = loop
        self._call = call
        self._delay_s = delay_s
        self._handle: Timer | None = None
        self._is_over = False

    @property
    def is_armed(self) -> bool:
        """See `LateCallLike.is_armed`."""
        return self._handle is not None

    def arm(self) -> None:
        """See `LateCallLike.arm`."""
        if self._handle is None and not self._is_over and not self._loop.is_closed():
            self._handle = self._loop.call_later(self._delay_s, self._make)

    def _make(self) -> None:
        self._handle = None
        try:
            self._call()
        except EventBusError as error:
            log.debug("nothing is reported any more: %s", error)

    def close(self) -> None:
        """See `LateCallLike.close`."""
        self._is_over = True
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def abandon(self) -> None:
        """See `LateCallLike.abandon`. The loop, and its timer, are the parent's."""
        self._is_over = True
        self._handle = None


class LoopTransportLike(Transport, Protocol):
    """A `Transport` for the tasks of one loop: nothing of it blocks."""

    loop: Loop
    after_reading: Callable[[], None]
    """Called when something may have become true that a task waits for."""

    @property
    def is_behind(self) -> bool:
        """Whether the pipe was full, and something waits to be written."""

    @property
    def is_deserted(self) -> bool:
        """Whether the loop does not run, as after the end of the `asyncio.run` that it was made by."""

    def check(self) -> None:
        """Raise the error that the link has ended with, if it has."""


class LoopTransport:
    """The pipes to and from the manager, in an event loop; a `Transport` (client/transport.py says what each call
    does). All calls belong into the thread of the loop, but for `close` and `abandon`.

    Args:
        loop: The loop, which runs.
        incoming: The pipe to read.
        outgoing: The pipe to write.
    """

    def __init__(self, loop: Loop, incoming: int, outgoing: int) -> None:
        self.loop = loop
        self.lock = NonReentrantLock()
        """No other thread takes it; a signal handler, or a `__del__`, in the middle of a write is refused by it."""
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.resume: Callable[[], bool] = lambda: False
        self.after_reading: Callable[[], None] = lambda: None
        """Called when something may have become true that a task waits for."""
        self._incoming, self._outgoing = incoming, outgoing
        self._unsent = bytearray()
        self._error: EventBusError | None = None
        self._after_turn: deque[Callable[[], object]] = deque()
        self._is_attached = True
        self._idle = LaterInLoop(loop, lambda: None, IDLE_LOOK_S)
        os.set_blocking(outgoing, False)
        loop.add_reader(incoming, self._read)

    def when_idle(self, due_ms: Callable[[], float | None], call: Callable[[], object]) -> None:
        """See `Transport.when_idle`. Here the pipe is idle: the loop itself may be busy.

        It is looked at now and then, from a read or a write on and as long as `due_ms` says a time.
        """

        def look() -> None:
            left_ms = due_ms()
            if left_ms is None:
                return
            if left_ms <= 0:
                call()
            self._idle.arm()

        self._idle = LaterInLoop(self.loop, look, IDLE_LOOK_S)

    monotonic_ns = staticmethod(monotonic_ns)
    time_ns = staticmethod(time_ns)

    # --- reading ---

    def _read(self) -> None:
        try:
            self.on_data(os.read(self._incoming, READ_BYTES))
        except EventBusError as error:  # It is not the protocol. Nobody else would be told.
            log.error("a link to a bus ends: %s", error)
            self.end(error)
        while self._after_turn:
            self._after_turn.popleft()()
        self._idle.arm()
        self.after_reading()

    def after_turn(self, what: Callable[[], object]) -> None:
        """See `Transport.after_turn`."""
        self._after_turn.append(what)

    def wait(self, ready: Callable[[], Any], timeout_s: float | None = None, crew: object = None) -> bool:
        """See `Transport.wait`. Tasks wait by `Link`; what is asked here must not wait.

        Raises:
            InternalError: It would.
        """
        if not ready():
            self.check()
            if timeout_s != 0:
                raise InternalError("a call would have blocked the event loop")
        return bool(ready())

    def wake(self, *, followers: bool = False) -> None:
        """See `Transport.wake`."""
        self.after_reading()

    def watch(self, fd: int, on_ready: Callable[[], object]) -> None:
        """See `Transport.watch`."""
        self.loop.add_reader(fd, on_ready)

    def unwatch(self, fd: int) -> None:
        """See `Transport.unwatch`."""
        self.loop.remove_reader(fd)

    def late_call(self, call: Callable[[], object], delay_s: float) -> LaterInLoop:
        """See `Transport.late_call`."""
        return LaterInLoop(self.loop, call, delay_s)

    # --- writing ---

    @property
    def is_behind(self) -> bool:
        """Whether the pipe was full, and something waits to be written."""
        return bool(self._unsent)

    def write(self, data: bytes) -> None:
        """See `Transport.write`. What the pipe has no room for is written later, before all that comes after it."""
        self.check()
        self._idle.arm()
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = os.write(self._outgoing, data)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError as cause:
            self.on_data(b"")
            raise fresh(self._error) from cause
        if sent < len(data):
            self._unsent += data[sent:]
            if not self.loop.is_closed():  # else: `close` writes it
                self.loop.add_writer(self._outgoing, self._write_more)

    def _write_more(self) -> None:
        try:
            del self._unsent[: os.write(self._outgoing, self._unsent)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.on_data(b"")
            return
        if not self._unsent:
            self.loop.remove_writer(self._outgoing)
            self.after_reading()

    # --- the end ---

    @property
    def is_deserted(self) -> bool:
        """Whether the loop does not run, as after the end of the `asyncio.run` that made it."""
        return not self.loop.is_running()

    @property
    def ended(self) -> bool:
        """Whether the link has ended, by either side."""
        return self._error is not None

    def check(self) -> None:
        """Raise the error that the link has ended with, if it has."""
        if self._error is not None:
            raise fresh(self._error)

    def end(self, error: EventBusError) -> None:
        """See `Transport.end`."""
        self._error = self._error or error
        self._detach()
        self.after_reading()

    def rest(self) -> bytes:
        """See `Transport.rest`."""
        return read_to_end(self._incoming) if self._incoming >= 0 else b""

    def _detach(self) -> None:
        """Have the loop look at the pipes no more: one that has ended would stay readable."""
        was_attached, self._is_attached = self._is_attached, False
        self._idle.close()
        if was_attached and not self.loop.is_closed():
            self.loop.remove_reader(self._incoming)
            self.loop.remove_writer(self._outgoing)

    def close(self, error: EventBusError, farewell: bytes, before: Callable[[], object] = lambda: None) -> None:
        """See `Transport.close`. What waits to be written is written before; the manager reads it, whatever happens.

        Any thread may call it: the handle may be collected in another one, and the process may end in another one.
        """
        if self.loop.is_running() and not self.loop.is_here():
            self.loop.call_soon_threadsafe(partial(self.close, error, farewell, before))
            return
        with self.lock.held():
            if self._outgoing < 0:
                self._error = self._error or error
                return
            before()
            is_ours_to_say, self._error = self._error is None, self._error or error
            self._detach()
            if is_ours_to_say:
                os.set_blocking(self._outgoing, True)
                with suppress(BrokenPipeError):  # The manager left first.
                    self._write_all(bytes(self._unsent) + farewell)
            self._close_pipes()
        self.after_reading()

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._outgoing, data) :]

    def _close_pipes(self) -> None:
        # The numbers go first: a signal handler may call in between.
        fds, self._incoming, self._outgoing = (self._incoming, self._outgoing), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def abandon(self, error: EventBusError) -> None:
        """See `Transport.abandon`. The loop's selector is shared with the parent, which goes on: it is not touched."""
        self._error = error
        self._is_attached = False
        self._idle.abandon()
        self._close_pipes()
        self.lock.reset()
