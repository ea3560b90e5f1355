"""The manager's loop: wait once, read what is there, let the core decide, perform its effects, write once a process.

What it takes in goes through the journal, so that its standby can go on in its place (standby.py). `_take_over` is
where the standby begins.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.errors import EventBusError, ProtocolError
from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.manager import journal as kinds
from eventbus_mp.manager.acceptor import Acceptor, PendingLink
from eventbus_mp.manager.batching import BatchDelay
from eventbus_mp.manager.executor import EffectExecutor
from eventbus_mp.manager.journal import Entry, Journal, Position
from eventbus_mp.manager.standby import Standby
from eventbus_mp.memory import shm
from eventbus_mp.protocol import records
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.messages import LinkLost, LinkOpened, ManagerReplaced, TimePassed
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.runtime.pipe import PipeEnds

__all__ = ["Server"]

log = logging.getLogger("eventbus_mp.manager")

MEMORY_BYTES_DEFAULT_MAX = 1 << 30
MEMORY_BYTES_MIN = 1 << 20
SPAN_BYTES_MAX = 1 << 20
SPANS_MIN = 16
"""The spans that small events share are cut so that at least this many fit."""

WAIT_S_MAX = 86_400.0
TAKEOVERS_MAX = 5
"""So many managers in a row that died while they took over end the bus: the next one would die of the same."""


@dataclass(slots=True)
class Link:
    """One connected process, as the loop knows it."""

    number: int
    pid: int
    pidfd: int
    ends: PipeEnds
    stream: ManagerDecoder
    writable_wanted: bool = False
    unsent_replies: list[bytes] = field(default_factory=list)
    """Those of the frames in `ends` that only this manager knows of: everything else a client can ask for again."""


class Server:
    """Serves one bus until the core says stop.

    Args:
        prefix: What the names of segments begin with; the caller has claimed it.
        config: The bus-wide settings.
        listener: The bus's socket, listening and not blocking.

    Raises:
        EventBusError: /dev/shm is too small for any bus.
    """

    def __init__(self, prefix: str, config: BusConfig, listener: socket.socket) -> None:
        config = replace(config, memory_bytes_max=_memory_bytes_max(config))
        assert config.memory_bytes_max is not None
        self._core = BusCore(config, time.monotonic_ns())
        self._prefix = prefix
        self._span_bytes = min(SPAN_BYTES_MAX, _power_of_two(config.memory_bytes_max // SPANS_MIN))
        self._executor = EffectExecutor(self._core, self._prefix, self)
        self._batch_delay = BatchDelay()
        self._links: dict[int, Link] = {}
        self._link_serial = 0
        self._stopping = False
        self._now_ns = 0
        self._unflushed: dict[int, Link] = {}
        self._listener = listener
        self._journal = Journal()
        self._standby = Standby(self._journal)
        self._standby_wanted = True
        self._pending: list[PendingLink] = []
        """Processes that have a link and do not know it yet: first the standby has to have it, too."""
        self._set_up_waiting()

    def _set_up_waiting(self) -> None:
        """What cannot be shared with another manager: the poll object, and what wakes it."""
        self._poll = select.epoll()
        self._on_ready: dict[int, Callable[[], object]] = {}
        # A signal's handler runs between two steps of the interpreter: if it comes just before the wait, after that.
        self._wake, self._wakes = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        signal.set_wakeup_fd(self._wakes.fileno())
        self.watch(self._wake.fileno(), lambda: self._wake.recv(64))
        self._acceptor = Acceptor(self._listener, self.watch, self.unwatch, self._open_link)
        self.watch(self._listener.fileno(), self._acceptor.accept)
        signal.signal(signal.SIGTERM, lambda *_: self.leave())

    def watch(self, fd: int, on_ready: Callable[[], object], events: int = select.EPOLLIN) -> None:
        self._poll.register(fd, events)
        self._on_ready[fd] = on_ready

    def unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._on_ready[fd]

    def run(self) -> None:
        """Serve. When it returns, every link is closed and every segment removed."""
        due_ns = self._next_due_ns()
        while not self._stopping:
            self._batch_delay.wait()
            ready = [(fd, self._on_ready.get(fd)) for fd, _ in self._poll.poll(_timeout_s(due_ns))]
            for fd, on_ready in ready:
                # An earlier one of this round may have closed it, and a newcomer may have its number.
                if on_ready is not None and self._on_ready.get(fd) is on_ready:
                    on_ready()
            self._flush()  # First of all: somebody waits for it.
            due_ns = self._next_due_ns()
            if due_ns is not None and due_ns <= time.monotonic_ns():
                self._pass_time()
                self._flush()
                due_ns = self._next_due_ns()
            while self._standby_wanted or self._journal.is_full:
                self._renew_standby()
                self._flush()  # The heir's first words: all wait for them, and nobody may be about to wake it.
                due_ns = self._next_due_ns()
        self._leave()

    def _next_due_ns(self) -> int | None:
        core_ns, reception_ns = self._core.next_due_ns(), self._acceptor.next_due_ns()
        if core_ns is None or reception_ns is None:
            return core_ns if reception_ns is None else reception_ns
        return min(core_ns, reception_ns)

    def _pass_time(self) -> None:
        self._acceptor.drop_silent()
        self._now_ns = time.monotonic_ns()
        self._journal.append(kinds.TIME_PASSED, 0, 0, self._now_ns)
        self._executor.decide(TimePassed(), self._now_ns)

    def _leave(self) -> None:
        self._standby.close()
        self._acceptor.close()
        for pending in self._pending:
            pending.close()
        for link in list(self._links.values()):
            self._close(link)
        self._close_waiting()

    def _close_waiting(self) -> None:
        self._poll.close()
        signal.set_wakeup_fd(-1)
        self._wake.close()
        self._wakes.close()

    # --- the standby ---

    def _renew_standby(self) -> None:
        """Have a standby with every link there is, then greet those who wait for that. In the standby: take over."""
        self._standby_wanted = False
        position = self._journal.position
        if self._fork_standby():
            self._take_over(position)
            return
        self._journal.restart()
        pending, self._pending = self._pending, []
        for one in pending:
            one.greet()

    def _fork_standby(self) -> bool:
        """Whether this is the standby, after the manager's death. Where none can be made, the manager goes on alone."""
        try:
            if self._standby.fork(self._forget_newcomers):
                return True
        except OSError as error:
            log.error("cannot make a standby (%s): until it can, the manager's death is the end of the bus", error)
            self._standby.dismiss()
            self._journal.successor_pid = 0
            return False
        self._watch_standby()
        return False

    def _forget_newcomers(self) -> None:
        """In the standby: who has no link yet connects again when the manager dies, and sees at once that it did."""
        self._acceptor.close(unwatched=True)
        for pending in self._pending:
            pending.close()
        self._pending.clear()
        self._close_waiting()

    def _watch_standby(self) -> None:
        pidfd = self._standby.pidfd
        self.watch(pidfd, lambda: self._on_standby_ended(pidfd))

    def _on_standby_ended(self, pidfd: int) -> None:
        """Any of them: the one that was dismissed, as it should, or the one that is needed."""
        self.unwatch(pidfd)
        if self._standby.reap(pidfd):
            log.warning("the standby of the manager died; another one takes its place")
            self._standby_wanted = True

    def _take_over(self, position: Position) -> None:
        """The manager before died: become it. Do again what it did since `mark`, then have each process compare."""
        self._journal.takeovers += 1
        if self._journal.takeovers > TAKEOVERS_MAX:
            sys.exit("the managers of this bus die while they take over; the bus ends")
        log.warning("the manager died; process %d goes on in its place", os.getpid())
        self._set_up_waiting()
        for link in self._links.values():
            link.writable_wanted = False
            link.ends.drop_queued()
            self._watch_link(link)
        # Should this one die, too, another does all of this again.
        if self._fork_standby():
            self._take_over(position)
            return
        self._catch_up(position)
        self._journal.takeovers = 0
        self._standby_wanted = True  # One that need not catch up with all that.

    def _catch_up(self, position: Position) -> None:
        self._executor.is_catching_up = True
        for entry in self._journal.replay(position):
            self._now_ns = entry.now_ns
            self._repeat(entry)
        self._executor.is_catching_up = False
        for number in [number for number in self._core.state.links if number not in self._links]:
            # It was never greeted: its pipes went with the manager before.
            self._executor.decide(LinkLost(number, crashed=False), self._now_ns)
        self._executor.decide(ManagerReplaced(os.getpid()), self._now_ns)
        for link in self._links.values():
            link.ends.drop_queued()
            self.post(link.number, [records.pack_manager_replaced(os.getpid()), *link.unsent_replies])

    def _repeat(self, entry: Entry) -> None:
        link = self._links.get(entry.link)
        if entry.kind == kinds.TIME_PASSED:
            self._executor.decide(TimePassed(), entry.now_ns)
        elif entry.kind == kinds.LINK_OPENED:
            self._link_serial = entry.link
            self._executor.decide(LinkOpened(entry.link, entry.number), entry.now_ns)
        elif link is None:
            return
        elif entry.kind == kinds.READ:
            self._take_in(link, entry.data)
        else:
            self._lose(link)

    # --- processes ---

    def _open_link(self, connection: socket.socket, pid: int) -> None:
        """Take in a process whose HELLO was fine; it is greeted when the standby has its pipes, too."""
        number = self._link_serial + 1
        device = os.stat(shm.SHM_DIR).st_dev
        memory_bytes_max = self._core.state.spans.memory_bytes_max
        welcome = Welcome(number, self._prefix, self._span_bytes, memory_bytes_max, device, os.getpid())
        opened = self._acceptor.make_pipes(connection, pid, welcome)
        if opened is None:
            return
        self._link_serial = number
        pending, pidfd, ends = opened
        self._pending.append(pending)
        self._standby_wanted = True
        link = Link(number, pid, pidfd, ends, ManagerDecoder(number))
        self._links[number] = link
        self._watch_link(link)
        self._now_ns = time.monotonic_ns()
        self._journal.append(kinds.LINK_OPENED, number, pid, self._now_ns)
        self._executor.decide(LinkOpened(number, pid), self._now_ns)

    def _watch_link(self, link: Link) -> None:
        self.watch(link.ends.incoming, lambda: self._read(link))
        if link.pidfd >= 0:
            self.watch(link.pidfd, lambda: self._on_process_ended(link))

    def _read(self, link: Link) -> bool:
        """Take what the pipe holds; whether there may be more."""
        if self._journal.is_full:
            return False  # After the next standby.
        self._now_ns = time.monotonic_ns()
        data = self._journal.read(link.ends.incoming, link.number, self._now_ns)
        if data:
            self._batch_delay.count(len(data))
            self._take_in(link, data)
            return link.number in self._links
        if data is not None:
            self._append_lost(link)
        return False

    def _take_in(self, link: Link, data: bytes) -> None:
        try:
            messages = link.stream.feed(data)
        except ProtocolError as error:
            self.cut_off(link.number, str(error))
            return
        for message in messages:
            self._executor.decide(message, self._now_ns)

    def _on_process_ended(self, link: Link) -> None:
        """What a process sent before it died counts: read it all, then take everything back."""
        while link.number in self._links and self._read(link):
            pass
        if link.number in self._links and not self._journal.is_full:
            self._append_lost(link)

    def _append_lost(self, link: Link) -> None:
        self._now_ns = time.monotonic_ns()
        self._journal.append(kinds.LINK_LOST, link.number, 0, self._now_ns)
        self._lose(link)

    def _lose(self, link: Link) -> None:
        self._close(link)
        self._executor.decide(LinkLost(link.number, crashed=True), self._now_ns)

    def _close(self, link: Link) -> None:
        link.ends.flush()
        del self._links[link.number]
        self._unflushed.pop(link.number, None)
        self.unwatch(link.ends.incoming)
        if link.writable_wanted:
            self.unwatch(link.ends.outgoing)
        if link.pidfd >= 0:
            self.unwatch(link.pidfd)
            os.close(link.pidfd)
        link.ends.close()

    # --- what the desk needs ---

    def post(self, link: int, frames: list[bytes], *, is_reply: bool = False) -> None:
        found = self._links.get(link)
        if found is not None:  # else: lost in the meantime
            found.ends.queue(frames)
            self._unflushed[link] = found
            if is_reply:
                found.unsent_replies += frames

    def cut_off(self, link: int, reason: str) -> None:
        found = self._links.get(link)
        if found is not None:
            log.warning("process %d broke the protocol and is cut off: %s", found.pid, reason)
            self._lose(found)
            self._standby_wanted = True  # This one holds the pipes, and the process would not see their end.

    def leave(self) -> None:
        """After the current cycle."""
        self._stopping = True

    def _flush(self) -> None:
        for number, link in list(self._unflushed.items()):
            done = link.ends.flush()
            if link.ends.overflowing:
                log.warning("process %d is cut off: it asks and does not read the answers", link.pid)
                self._append_lost(link)
                self._standby_wanted = True
                return self._flush()  # What others get because of that may be for those who had their turn.
            if done != (not link.writable_wanted):
                self._want_writable(link, not done)
            if done:
                del self._unflushed[number]
                link.unsent_replies.clear()

    def _want_writable(self, link: Link, wanted: bool) -> None:
        link.writable_wanted = wanted
        if wanted:
            self.watch(link.ends.outgoing, lambda: None, select.EPOLLOUT)
        else:
            self.unwatch(link.ends.outgoing)


def _timeout_s(due_ns: int | None) -> float | None:
    """How long to wait for something that is due; epoll takes no more than 24 days."""
    return None if due_ns is None else min(max(0.0, (due_ns - time.monotonic_ns()) / 1e9), WAIT_S_MAX)


def _memory_bytes_max(config: BusConfig) -> int:
    if config.memory_bytes_max is not None:
        return config.memory_bytes_max // CHUNK_BYTES * CHUNK_BYTES
    memory = min(shm.free_bytes() // 4, MEMORY_BYTES_DEFAULT_MAX) // CHUNK_BYTES * CHUNK_BYTES
    if memory < MEMORY_BYTES_MIN:
        raise EventBusError(
            f"/dev/shm has {shm.free_bytes()} bytes free, and a bus needs at least {4 * MEMORY_BYTES_MIN}; "
            "make it larger (docker run --shm-size=1g) or remove what is left there"
        )
    return memory


def _power_of_two(length: int) -> int:
    """The largest power of two that is not over `length`, at least one block."""
    return int(max(CHUNK_BYTES, 1 << (length.bit_length() - 1)))
