"""The manager's loop: wait once, read what is there, let the core decide, perform its effects, write once a process."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgpack

from eventbus_mp import effects as fx
from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.errors import EventBusError, ProtocolError
from eventbus_mp.manager.reception import Reception
from eventbus_mp.memory import segment
from eventbus_mp.memory.layout import HEADER_BYTES
from eventbus_mp.memory.payload import read_id
from eventbus_mp.memory.reader import Mappings
from eventbus_mp.messages import BLOCK_BYTES, LinkLost, LinkOpened, Message, TimePassed
from eventbus_mp.model import ID_BYTES_MAX
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.runtime.pipe import PipeEnds
from eventbus_mp.runtime.rundir import RunDir
from eventbus_mp.wire import records
from eventbus_mp.wire.stream import FromProcess

__all__ = ["Server"]

log = logging.getLogger("eventbus_mp.manager")

MEMORY_BYTES_DEFAULT_MAX = 1 << 30
MEMORY_BYTES_MIN = 1 << 20
SPAN_BYTES_MAX = 1 << 20
SPANS_MIN = 16
"""The spans that small events share are cut so that at least this many fit."""

WINDOW_NS = 1_000_000
BUSY_BYTES_MIN = 32 * records.RECORD_BYTES
"""From so many bytes a millisecond on, the manager rests between cycles: 32,000 notified events a second."""
REST_S = 100e-6


@dataclass(slots=True)
class Link:
    """One connected process, as the loop knows it."""

    number: int
    pid: int
    pidfd: int
    ends: PipeEnds
    stream: FromProcess
    writable_wanted: bool = False


class Server:
    """Serves one bus until the core says stop.

    Args:
        run_dir: Of the bus; the caller holds its manager lock.
        config: The bus-wide settings.
        listener: The bus's socket, listening and not blocking.

    Raises:
        EventBusError: /dev/shm is too small for any bus.
    """

    def __init__(self, run_dir: RunDir, config: BusConfig, listener: socket.socket) -> None:
        config = replace(config, memory_bytes_max=_memory_bytes_max(config))
        assert config.memory_bytes_max is not None
        self._core = BusCore(config, time.monotonic_ns())
        self._prefix = f"{run_dir.segment_prefix}{os.urandom(4).hex()}-"
        self._mappings = Mappings(self._prefix)
        """For the ids in warnings only."""
        self._span_bytes = min(SPAN_BYTES_MAX, _power_of_two(config.memory_bytes_max // SPANS_MIN))
        self._links: dict[int, Link] = {}
        self._link_serial = 0
        self._stopping = False
        self._busy = False
        self._window_start_ns = self._window_bytes = 0
        self._poll = select.epoll()
        self._on_ready: dict[int, Callable[[], None]] = {}
        self._unflushed: dict[int, Link] = {}
        self._messages: deque[Message] = deque()
        self._reception = Reception(listener, self.watch, self.unwatch, self._open_link)
        self.watch(listener.fileno(), self._reception.accept)
        # A signal's handler only runs when the wait returns; this makes it return.
        self._wake, self._wakes = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.watch(self._wake.fileno(), lambda: None)

    def watch(self, fd: int, on_ready: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._poll.register(fd, events)
        self._on_ready[fd] = on_ready

    def unwatch(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._on_ready[fd]

    def stop(self) -> None:
        """Leave after the current cycle; callable from a signal handler."""
        self._stopping = True
        self._wakes.send(b"s")

    def run(self) -> None:
        """Serve. When it returns, every link is closed and every segment removed."""
        due_ns = self._next_due_ns()
        while not self._stopping:
            now_ns = time.monotonic_ns()
            self._pace(now_ns)
            for fd, _ in self._poll.poll(None if due_ns is None else max(0.0, (due_ns - now_ns) / 1e9)):
                on_ready = self._on_ready.get(fd)
                if on_ready is not None:  # else: closed by an earlier one of this round
                    on_ready()
            due_ns = self._next_due_ns()
            if due_ns is not None and due_ns <= time.monotonic_ns():
                self._reception.drop_silent()
                self._decide(TimePassed())
                due_ns = self._next_due_ns()
            self._flush()
        self._leave()

    def _next_due_ns(self) -> int | None:
        dues = [due for due in (self._core.next_due_ns(), self._reception.next_due_ns()) if due is not None]
        return min(dues, default=None)

    def _pace(self, now_ns: int) -> None:
        """Under load, rest a moment so that batches grow: a cycle costs the same for one event as for thirty.

        While the manager rests, writing to it wakes nobody, which is the larger part of what a write costs. A bus
        with fewer than `BUSY_BYTES_MIN` a millisecond never rests: its latency is that of two wake-ups.
        """
        if now_ns - self._window_start_ns > WINDOW_NS:
            elapsed_windows = (now_ns - self._window_start_ns) / WINDOW_NS
            self._busy = self._window_bytes >= BUSY_BYTES_MIN * elapsed_windows
            self._window_start_ns, self._window_bytes = now_ns, 0
        if self._busy:
            time.sleep(REST_S)

    def _leave(self) -> None:
        self._reception.close()
        for link in list(self._links.values()):
            self._close(link)
        self._poll.close()
        self._wake.close()
        self._wakes.close()

    # --- processes ---

    def _open_link(self, connection: socket.socket, pid: int) -> None:
        """Greet a process whose HELLO was fine, and begin to read from it."""
        self._link_serial += 1
        reception = self._reception
        welcome = Welcome(
            self._link_serial, self._prefix, self._span_bytes, os.stat(segment.SHM_DIR).st_dev, os.getpid()
        )
        opened = reception.hand_over_pipes(connection, pid, welcome)
        if opened is None:
            return
        pidfd, ends = opened
        link = Link(self._link_serial, pid, pidfd, ends, FromProcess(self._link_serial))
        self._links[link.number] = link
        self.watch(ends.incoming, lambda: self._on_readable(link))
        if pidfd >= 0:
            self.watch(pidfd, lambda: self._process_ended(link))
        self._decide(LinkOpened(link.number, pid))

    def _on_readable(self, link: Link) -> None:
        self._read(link)

    def _read(self, link: Link) -> bool:
        """Take what the pipe holds; whether there may be more."""
        data = link.ends.read()
        if not data:
            if data is not None:
                self._lose(link)
            return False
        self._window_bytes += len(data)
        try:
            messages = link.stream.feed(data)
        except ProtocolError as error:
            self._cut_off(link, str(error))
            return False
        for message in messages:
            self._decide(message)
        return link.number in self._links

    def _process_ended(self, link: Link) -> None:
        """What a process sent before it died counts: read it all, then take everything back."""
        while link.number in self._links and self._read(link):
            pass
        if link.number in self._links:
            self._lose(link)

    def _lose(self, link: Link) -> None:
        self._close(link)
        self._decide(LinkLost(link.number, crashed=True))

    def _cut_off(self, link: Link, reason: str) -> None:
        log.warning("process %d broke the protocol and is cut off: %s", link.pid, reason)
        self._lose(link)

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

    # --- decisions and effects ---

    def _decide(self, message: Message) -> None:
        """Have the core decide, and do it. Messages that an effect causes wait until all its effects are done."""
        self._messages.append(message)
        if len(self._messages) > 1:
            return
        while self._messages:
            for effect in self._core.handle(self._messages[0], time.monotonic_ns()):
                self._EFFECTS[type(effect)](self, effect)
            self._messages.popleft()

    def _send(self, number: int, data: bytes) -> None:
        link = self._links.get(number)
        if link is not None:  # else: lost in the meantime
            link.ends.queue(data)
            self._unflushed[number] = link

    def _flush(self) -> None:
        for number, link in list(self._unflushed.items()):
            done = link.ends.flush()
            if link.ends.overflowing:
                self._cut_off(link, "it asks and does not read the answers")
            elif done != (not link.writable_wanted):
                self._want_writable(link, not done)
            if done:
                self._unflushed.pop(number, None)

    def _want_writable(self, link: Link, wanted: bool) -> None:
        link.writable_wanted = wanted
        if wanted:
            self.watch(link.ends.outgoing, lambda: None, select.EPOLLOUT)
        else:
            self.unwatch(link.ends.outgoing)

    def _deliver(self, effect: fx.Deliver) -> None:
        self._send(effect.link, records.delivered(effect.subscriber, effect.attempt, effect.raws))

    def _reply(self, effect: fx.Reply) -> None:
        self._send(effect.link, records.replied(records.REPLIED, effect.request, msgpack.packb(effect.value)))

    def _refuse(self, effect: fx.Refuse) -> None:
        body = msgpack.packb([effect.error, effect.text])
        self._send(effect.link, records.replied(records.REFUSED, effect.request, body))

    def _tell_topic_stale(self, effect: fx.TellTopicStale) -> None:
        self._send(effect.link, records.topic_stale(effect.topic, effect.dropped))

    def _grant_span(self, effect: fx.GrantSpan) -> None:
        self._send(effect.link, records.span_granted(effect.segment, effect.offset, effect.length, effect.backed))

    def _create_segment(self, effect: fx.CreateSegment) -> None:
        segment.create(f"{self._prefix}{effect.segment}", effect.length)

    def _remove_segment(self, effect: fx.RemoveSegment) -> None:
        segment.remove(f"{self._prefix}{effect.segment}")

    def _close_link(self, effect: fx.CloseLink) -> None:
        link = self._links.get(effect.link)
        if link is not None:
            self._cut_off(link, effect.reason)

    def _warn(self, effect: fx.Warn) -> None:
        log.warning("%s", effect.text)

    def _warn_of_lease(self, effect: fx.WarnOfLease) -> None:
        view = self._mappings[effect.segment]
        head = bytes(view[effect.offset : effect.offset + min(effect.length, HEADER_BYTES + ID_BYTES_MAX)])
        event_id = read_id(head, effect.sequence)
        log.warning(
            "process %d has kept a view of event %r of topic %r, %d bytes, for %d s: drop it, or keep event.copy()",
            effect.pid,
            event_id if event_id is not None else f"{effect.sequence:#x}",
            effect.topic,
            effect.length,
            effect.age_s,
        )

    def _stop(self, effect: fx.Stop) -> None:
        self._stopping = True

    _EFFECTS: ClassVar[dict[type, Callable[[Server, Any], None]]] = {
        fx.Deliver: _deliver,
        fx.Reply: _reply,
        fx.Refuse: _refuse,
        fx.TellTopicStale: _tell_topic_stale,
        fx.GrantSpan: _grant_span,
        fx.CreateSegment: _create_segment,
        fx.RemoveSegment: _remove_segment,
        fx.CloseLink: _close_link,
        fx.Warn: _warn,
        fx.WarnOfLease: _warn_of_lease,
        fx.Stop: _stop,
    }


def _memory_bytes_max(config: BusConfig) -> int:
    if config.memory_bytes_max is not None:
        return config.memory_bytes_max // BLOCK_BYTES * BLOCK_BYTES
    memory = min(segment.free_bytes() // 4, MEMORY_BYTES_DEFAULT_MAX) // BLOCK_BYTES * BLOCK_BYTES
    if memory < MEMORY_BYTES_MIN:
        raise EventBusError(
            f"/dev/shm has {segment.free_bytes()} bytes free, and a bus needs at least {4 * MEMORY_BYTES_MIN}; "
            "make it larger (docker run --shm-size=1g) or remove what is left there"
        )
    return memory


def _power_of_two(length: int) -> int:
    """The largest power of two that is not over `length`, at least one block."""
    return int(max(BLOCK_BYTES, 1 << (length.bit_length() - 1)))
