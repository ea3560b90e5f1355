"""The acceptor: who connects gets its pipes when it is greeted, and not before."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventbus_mp.errors import EventBusError
from eventbus_mp.manager import acceptor
from eventbus_mp.manager.acceptor import Acceptor
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.runtime.pipe import PipeEnds


class Door:
    """An acceptor, what it watches, and the links that it opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = handshake.listen(path)
        self.watched: dict[int, Callable[[], None]] = {}
        self.opened: list[tuple[int, int, PipeEnds]] = []
        self.acceptor = Acceptor(self.listener, self.watched.__setitem__, self.watched.__delitem__, self.open)

    def open(self, pid: int, pidfd: int, ends: PipeEnds) -> Welcome:
        self.opened.append((pid, pidfd, ends))
        return Welcome(len(self.opened), "segment-", 1, 2, 3, os.getpid())

    def hear(self) -> None:
        """As the poller: accept, and read what the newcomers have said."""
        self.acceptor.accept()
        for on_ready in list(self.watched.values()):
            on_ready()

    def close(self) -> None:
        for _, pidfd, ends in self.opened:
            os.close(pidfd)
            ends.close()
        self.listener.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    found = Door(tmp_path / "socket")
    yield found
    found.acceptor.close(unwatched=True)
    found.close()


def test_a_process_has_a_link_at_once_and_gets_its_pipes_with_the_greeting(door: Door) -> None:
    with handshake.connect(door.path, 10.0) as connection:
        connection.sendall(handshake.hello())
        door.hear()
        ((pid, pidfd, ends),) = door.opened
        assert pid == os.getpid()
        assert pidfd >= 0
        assert door.watched == {}
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        door.acceptor.greet_pending()
        welcome, incoming, outgoing = handshake.receive_welcome(connection)
        assert welcome == Welcome(1, "segment-", 1, 2, 3, os.getpid())
        os.write(outgoing, b"to the manager")
        assert os.read(ends.incoming, 100) == b"to the manager"
        ends.queue([b"to the process"])
        assert ends.flush()
        assert os.read(incoming, 100) == b"to the process"
        assert connection.recv(1) == b""
        door.acceptor.greet_pending()  # There is none any more.
        for fd in (incoming, outgoing):
            os.close(fd)


@pytest.mark.parametrize("unwatched", [False, True])
def test_those_who_are_not_greeted_see_the_end_of_their_connection(door: Door, unwatched: bool) -> None:
    """So they connect again, and the pipe of a link that was opened for one ends with it."""
    with handshake.connect(door.path, 10.0) as ready, handshake.connect(door.path, 10.0) as half:
        ready.sendall(handshake.hello())
        door.hear()
        half.sendall(handshake.hello()[:5])
        door.hear()
        assert len(door.watched) == 1
        door.acceptor.close(unwatched=unwatched)
        assert len(door.watched) == unwatched
        with pytest.raises(ConnectionError):
            handshake.receive_welcome(ready)
        with pytest.raises(ConnectionError):
            handshake.receive_welcome(half)
        assert os.read(door.opened[0][2].incoming, 1) == b""
        assert door.acceptor.next_due_ns() is None


def test_a_process_that_is_gone_before_its_greeting_harms_nobody(door: Door) -> None:
    with handshake.connect(door.path, 10.0) as connection:
        connection.sendall(handshake.hello())
        door.hear()
    with handshake.connect(door.path, 10.0) as other:
        other.sendall(handshake.hello())
        door.hear()
        door.acceptor.greet_pending()
        _, *fds = handshake.receive_welcome(other)
    assert os.read(door.opened[0][2].incoming, 1) == b""
    for fd in fds:
        os.close(fd)


def test_a_process_that_there_is_no_room_for_is_told_so(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    room = iter([True, False])  # When it connects, and when its pipes are made.
    monkeypatch.setattr(acceptor, "_has_room", lambda: next(room))
    with handshake.connect(door.path, 10.0) as connection:
        connection.sendall(handshake.hello())
        door.hear()
        with pytest.raises(EventBusError, match="no file descriptors left"):
            handshake.receive_welcome(connection)
    assert door.opened == []
