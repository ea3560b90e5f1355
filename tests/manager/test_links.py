"""The links: frames go out in order as there is room, and links that have to go are returned, not closed."""

import os
from collections.abc import Iterator

import pytest

from eventbus_mp.manager.links import Link, LinkTable
from eventbus_mp.manager.poller import Poller
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.runtime import pipe
from eventbus_mp.runtime.pipe import PipeEnds
from tests.manager.doubles import Client

FRAME = b"f" * 1000
MORE_THAN_FITS = [FRAME] * (2 * pipe.PIPE_BYTES // len(FRAME))


class Table:
    """A table of links with the other ends of their pipes, and what was called."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.links = LinkTable(self.poller)
        self.clients: dict[int, Client] = {}
        self.readable: list[int] = []
        self.exited: list[int] = []

    def open(self, number: int, pidfd: int = -1) -> Link:
        client = self.clients[number] = Client()
        ends = PipeEnds(client.their_incoming, client.their_outgoing)
        link = Link(
            number,
            1000 + number,
            pidfd,
            ends,
            ManagerDecoder(number),
            lambda link: self.readable.append(link.number),
            lambda link: self.exited.append(link.number),
        )
        self.links.open(link)
        return link

    def take(self, number: int) -> bytes:
        """All that is in the pipe."""
        try:
            return os.read(self.clients[number].incoming, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def table() -> Iterator[Table]:
    found = Table()
    yield found
    for link in found.links:
        found.links.close(link)
    for client in found.clients.values():
        client.close()
    found.poller.close()


def test_frames_are_written_by_the_next_flush(table: Table) -> None:
    table.open(1)
    table.open(2)
    table.links.post(1, [b"a", b"b"])
    table.links.post(2, [b"c"])
    table.links.post(1, [b"d"])
    assert [table.take(1), table.take(2)] == [b"", b""]
    assert table.links.flush() == []
    assert [table.take(1), table.take(2)] == [b"abd", b"c"]
    table.links.flush()
    assert table.take(1) == b""


def test_a_link_that_does_not_exist_takes_frames_and_writes_nothing(table: Table) -> None:
    table.links.post(7, [b"a"], is_reply=True)
    assert table.links.flush() == []
    assert table.links.get(7) is None


def test_what_does_not_fit_is_written_when_there_is_room(table: Table) -> None:
    link = table.open(1)
    table.open(2)
    table.links.post(1, MORE_THAN_FITS)
    table.links.post(2, [b"x"])
    assert table.links.flush() == []
    assert link.writable_wanted
    assert table.take(2) == b"x"
    received = b""
    while link.writable_wanted:
        received += table.take(1)
        table.poller.wait(None)  # There is room now.
        assert table.links.flush() == []
    while rest := table.take(1):
        received += rest
    assert received == b"".join(MORE_THAN_FITS)
    table.poller.wait(0)
    assert table.readable == []


def test_replies_are_kept_until_everything_is_written(table: Table) -> None:
    link = table.open(1)
    table.links.post(1, [b"deliveries"])
    table.links.post(1, [b"part 1", b"part 2"], is_reply=True)
    assert link.unsent_replies == [b"part 1", b"part 2"]
    table.links.flush()
    assert link.unsent_replies == []
    table.links.post(1, [b"reply"], is_reply=True)
    table.links.post(1, MORE_THAN_FITS)
    table.links.flush()
    assert link.unsent_replies == [b"reply"]


def test_links_that_overflow_are_returned_open_and_others_are_written_all_the_same(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "BACKLOG_BYTES_MAX", 1000)
    links = [table.open(number) for number in (1, 2, 3)]
    for number in (1, 3):
        table.links.post(number, MORE_THAN_FITS)
    table.links.post(2, [b"x"])
    assert table.links.flush() == [links[0], links[2]]
    assert table.take(2) == b"x"
    assert list(table.links) == links
    assert all(link.is_open for link in links)
    table.links.close(links[0])
    assert table.links.flush() == [links[2]]
    table.links.close(links[2])
    assert table.links.flush() == []


def test_a_process_that_reads_no_more_is_not_overflowing(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of its other pipe says that it is gone."""
    monkeypatch.setattr(pipe, "BACKLOG_BYTES_MAX", 1000)
    table.open(1)
    os.close(table.clients[1].incoming)
    table.links.post(1, MORE_THAN_FITS)
    assert table.links.flush() == []
    table.clients[1].incoming = os.eventfd(0)  # For `close`.


def test_what_is_posted_before_the_end_is_written_and_what_comes_later_is_not(table: Table) -> None:
    link = table.open(1)
    table.links.post(1, [b"reply"], is_reply=True)
    table.links.close(link)
    table.links.post(1, [b"more"])
    assert table.links.flush() == []
    assert table.take(1) == b"reply"
    assert table.clients[1].is_cut_off()
    assert not link.is_open
    assert list(table.links) == []


def test_a_process_is_cut_off_once(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    table.open(1)
    assert table.links.cut_off(1, "it sent nonsense")
    assert not table.links.cut_off(1, "it sent nonsense")
    assert table.clients[1].is_cut_off()
    assert caplog.messages == ["process 1001 broke the protocol and is cut off: it sent nonsense"]


def test_a_link_that_waits_for_room_can_be_closed(table: Table) -> None:
    link = table.open(1)
    table.links.post(1, MORE_THAN_FITS)
    table.links.flush()
    table.links.close(link)
    assert table.links.flush() == []


def test_it_calls_what_it_was_given_with_the_link(table: Table) -> None:
    pidfd = os.eventfd(0)
    link = table.open(1, pidfd)
    table.open(2)
    table.clients[1].write(b"x")
    table.clients[2].end()
    table.poller.wait(None)
    assert sorted(table.readable) == [1, 2]
    os.eventfd_write(pidfd, 1)
    table.poller.wait(None)
    assert table.exited == [1]
    table.links.close(link)
    assert table.exited == [1]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)


def test_links_may_be_closed_while_all_are_walked_through(table: Table) -> None:
    for number in (1, 2, 3):
        table.open(number)
    for link in table.links:
        table.links.close(link)
    assert list(table.links) == []


def test_a_standby_goes_on_without_the_frames_that_were_queued(table: Table) -> None:
    """With those replies that were not sent, for it to post."""
    pidfd = os.eventfd(1)
    link = table.open(1, pidfd)
    table.links.post(1, MORE_THAN_FITS)
    table.links.flush()
    table.links.post(1, [b"reply"], is_reply=True)
    table.poller.close()
    table.poller.open()
    table.links.resume()
    assert not link.writable_wanted
    taken = b""
    while piece := table.take(1):
        taken += piece
    assert table.links.flush() == []
    assert table.take(1) == b""
    table.clients[1].write(b"x")
    table.poller.wait(None)
    assert (table.readable, table.exited) == ([1], [1])
