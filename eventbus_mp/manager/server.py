"""The manager's loop: wait once, read what is there, let the core decide, perform its effects, write once a process.

The modules of the manager are a chain, and each imports only those to its left:

    poller  <  links  <  executor  <  ingest  <  takeover  <  server

    poller      waits for descriptors, and calls what is watched
    links       the connected processes, and what waits to be written to them
    executor    one message -> the core -> its effects on links and segments; what follows is returned
    ingest      bytes, connections, ends and time -> journal -> messages for the executor
    takeover    the standby: makes one, and is what it does when the manager dies
    server      puts them together and runs the loop

`acceptor`, `journal`, `standby`, `signals` and `batching` stand beside the chain and import none of it.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import replace
from types import FrameType

from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.errors import EventBusError
from eventbus_mp.geometry import CHUNK_BYTES, shared_span_bytes
from eventbus_mp.manager.acceptor import Acceptor
from eventbus_mp.manager.batching import BatchDelay
from eventbus_mp.manager.executor import EffectExecutor
from eventbus_mp.manager.ingest import Ingest
from eventbus_mp.manager.journal import JOURNAL_BYTES, Journal
from eventbus_mp.manager.links import LinkTable
from eventbus_mp.manager.poller import Poller
from eventbus_mp.manager.signals import set_signals
from eventbus_mp.manager.takeover import Takeover
from eventbus_mp.memory.shm import SHARED_MEMORY, SHM_DIR
from eventbus_mp.protocol.client_events import BusEnded, pack_client_event
from eventbus_mp.runtime.handshake import Welcome

__all__ = ["Server"]

MEMORY_BYTES_DEFAULT_MAX = 1 << 30
MEMORY_BYTES_MIN = 1 << 20
FIRST_LINK_MAX = 1 << 19
"""Links are counted from a random number below this. Sequence numbers begin with the link's, so a shadow of another
bus, or of an earlier manager, finds no event here that is not its own. With links below 2^20 they have 60 bits, which
are two digits of an int."""


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
        self._prefix = prefix
        self._memory_bytes_max = _memory_bytes_max(config)
        self._span_bytes = shared_span_bytes(self._memory_bytes_max)
        self._is_end_asked = False
        self._core = BusCore(replace(config, memory_bytes_max=self._memory_bytes_max), time.monotonic_ns())
        self._batch_delay = BatchDelay()
        self._journal = Journal()
        self._poller = Poller()
        self._links = LinkTable(self._poller)
        self._executor = EffectExecutor(self._core, prefix, self._links, SHARED_MEMORY, self._facts)
        self._ingest = Ingest(self._executor, self._links, self._journal, self._batch_delay, self._welcome)
        self._ingest.link_serial = secrets.randbelow(FIRST_LINK_MAX)
        self._acceptor = Acceptor(listener, self._poller.watch, self._poller.unwatch, self._ingest.open_link)
        self._takeover = Takeover(
            self._poller, self._acceptor, self._links, self._executor, self._ingest, self._journal
        )
        self._takeover.listen()
        set_signals(self._on_end_asked)

    def _on_end_asked(self, number: int, frame: FrameType | None) -> None:
        self._is_end_asked = True  # The poller's wait has ended, or will at once.

    def _welcome(self, link: int) -> Welcome:
        device = os.stat(SHM_DIR).st_dev
        return Welcome(link, self._prefix, self._span_bytes, self._memory_bytes_max, device, os.getpid())

    def _facts(self) -> dict[str, int]:
        return {
            "pid": os.getpid(),
            "standby_pid": self._takeover.standby_pid,
            "journal_bytes": self._journal.position.offset,
            "journal_bytes_max": JOURNAL_BYTES,
        }

    def run(self) -> None:
        """Serve. When it returns, every link is closed and every segment removed."""
        ingest, journal = self._ingest, self._journal
        due_ns = self._next_due_ns()
        while not self._executor.is_stopping:
            self._batch_delay.wait()
            self._poller.wait(due_ns)
            # Before all that is not urgent: processes wait for what is written here.
            self._flush()
            if self._is_end_asked:
                self._is_end_asked = False
                ingest.ask_end()
            due_ns = self._next_due_ns()
            if due_ns is not None and due_ns <= time.monotonic_ns():
                self._acceptor.drop_silent()
                ingest.pass_time()
                self._flush()
                due_ns = self._next_due_ns()
            while ingest.is_standby_stale or journal.is_full:
                self._takeover.renew_standby()
                # In a new manager: every process waits for its first frame, and perhaps none is about to wake it.
                self._flush()
                due_ns = self._next_due_ns()
        self._leave()

    def _flush(self) -> None:
        """Write to the links. A link that is lost by it may cause frames for any other: then write once more."""
        while overflowing := self._links.flush():
            self._ingest.cut_off_overflowing(overflowing)

    def _next_due_ns(self) -> int | None:
        core_ns, acceptor_ns = self._core.next_due_ns(), self._acceptor.next_due_ns()
        if core_ns is None or acceptor_ns is None:
            return core_ns if acceptor_ns is None else acceptor_ns
        return min(core_ns, acceptor_ns)

    def _leave(self) -> None:
        # The standby first: it must not go on with a bus that ends in order.
        self._takeover.close()
        self._acceptor.close()
        for link in self._links:
            self._links.post(link.number, [pack_client_event(BusEnded())])
            self._links.close(link)
        self._poller.close()


def _memory_bytes_max(config: BusConfig) -> int:
    """How much shared memory the bus may use: as configured, or a share of what is free."""
    if config.memory_bytes_max is not None:
        return config.memory_bytes_max // CHUNK_BYTES * CHUNK_BYTES
    memory = min(SHARED_MEMORY.free_bytes() // 4, MEMORY_BYTES_DEFAULT_MAX) // CHUNK_BYTES * CHUNK_BYTES
    if memory < MEMORY_BYTES_MIN:
        raise EventBusError(
            f"/dev/shm has {SHARED_MEMORY.free_bytes()} bytes free, and a bus needs at least {4 * MEMORY_BYTES_MIN}; "
            "make it larger (docker run --shm-size=1g) or remove what is left there"
        )
    return memory
