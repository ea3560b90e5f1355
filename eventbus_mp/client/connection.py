"""A process's connection to the manager: ask, wait, and take what arrives.

Whoever waits for something reads the pipe; when several threads wait, one reads for all. So a process without
listeners needs no thread, a worker does everything on its main thread, and a listener that asks something waits like
anybody else. No lock is held while user code runs.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from eventbus_mp import errors
from eventbus_mp.client.connect import connect
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost
from eventbus_mp.locking import LeaderFollowers, owns, reentered
from eventbus_mp.protocol.client_events import (
    ClientEvent,
    Delivered,
    ManagerChanged,
    Replied,
    SpanGranted,
    TopicStale,
)
from eventbus_mp.protocol.decoders import ClientDecoder, encode_request, unpack
from eventbus_mp.protocol.requests import CancelWait, Goodbye, Request
from eventbus_mp.runtime.pipe import READ_BYTES
from eventbus_mp.runtime.rundir import RunDir

__all__ = ["Connection"]

WAIT_S_MAX = 86_400.0
"""What the kernel waits at once; who waits longer waits again."""


class Connection:
    """One link to the manager; it never reconnects, and is useless in a forked child.

    Args:
        bus: The bus's name.
        config: This process's settings; also the bus's, should it be the one that starts the manager.

    Raises:
        ManagerLost, EventBusError: As of `join`.
    """

    def __init__(self, bus: str, config: BusConfig) -> None:
        self.bus = bus
        self.config = config
        self._run_dir = RunDir(config.run_dir, bus)
        self.welcome, self._incoming, self._outgoing = connect(bus, config, self._run_dir)
        self._make_locks()
        self._unsent = b""
        self._stream = ClientDecoder()
        self._pieces: deque[bytes] = deque()
        """What was read and is not fed to the stream yet."""
        self._arrived: deque[ClientEvent] = deque()
        self._request_numbers = count(1)
        self._awaited: set[int] = set()
        """Numbers of requests whose reply somebody will take. A manager that replaces a dead one may reply again."""
        self._replies: dict[int, Replied] = {}
        self._lost: EventBusError | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._incoming, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        self._on_fd: dict[int, Callable[[], object]] = {}
        self.on_delivered: Callable[[Delivered], None] = _ignore
        self.on_span_granted: Callable[[SpanGranted], None] = _ignore
        self.on_topic_stale: Callable[[TopicStale], None] = _ignore
        self.on_manager_replaced: Callable[[], None] = lambda: None
        self.manager_pid = self.welcome.manager_pid

    def _make_locks(self) -> None:
        self.write_lock = threading.RLock()
        """One writer at a time. The publisher holds it while it fills memory, too: so its events keep one order.

        Whoever has it must not take it again, or an event would get into the middle of another: `refuse_reentry`."""
        self._turns = LeaderFollowers()
        """Whose turn it is to read the pipe."""
        self._closes_late = False

    # --- sending ---

    def send(self, data: bytes) -> None:
        """Write whole records; blocks while the manager is behind, and nobody else's settling waits for memory here.

        Raises:
            ManagerLost, BusClosed: There is nobody to write to.
        """
        self.refuse_reentry()
        with self.write_lock:
            self.send_locked(data)

    def refuse_reentry(self) -> None:
        """Raise `UsageError` for a call that came in the middle of another one of this thread's."""
        if owns(self.write_lock):
            raise reentered()

    def send_locked(self, data: bytes) -> None:
        """`send`, for whoever holds the `write_lock`."""
        if self._lost is not None:
            raise self._again(self._lost)
        try:
            if len(data) <= select.PIPE_BUF and not self._unsent:
                os.write(self._outgoing, data)  # whole, or not at all
            else:
                self._write_long(self._unsent + data)
        except BrokenPipeError as cause:
            self._lose()
            raise self._again(self._lost) from cause

    def _write_long(self, data: bytes) -> None:
        """In pieces. When a signal's handler raises in between, the rest goes before what is sent next."""
        written: list[int] = []
        try:
            self._write_pieces(memoryview(data), written)
        finally:
            self._unsent = data[sum(written) :]

    def _write_pieces(self, data: memoryview, written: list[int]) -> None:
        # A function of its own: from CPython 3.12 on, a loop's jump back is outside the `try` that it stands in.
        while sum(written) < len(data):
            # In one step of the interpreter: what a handler raises comes before or after both.
            written.extend(map(os.write, (self._outgoing,), (data[sum(written) :],)))

    def request(self, kind: type[Request], *fields: Any) -> Any:
        """Ask the manager and wait for the answer.

        Raises:
            UsageError: The manager refused; the class is the one it named.
            ManagerLost: It did not answer within `request_timeout_s`, or is gone.
        """
        number = self.start_request(kind, *fields)
        if not self.wait(lambda: number in self._replies, self.config.request_timeout_s):
            self._awaited.discard(number)
            raise ManagerLost(
                f"the manager of bus {self.bus!r} did not answer {kind.__name__} "
                f"within {self.config.request_timeout_s:g} s"
            )
        return self.take_reply(number)

    def start_request(self, kind: type[Request], *fields: Any) -> int:
        """Send a request without waiting; its number is what `has_reply` and `take_reply` take."""
        number = next(self._request_numbers)
        data = encode_request(kind(0, number, *fields))
        self.expect_reply(number)
        self.send(data)
        return number

    def expect_reply(self, number: int) -> None:
        """Keep the reply of this number for `take_reply`."""
        self._awaited.add(number)

    def cancel_wait(self, number: int) -> None:
        """Nobody waits any more for this reply, of a `Drain` or an awaited event."""
        self._awaited.discard(number)
        self._replies.pop(number, None)
        self.send_oneway(CancelWait, number)

    def send_oneway(self, kind: type[Request], *fields: Any) -> None:
        """Send a request that is not answered."""
        self.send(encode_request(kind(0, 0, *fields)))

    def has_reply(self, number: int) -> bool:
        return number in self._replies

    def take_reply(self, number: int) -> Any:
        reply = self._replies.pop(number)
        self._awaited.discard(number)
        value = unpack(reply.body)
        if reply.refused:
            name, text = value
            raise getattr(errors, name, EventBusError)(text)
        return value

    # --- waiting ---

    def wait(self, ready: Callable[[], Any], timeout_s: float | None = None) -> bool:
        """Block until `ready()`; False when `timeout_s` is over first. Takes in what arrives meanwhile.

        Raises:
            ManagerLost, BusClosed: The connection ended, and `ready()` is still false.
            UsageError: This thread is in the middle of waiting, or of writing.
        """
        me = threading.get_ident()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        looked = False
        while not ready():
            if self._lost is not None:
                raise self._again(self._lost)
            if self._turns.is_mine or owns(self.write_lock):
                raise reentered()
            remaining_s = None if deadline is None else min(deadline - time.monotonic(), WAIT_S_MAX)
            if remaining_s is not None and remaining_s <= 0:
                if looked:
                    return False
                remaining_s = 0  # Also a wait of no time takes in what has arrived.
            looked = True
            try:
                self._turns.take(ready, remaining_s)
                if self._turns.holder == me and self._lost is None and not ready():
                    self._read_once(remaining_s)
            finally:
                if self._turns.holder == me:
                    self._turns.holder = 0
                    self._end_turn()
        return True

    def _end_turn(self) -> None:
        self._turns.hand_over()
        if self._closes_late:
            self._closes_late = False
            self._close_reading_side()

    def _read_once(self, timeout_s: float | None) -> None:
        if self._pieces or self._arrived:
            return self._take_in()  # An earlier turn was interrupted.
        for fd, _ in self._poll.poll(None if timeout_s is None else timeout_s * 1000):
            if fd == self._incoming:
                # In one step of the interpreter, as in `_write_long`.
                self._pieces.extend(map(os.read, (fd,), (READ_BYTES,)))
                self._take_in()
            elif fd == self._wake_fd:
                os.eventfd_read(fd)
            else:
                self._on_fd[fd]()

    def _take_in(self) -> None:
        while self._pieces:
            piece = self._pieces.popleft()
            if not piece:
                return self._lose()
            self._arrived.extend(self._stream.feed(piece))
        while self._arrived:
            message = self._arrived.popleft()
            if type(message) is Delivered:
                self.on_delivered(message)
            elif type(message) is Replied:
                if message.request in self._awaited:
                    self._replies[message.request] = message
            elif type(message) is SpanGranted:
                self.on_span_granted(message)
            elif type(message) is TopicStale:
                self.on_topic_stale(message)
            elif type(message) is ManagerChanged:
                self.manager_pid = message.pid
                self.on_manager_replaced()

    def wake(self) -> None:
        """Make every waiting thread look at its condition again; safe in a signal handler, also after `close`."""
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    def wake_all(self) -> None:
        """`wake`, and also whoever stands by while nobody reads: a signal's handler raised just as a turn ended."""
        self.wake()
        self._turns.hand_over()

    def watch(self, fd: int, on_ready: Callable[[], object]) -> None:
        """While somebody waits, call `on_ready` when `fd` is readable; it must not stay readable for ever."""
        self._on_fd[fd] = on_ready
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        if self._on_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # --- the end ---

    @property
    def lost(self) -> bool:
        return self._lost is not None

    def _lose(self) -> None:
        words = self._run_dir.log_tail()
        detail = f"; its last words:\n{words}" if words else ""
        self._lost = self._lost or ManagerLost(f"the manager of bus {self.bus!r} is gone{detail}")

    @staticmethod
    def _again(error: EventBusError | None) -> EventBusError:
        # A new object each time: a raised one carries the traceback of where it was raised.
        return type(error)(*error.args) if error is not None else EventBusError("the connection is lost")

    def close(self) -> None:
        """Say goodbye and leave; waiting threads get `BusClosed`. Harmless when repeated.

        Raises:
            UsageError: This thread is in the middle of writing.
        """
        self.refuse_reentry()
        with self.write_lock:
            already_lost = self._lost is not None
            self._lost = self._lost or BusClosed(f"this handle of bus {self.bus!r} was closed; open another EventBus")
            if self._outgoing < 0:
                return
            if not already_lost:
                with suppress(BrokenPipeError):  # It left first.
                    os.write(self._outgoing, self._unsent + encode_request(Goodbye(0, 0)))
            os.close(self._outgoing)
            self._outgoing = -1
        self.wake()
        # The one that reads sees the error and goes; then nobody uses the descriptors any more.
        with self._turns.lock:
            # Unless that is this thread: a signal's handler came in the middle of its wait, whose end does the rest.
            self._closes_late = self._turns.holder == threading.get_ident()
            while self._turns.holder and not self._closes_late:
                self._turns.wait_turn()
            if not self._closes_late:
                self._close_reading_side()

    def _close_reading_side(self) -> None:
        # The numbers go first: a signal's handler may wake us between any two lines.
        fds, self._incoming, self._wake_fd = (self._incoming, self._wake_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def abandon(self) -> None:
        """In a forked child: drop the descriptors without a word; the parent goes on with its own."""
        for fd in (self._incoming, self._outgoing, self._wake_fd):
            if fd >= 0:
                os.close(fd)
        self._incoming = self._outgoing = self._wake_fd = -1
        self._make_locks()
        self._lost = BusClosed(f"this connection to bus {self.bus!r} belongs to the parent process")


def _ignore(message: object) -> None:
    """Nobody is interested yet."""
