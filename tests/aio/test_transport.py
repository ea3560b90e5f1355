"""The transport of a loop alone: real pipes; no manager and no protocol."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, InternalError, ManagerLost, UsageError
from eventbus_mp.aio.running import running_loop
from eventbus_mp.aio.transport import LoopTransport

WAIT_S = 30.0
PIPE_BYTES = 4096


class Peer:
    """The other ends of the pipes."""

    def __init__(self) -> None:
        incoming, self.to_transport = os.pipe()
        self.from_transport, outgoing = os.pipe()
        fcntl.fcntl(outgoing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[attr-defined]
        self.transport = LoopTransport(running_loop(), incoming, outgoing)
        self.received: list[bytes] = []
        self.transport.on_data = self._on_data
        self.looked = asyncio.Event()
        self.transport.after_reading = self.looked.set

    def _on_data(self, data: bytes) -> None:
        self.received.append(data)
        if not data:
            self.transport.end(ManagerLost("the peer is gone"))

    async def until(self, is_true: Callable[[], object]) -> None:
        while not is_true():
            self.looked.clear()
            await self.looked.wait()

    def leave(self) -> None:
        for fd in (self.to_transport, self.from_transport):
            if fd >= 0:
                os.close(fd)
        self.to_transport = self.from_transport = -1


def run(main: Callable[[Peer], Any]) -> None:
    async def with_peer() -> None:
        peer = Peer()
        try:
            await main(peer)
        finally:
            peer.transport.close(BusClosed("the test is over"), b"")
            peer.leave()

    asyncio.run(asyncio.wait_for(with_peer(), WAIT_S))


def write(transport: LoopTransport, data: bytes) -> None:
    with transport.lock.held():
        transport.write(data)


def test_what_is_said_arrives_in_order() -> None:
    async def main(peer: Peer) -> None:
        for data in (b"one", b"two", b"three"):
            os.write(peer.to_transport, data)
            await peer.until(lambda: b"".join(peer.received).endswith(data))  # noqa: B023
        assert b"".join(peer.received) == b"onetwothree"

    run(main)


@pytest.mark.parametrize("size", [1, 40, PIPE_BYTES, PIPE_BYTES + 1, 100_000])
def test_what_the_pipe_does_not_take_is_written_later_and_in_order(size: int) -> None:
    async def main(peer: Peer) -> None:
        os.set_blocking(peer.from_transport, False)
        pieces = [bytes([number]) * size for number in range(10)]
        for piece in pieces:
            write(peer.transport, piece)  # It never blocks.
        assert peer.transport.is_behind or 10 * size <= PIPE_BYTES
        found = b""
        while len(found) < 10 * size:
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                found += os.read(peer.from_transport, 1 << 16)
        assert found == b"".join(pieces)
        await peer.until(lambda: not peer.transport.is_behind)

    run(main)


def test_the_end_is_read_once() -> None:
    async def main(peer: Peer) -> None:
        os.write(peer.to_transport, b"last")
        peer.leave()
        await peer.until(lambda: peer.transport.ended)
        for _ in range(5):
            await asyncio.sleep(0)
        assert peer.received == [b"last", b""]
        with pytest.raises(ManagerLost, match="the peer is gone"):
            write(peer.transport, b"more")
        assert peer.transport.rest() == b""

    run(main)


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_write_finds_the_end(is_behind: bool) -> None:
    async def main(peer: Peer) -> None:
        if is_behind:
            write(peer.transport, bytes(3 * PIPE_BYTES))
        os.write(peer.to_transport, b"what came before")
        peer.leave()
        if is_behind:
            await peer.until(lambda: peer.transport.ended)
        else:
            with pytest.raises(ManagerLost):
                write(peer.transport, b"more")
            assert peer.transport.rest() == b"what came before"

    run(main)


def test_closing_writes_what_waits_and_then_the_farewell() -> None:
    async def main(peer: Peer) -> None:
        write(peer.transport, bytes(3 * PIPE_BYTES))
        found: list[bytes] = []

        def read_all() -> None:
            while data := os.read(peer.from_transport, 1 << 16):
                found.append(data)

        reading = asyncio.get_running_loop().run_in_executor(None, read_all)
        peer.transport.close(BusClosed("closed"), b"goodbye")
        await reading
        assert b"".join(found) == bytes(3 * PIPE_BYTES) + b"goodbye"
        with pytest.raises(BusClosed, match="closed"):
            peer.transport.check()
        peer.transport.close(BusClosed("again"), b"")

    run(main)


def test_closing_from_another_thread() -> None:
    async def main(peer: Peer) -> None:
        await asyncio.to_thread(peer.transport.close, BusClosed("closed"), b"goodbye")
        await peer.until(lambda: peer.transport.ended)
        assert os.read(peer.from_transport, 100) == b"goodbye"

    run(main)


def test_a_wait_that_would_block_is_our_mistake() -> None:
    async def main(peer: Peer) -> None:
        assert peer.transport.wait(lambda: True)
        assert not peer.transport.wait(lambda: False, 0)
        with pytest.raises(InternalError, match="would have blocked"):
            peer.transport.wait(lambda: False, 1)
        with peer.transport.lock.held(), pytest.raises(UsageError):
            peer.transport.close(BusClosed("closed"), b"")

    run(main)


def test_a_late_call_is_made_once() -> None:
    async def main(peer: Peer) -> None:
        calls: list[int] = []
        made = asyncio.Event()

        def call() -> None:
            calls.append(1)
            made.set()
            raise BusClosed("nothing is reported any more")

        late = peer.transport.late_call(call, 0.001)
        late.arm()
        late.arm()
        assert late.is_armed
        await made.wait()
        assert (calls, late.is_armed) == ([1], False)
        late.arm()
        late.close()
        late.arm()
        assert not late.is_armed

    run(main)


def test_what_is_due_when_the_pipe_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked after a read or a write, and then as long as it says a time."""
    monkeypatch.setattr("eventbus_mp.aio.transport.IDLE_LOOK_S", 0.0)

    async def main(peer: Peer) -> None:
        answers: list[float | None] = []
        calls: list[str] = []
        asked = asyncio.Event()

        def due_ms() -> float | None:
            if not answers:
                asked.set()
                return None
            calls.append("asked")
            return answers.pop(0)

        peer.transport.when_idle(due_ms, lambda: calls.append("called"))
        os.write(peer.to_transport, b"read")
        answers += [50.0, 3.0, 0.0]
        await asked.wait()
        assert calls == ["asked", "asked", "asked", "called"]
        asked.clear()
        write(peer.transport, b"written")
        await asked.wait()

    run(main)
