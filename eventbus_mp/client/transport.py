"""The transport of a link: two pipes, and the threads that wait on them.

The thread that waits for something reads the pipe; when several wait, one reads for all (`LeaderFollowers`). So a
process without listeners needs no thread, a worker does everything on its main thread, and a listener that asks
something waits like any other thread. No lock is held while user code runs.

A signal handler may raise in the middle of all this, as Ctrl-C does. The places where that would lose bytes do their
work in one step of the interpreter: `queue.extend(map(os.read, ...))` reads and stores in a single call, so a handler
runs before it or after it.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from select import PIPE_BUF
from time import monotonic, monotonic_ns, time_ns
from typing import Any, Protocol

from eventbus_mp.client.late_call import LateCall
from eventbus_mp.errors import BusClosed, EventBusError, UsageError
from eventbus_mp.geometry import WAIT_S_MAX
from eventbus_mp.locking import LeaderFollowers, NonReentrantLock, reentered
from eventbus_mp.runtime.pipe import READ_BYTES

__all__ = ["LateCallLike", "PipeTransport", "Poll", "Transport", "fresh", "read_to_end"]


REST_MS = 1_000
"""How long the manager may take from the end of one pipe to that of the other."""


PATCHED_LATE = (
    "gevent has replaced Python's threads since this process connected to the bus, and a call that waits would stop "
    "all of them; use the bus after monkey.patch_all(): with gunicorn's gevent workers in the hook post_worker_init, "
    "and not in post_fork"
)


def _nothing() -> None:
    """There is nothing to do before the end."""


class Poll(Protocol):
    """A `select.poll`, whose class has no name."""

    def register(self, fd: int, eventmask: int, /) -> None: ...

    def unregister(self, fd: int, /) -> None: ...

    def poll(self, timeout_ms: float | None, /) -> list[tuple[int, int]]: ...


class LateCallLike(Protocol):
    """A call to be made later: `LateCall`, or its twin under a clock that a test holds."""

    @property
    def is_armed(self) -> bool:
        """Whether a call is due."""

    def arm(self) -> None:
        """Make the call after the delay, if none is due."""

    def close(self) -> None:
        """Make no further call."""

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""


class Transport(Protocol):
    """What a connection stands on: pipes between processes, or, for tests, a manager in the same process."""

    lock: NonReentrantLock
    """Held from the call that makes something to send until it is written: so a process's records keep one order."""
    on_data: Callable[[bytes], None]
    """Called with what was read; with b"" at the end of the link. Set by the connection."""
    resume: Callable[[], bool]
    """Called before a read: goes on with what an exception has interrupted; False when there is nothing."""

    def write(self, data: bytes) -> None:
        """Send whole records, with the lock held. Blocks while the other side is behind; it never waits for us.

        Raises:
            EventBusError: The link has ended.
        """

    def wait(self, ready: Callable[[], Any], timeout_s: float | None = None, crew: object = None) -> bool:
        """Block until `ready()`; False when `timeout_s` is over first. Reads meanwhile, in this thread or another.

        Any thread that reads may ask `ready()`. Threads that wait for the same have one `crew`; then it is a number:
        for how many of them there is something to do.

        Raises:
            EventBusError: The link has ended, and `ready()` is still false.
            UsageError: This thread is in the middle of waiting, or of writing; or gevent has replaced Python's threads
                since the link was opened.
        """

    def wake(self, *, followers: bool = False) -> None:
        """Make every waiting thread look at its condition again; safe in a signal handler and after `close`."""

    def after_turn(self, what: Callable[[], object]) -> None:
        """Call `what` when this thread, which is reading for all, has finished its turn: it may ask and wait there."""

    def late_call(self, call: Callable[[], object], delay_s: float) -> LateCallLike:
        """Something that calls `call` some time after it was armed, whatever this process's threads do."""

    def watch(self, fd: int, on_ready: Callable[[], object]) -> None:
        """While somebody waits, call `on_ready` when `fd` is readable; it must not stay readable for ever."""

    def unwatch(self, fd: int) -> None:
        """Watch it no more; harmless when it is not watched."""

    def end(self, error: EventBusError) -> None:
        """The link has ended: from now on `write` and `wait` raise the first error that was given here."""

    def when_idle(self, due_ms: Callable[[], float | None], call: Callable[[], object]) -> None:
        """Make this call, which must not wait, when a thread waits and `due_ms()` milliseconds have passed; None: there
        is no need to."""

    @property
    def ended(self) -> bool:
        """Whether the link has ended."""

    def rest(self) -> bytes:
        """After the end of the link: what came before it and was not read, because a write has noticed the end."""

    def close(self, error: EventBusError, farewell: bytes, before: Callable[[], object] = _nothing) -> None:
        """End the link with `error`, after `farewell` if it has not ended yet. Harmless when repeated.

        Before all that it calls `before`, with the lock held; if that raises, the link goes on.
        """

    def abandon(self, error: EventBusError) -> None:
        """In a forked child: let go without a word; the parent goes on."""

    def monotonic_ns(self) -> int:
        """The time that deadlines and timeouts count by."""

    def time_ns(self) -> int:
        """The wall-clock time."""


