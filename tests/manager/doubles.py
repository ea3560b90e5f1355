"""The manager's surroundings without a process: segments in a dict, links that keep their frames, a client by hand."""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.manager.batching import BatchDelay
from eventbus_mp.manager.executor import EffectExecutor
from eventbus_mp.manager.ingest import Ingest
from eventbus_mp.manager.journal import Journal
from eventbus_mp.manager.links import LinkTable
from eventbus_mp.manager.poller import Poller
from eventbus_mp.protocol.client_events import ClientEvent
from eventbus_mp.protocol.decoders import ClientDecoder, encode_request
from eventbus_mp.protocol.effects import Effect
from eventbus_mp.protocol.messages import Message
from eventbus_mp.protocol.requests import Request
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.runtime.pipe import PipeEnds, make_pipe

MEMORY_BYTES = 1 << 20
SETTINGS = BusConfig(memory_bytes_max=MEMORY_BYTES, manager_idle_s=3600, check_invariants=True)


class MemorySegments:
    """A store of segments that is a dict. It refuses to make one as long as `refuses` is set, as a full /dev/shm."""

    def __init__(self) -> None:
        self.found: dict[str, bytearray] = {}
        self.freed: list[tuple[str, int, int]] = []
        self.refuses: OSError | None = None

    def create(self, name: str, length: int, directory: str | None = None) -> None:
        if self.refuses is not None:
            raise self.refuses
        if name in self.found:
            raise FileExistsError(name)
        self.found[name] = bytearray(length)

    def remove(self, name: str) -> None:
        self.found.pop(name, None)

    def free_pages(self, name: str, offset: int, length: int) -> None:
        if name not in self.found:
            raise FileNotFoundError(name)
        self.found[name][offset : offset + length] = bytes(length)
        self.freed.append((name, offset, length))

    def back(self, name: str, offset: int, length: int) -> None:
        if self.refuses is not None:
            raise self.refuses
        if name not in self.found:
            raise FileNotFoundError(name)

    def attach(self, name: str) -> memoryview:
        return memoryview(self.found[name])

    def read(self, name: str, offset: int, length: int) -> bytes:
        if name not in self.found:
            raise FileNotFoundError(name)
        return bytes(self.found[name][offset : offset + length])


class MemoryTransport:
    """Links that are open until they are cut off, and keep what is posted to them."""

    def __init__(self, *links: int) -> None:
        self.frames: dict[int, list[bytes]] = {link: [] for link in links}
        self.replies: dict[int, list[bytes]] = {link: [] for link in links}
        self.cut: list[tuple[int, str]] = []

    def post(self, link: int, frames: list[bytes], *, is_reply: bool = False) -> None:
        if link in self.frames:
            self.frames[link] += frames
            if is_reply:
                self.replies[link] += frames

    def cut_off(self, link: int, reason: str) -> bool:
        self.cut.append((link, reason))
        return self.frames.pop(link, None) is not None

    def events(self, link: int) -> list[ClientEvent]:
        """What the process of the link is told by its frames."""
        return ClientDecoder().feed(b"".join(self.frames[link]))


class ScriptedCore(BusCore):
    """Decides what it is given: one list of effects for each message, and nothing when there are no more."""

    def __init__(self, *decisions: list[Effect]) -> None:
        super().__init__(SETTINGS, 0)
        self.decisions = list(decisions)
        self.messages: list[Message] = []

    def handle(self, message: Message, now_ns: int) -> list[Effect]:
        self.messages.append(message)
        return self.decisions.pop(0) if self.decisions else []


class Client:
    """A process's side of its two pipes."""

    def __init__(self) -> None:
        self.incoming, self.their_outgoing = make_pipe()
        self.their_incoming, self.outgoing = make_pipe()
        os.set_blocking(self.incoming, False)
        self._decoder = ClientDecoder()

    def write(self, data: bytes) -> None:
        assert os.write(self.outgoing, data) == len(data)

    def ask(self, *requests: Request) -> None:
        self.write(b"".join(map(encode_request, requests)))

    def hear(self) -> list[ClientEvent]:
        """What has come since the last time."""
        heard = []
        while select.select([self.incoming], [], [], 0)[0] and (data := os.read(self.incoming, 1 << 16)):
            heard += self._decoder.feed(data)
        return heard

    def is_cut_off(self) -> bool:
        """Whether the pipe has ended; what was in it must have been heard."""
        try:
            return os.read(self.incoming, 1) == b""
        except BlockingIOError:
            return False

    def end(self) -> None:
        """Close what this side writes to, as the end of the process does."""
        if self.outgoing >= 0:
            os.close(self.outgoing)
            self.outgoing = -1

    def close(self) -> None:
        self.end()
        os.close(self.incoming)


class Manager:
    """All of a manager but its loop and its standby: real pipes and a real journal, segments in a dict."""

    def __init__(self, segments: MemorySegments, journal: Journal, core: BusCore) -> None:
        self.core = core
        self.segments = segments
        self.journal = journal
        self.poller = Poller()
        self.links = LinkTable(self.poller)
        self.executor = EffectExecutor(core, "segment-", self.links, segments)
        self.ingest = Ingest(self.executor, self.links, journal, BatchDelay(), self.welcome)
        self._clients: list[Client] = []

    def welcome(self, link: int) -> Welcome:
        return Welcome(link, "segment-", 1 << 16, MEMORY_BYTES, 1, os.getpid())

    def connect(self, pid: int = 1234, pidfd: int = -1) -> Client:
        """A process whose link is open, and who has its pipes."""
        client = Client()
        self._clients.append(client)
        ends = PipeEnds(client.their_incoming, client.their_outgoing)
        self.ingest.open_link(pid, pidfd, ends)
        return client

    def turn(self) -> None:
        """Read what is there, decide, write."""
        self.poller.wait(0)
        while overflowing := self.links.flush():
            self.ingest.cut_off_overflowing(overflowing)

    def close(self) -> None:
        for link in self.links:
            self.links.close(link)
        self.poller.close()
        for client in self._clients:
            client.close()


@contextmanager
def a_manager(core: BusCore | None = None, **others: Any) -> Iterator[Manager]:
    """A manager whose pipes are closed at the end."""
    found = Manager(
        others.get("segments") or MemorySegments(),
        others.get("journal") or Journal(),
        core or BusCore(SETTINGS, 0),
    )
    try:
        yield found
    finally:
        found.close()
