"""The manager's pipe ends: they never block, keep what does not fit, and write frames whole."""

import os
from collections.abc import Iterator

import pytest

from eventbus_mp.runtime import pipe
from eventbus_mp.runtime.pipe import PipeEnds, make_pipe

FRAME_BYTES = 1_000


@pytest.fixture
def pipes() -> Iterator[tuple[PipeEnds, int]]:
    """The manager's ends, and where a process reads."""
    to_us, from_them = make_pipe()
    to_them, from_us = make_pipe()
    ends = PipeEnds(to_us, from_us)
    yield ends, to_them
    ends.close()
    os.close(from_them)
    os.close(to_them)


def frames(count: int) -> list[bytes]:
    return [number.to_bytes(4, "little") * (FRAME_BYTES // 4) for number in range(count)]


def test_what_does_not_fit_is_kept_in_order(pipes: tuple[PipeEnds, int]) -> None:
    ends, to_them = pipes
    expected = frames(3 * pipe.PIPE_BYTES // FRAME_BYTES)
    ends.queue(expected[:3])
    ends.queue(expected[3:])
    received = b""
    while not ends.flush():
        received += os.read(to_them, 1 << 20)
    while len(received) < len(expected) * FRAME_BYTES:
        received += os.read(to_them, 1 << 20)
    assert received == b"".join(expected)


def test_a_pipe_that_is_full_holds_whole_frames(pipes: tuple[PipeEnds, int]) -> None:
    ends, to_them = pipes
    ends.queue(frames(3 * pipe.PIPE_BYTES // FRAME_BYTES))
    assert not ends.flush()
    ends.drop_queued()
    assert ends.flush()
    os.set_blocking(to_them, False)
    received = os.read(to_them, 1 << 20)
    assert received
    assert len(received) % FRAME_BYTES == 0


def test_a_reader_that_is_gone_swallows_everything() -> None:
    to_us, from_them = make_pipe()
    to_them, from_us = make_pipe()
    ends = PipeEnds(to_us, from_us)
    os.close(to_them)
    ends.queue(frames(2))
    assert ends.flush()
    ends.close()
    os.close(from_them)


def test_who_does_not_read_overflows(pipes: tuple[PipeEnds, int], monkeypatch: pytest.MonkeyPatch) -> None:
    ends, _ = pipes
    monkeypatch.setattr(pipe, "BACKLOG_BYTES_MAX", pipe.PIPE_BYTES)
    ends.queue(frames(3 * pipe.PIPE_BYTES // FRAME_BYTES))
    assert not ends.flush()
    assert ends.overflowing