class PipeTransport:
    """The pipes to and from the manager.

    Args:
        incoming: The pipe to read.
        outgoing: The pipe to write; it blocks.
    """

    _whole_bytes_max = PIPE_BUF
    """Up to this length the kernel writes all or nothing, and a write needs no other care."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self.lock = NonReentrantLock()
        self._turns = LeaderFollowers()
        """Who reads the pipe for all that wait."""
        self._closes_late = False
        """`close` came in the middle of this thread's own wait, which closes the reading side when it ends."""
        self._after_turn: deque[Callable[[], object]] = deque()
        self.on_data: Callable[[bytes], None] = _ignore
        self.resume: Callable[[], bool] = lambda: False
        self._idle_due_ms: Callable[[], float | None] = lambda: None
        self._on_idle: Callable[[], object] = _nothing
        self._unsent = b""
        """The rest of a long write that an exception has cut off."""
        self._pieces: deque[bytes] = deque()
        """Read, and not given to `on_data` yet."""
        self._error: EventBusError | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = self._make_poll()
        self._poll.register(incoming, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        self._on_ready: dict[int, Callable[[], object]] = {}
        self._get_ident = threading.get_ident

    @staticmethod
    def _make_poll() -> Poll:
        return select.poll()

    monotonic_ns = staticmethod(monotonic_ns)
    time_ns = staticmethod(time_ns)

    # --- writing ---

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        if self._error is not None:
            raise fresh(self._error)
        try:
            if len(data) <= self._whole_bytes_max and not self._unsent:
                os.write(self._outgoing, data)
            else:
                self._write_long(self._unsent + data)
        except BrokenPipeError as cause:
            self.on_data(b"")
            raise fresh(self._error) from cause

    def _write_long(self, data: bytes) -> None:
        """In pieces. When a signal handler raises in between, the rest goes before what is sent next."""
        written: list[int] = []
        try:
            self._write_pieces(memoryview(data), written)
        finally:
            self._unsent = data[sum(written) :]

    def _write_pieces(self, data: memoryview, written: list[int]) -> None:
        # A function of its own: from CPython 3.12 on, a loop's jump back is outside the `try` that it stands in.
        while sum(written) < len(data):
            written.extend(map(os.write, (self._outgoing,), (data[sum(written) :],)))  # one step, see the top

    # --- waiting and reading ---

    def wait(self, ready: Callable[[], Any], timeout_s: float | None = None, crew: object = None) -> bool:
        """See `Transport.wait`."""
        me = threading.get_ident()
        turns = self._turns
        deadline = None if timeout_s is None else monotonic() + timeout_s
        looked = False
        try:
            while True:
                if threading.get_ident is not self._get_ident:  # First: another thread, a real one, may make it ready.
                    raise UsageError(PATCHED_LATE)
                if ready():
                    return True
                if self._error is not None:
                    raise fresh(self._error)
                if turns.is_mine or self.lock.owner == me:
                    raise reentered()
                left_s = None if deadline is None else min(deadline - monotonic(), WAIT_S_MAX)
                if left_s is not None and left_s <= 0:
                    if looked:
                        return False
                    left_s = 0  # A wait of no time takes in what has arrived.
                looked = True
                try:
                    turns.take(ready, left_s, crew)
                    if turns.leader == me and self._error is None and not ready():
                        self._read_once(left_s)
                finally:
                    if turns.leader == me:
                        turns.leader = 0
                        turns.hand_over(ready if self._error is None else None, crew)
                        if self._after_turn or self._closes_late:
                            self._end_turn()
        finally:
            if turns.followers and not turns.leader:
                turns.pass_on()

    def _end_turn(self) -> None:
        if self._closes_late:
            self._closes_late = False
            self._close_reading_side()
        self._turns.pass_on()  # What follows may take long.
        while self._after_turn:
            self._after_turn.popleft()()

    def after_turn(self, what: Callable[[], object]) -> None:
        """See `Transport.after_turn`."""
        self._after_turn.append(what)

    def _read_once(self, left_s: float | None) -> None:
        # An earlier turn may have been interrupted.
        if self._pieces:
            self._pass_on()
            return
        if self.resume():
            return
        for fd, _ in self._ready(None if left_s is None else left_s * 1000):
            if fd == self._incoming:
                self._pieces.extend(map(os.read, (fd,), (READ_BYTES,)))  # one step, see the top
                self._pass_on()
            elif fd == self._wake_fd:
                os.eventfd_read(fd)
            else:
                self._on_ready[fd]()

    def _ready(self, timeout_ms: float | None) -> list[tuple[int, int]]:
        due_ms = self._idle_due_ms()
        if due_ms is None or (timeout_ms is not None and timeout_ms < due_ms):
            return self._poll.poll(timeout_ms)
        found = self._poll.poll(due_ms)
        if not found or not due_ms:
            self._after_turn.append(self._on_idle)
        return found

    def when_idle(self, due_ms: Callable[[], float | None], call: Callable[[], object]) -> None:
        """See `Transport.when_idle`."""
        self._idle_due_ms, self._on_idle = due_ms, call

    def _pass_on(self) -> None:
        while self._pieces:
            self.on_data(self._pieces.popleft())

    def wake(self, *, followers: bool = False) -> None:
        """See `Transport.wake`. With `followers`, wake them even while nobody reads.

        Only the end of a session needs that: if a signal handler raised just as a leader was handing over, its
        followers still wait for it.
        """
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)
        if followers:
            self._turns.hand_over()

    def watch(self, fd: int, on_ready: Callable[[], object]) -> None:
        """See `Transport.watch`."""
        self._on_ready[fd] = on_ready
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """See `Transport.unwatch`."""
        if self._on_ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def late_call(self, call: Callable[[], object], delay_s: float) -> LateCall:
        """See `Transport.late_call`."""
        return LateCall(call, delay_s)

    # --- the end ---

    @property
    def ended(self) -> bool:
        """Whether the link has ended, by either side."""
        return self._error is not None

    def end(self, error: EventBusError) -> None:
        """See `Transport.end`."""
        self._error = self._error or error

    def rest(self) -> bytes:
        """See `Transport.rest`."""
        pieces: list[bytes] = []

        self.wake()
        if self._incoming >= 0:
            self._turns.close(lambda: pieces.append(read_to_end(self._incoming)))
        return b"".join(pieces)

    def close(self, error: EventBusError, farewell: bytes, before: Callable[[], object] = _nothing) -> None:
        """See `Transport.close`. Waiting threads get `error`, and have stopped using the pipes when this returns.

        Raises:
            UsageError: This thread is in the middle of writing.
        """
        with self.lock.held():
            if self._outgoing < 0:
                self._error = self._error or error
                return
            before()
            is_ours_to_say, self._error = self._error is None, self._error or error
            if is_ours_to_say:
                with suppress(BrokenPipeError):  # The manager left first.
                    os.write(self._outgoing, self._unsent + farewell)
            os.close(self._outgoing)
            self._outgoing = -1
        self.wake()
        # The leader sees the error and steps down; then nobody uses the descriptors any more.
        self._closes_late = not self._turns.close(self._close_reading_side)

    def _close_reading_side(self) -> None:
        # The numbers go first: a signal handler may wake us between any two lines.
        fds, self._incoming, self._wake_fd = (self._incoming, self._wake_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def abandon(self, error: EventBusError) -> None:
        """See `Transport.abandon`."""
        for fd in (self._incoming, self._outgoing, self._wake_fd):
            if fd >= 0:
                os.close(fd)
        self._incoming = self._outgoing = self._wake_fd = -1
        # Other threads of the parent may have had these.
        self.lock.reset()
        self._turns = LeaderFollowers()
        self._error = error


def fresh(error: EventBusError | None) -> EventBusError:
    """The error that a link has ended with, as a new object: a raised one carries the traceback of where it was
    raised."""
    return type(error)(*error.args) if error is not None else BusClosed("the link has ended")


def read_to_end(fd: int) -> bytes:
    """What a pipe still has whose other end is closed, or will be at once."""
    pieces = []
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(REST_MS) and (data := os.read(fd, READ_BYTES)):
        pieces.append(data)
    return b"".join(pieces)


def _ignore(data: bytes) -> None:
    """Nobody is interested yet."""
