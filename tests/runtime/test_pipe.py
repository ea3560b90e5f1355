"""The manager's pipe ends: they never block, and keep what does not fit."""

import os

from eventbus_mp.runtime import pipe
from eventbus_mp.runtime.pipe import PipeEnds, make_pipe


def test_what_does_not_fit_is_kept_in_order() -> None:
    to_us, from_them = make_pipe()
    to_them, from_us = make_pipe()
    ends = PipeEnds(to_us, from_us)
    assert ends.read() is None
    data = os.urandom(3 * pipe.PIPE_BYTES)
    ends.queue(data[:1000])
    ends.queue(data[1000:])
    received = b""
    while not ends.flush():
        received += os.read(to_them, 1 << 20)
    while len(received) < len(data):
        received += os.read(to_them, 1 << 20)
    assert received == data
    os.close(from_them)
    assert ends.read() == b""
    os.close(to_them)
    ends.queue(b"to nobody")
    assert ends.flush()
    ends.close()


def test_who_does_not_read_overflows() -> None:
    to_us, from_them = make_pipe()
    to_them, from_us = make_pipe()
    ends = PipeEnds(to_us, from_us)
    ends.queue(bytes(pipe.BACKLOG_BYTES_MAX + 2 * pipe.PIPE_BYTES))
    assert not ends.flush()
    assert ends.overflowing
    ends.close()
    os.close(from_them)
    os.close(to_them)
