"""A manager that takes over comes to the state of the one before it by repeating the journal, without a process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp.core.bus import BusCore
from eventbus_mp.manager.acceptor import Acceptor
from eventbus_mp.manager.journal import Journal
from eventbus_mp.manager.links import Link
from eventbus_mp.manager.takeover import Takeover
from eventbus_mp.protocol import records, requests
from eventbus_mp.protocol.client_events import ClientEvent, Delivered, ManagerChanged, Replied, SpanGranted
from eventbus_mp.protocol.decoders import ManagerDecoder, unpack
from eventbus_mp.protocol.messages import SPAN_NEEDED, LinkOpened
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.pipe import PipeEnds
from tests.helpers import subscribe_request
from tests.manager.doubles import SETTINGS, Client, Manager, a_manager

PIDS = (77, 78)


@pytest.fixture
def before() -> Iterator[Manager]:
    with a_manager(BusCore(SETTINGS, 0)) as found:
        yield found


class Heir:
    """What a standby has that was forked when `before` had two links: copies of everything, taken before they act."""

    def __init__(self, before: Manager, successor: Manager, listener: Any) -> None:
        self.manager = successor
        self.position = before.journal.position
        acceptor = Acceptor(listener, successor.poller.watch, successor.poller.unwatch, successor.ingest.open_link)
        self.takeover = Takeover(
            successor.poller, acceptor, successor.links, successor.executor, successor.ingest, successor.journal
        )
        for link in before.links:
            ends = PipeEnds(os.dup(link.ends.incoming), os.dup(link.ends.outgoing))
            read, read_to_end = successor.ingest.read, successor.ingest.read_to_end
            copy = Link(link.number, link.pid, -1, ends, ManagerDecoder(link.number), read, read_to_end)
            successor.links.open(copy)
            successor.ingest.decide(LinkOpened(link.number, link.pid), 1)
        successor.ingest.link_serial = before.ingest.link_serial


@pytest.fixture
def clients(before: Manager) -> list[Client]:
    return [before.connect(pid) for pid in PIDS]


@pytest.fixture
def heir(before: Manager, clients: list[Client], tmp_path: Path) -> Iterator[Heir]:
    journal = Journal.__new__(Journal)
    journal.__dict__.update(before.journal.__dict__)
    with (
        handshake.listen(tmp_path / "socket") as listener,
        a_manager(BusCore(SETTINGS, 0), segments=before.segments, journal=journal) as successor,
    ):
        yield Heir(before, successor, listener)


def die(manager: Manager) -> None:
    """Its ends of the pipes go; what it was about to write is lost."""
    for link in manager.links:
        link.ends.drop_queued()
        manager.links.close(link)


def statistics(manager: Manager, client: Client, request: int) -> dict[str, Any]:
    client.ask(requests.GetSnapshot(0, request, -1))
    manager.turn()
    reply = client.hear()[-1]
    assert isinstance(reply, Replied)
    found: dict[str, Any] = unpack(reply.body)
    return {part: found[part] for part in ("events", "memory", "subscribers")}  # What does not change with time.


def span_of(heard: list[ClientEvent]) -> SpanGranted:
    return next(event for event in heard if isinstance(event, SpanGranted))


def test_it_comes_to_the_same_state_and_the_bus_goes_on(before: Manager, heir: Heir, clients: list[Client]) -> None:
    producer, consumer = clients
    consumer.ask(requests.RegisterTopic(0, 1, "a"), subscribe_request(0, 2, "taker", ["a"], 10, config=b""))
    before.turn()
    consumer.hear()
    producer.ask(requests.ResolveTopic(0, 1, "a"))
    producer.write(records.pack_span_wanted(1 << 16, SPAN_NEEDED))
    before.turn()
    heard = producer.hear()
    granted, topic = span_of(heard), unpack(heard[0].body)[0]  # type: ignore[union-attr]
    notified = [
        records.pack_notified(topic, granted.segment, granted.offset + 64 * n, 64, 0, (1 << 40) + 1 + n, False)
        for n in range(3)
    ]
    producer.write(b"".join(notified[:2]))
    before.turn()
    delivered = consumer.hear()
    assert delivered == [Delivered(1, 1, b"".join(notified[:2]))]
    known = statistics(before, consumer, 3)
    assert known["events"]["unsettled"] == 2
    found = dict(before.segments.found)

    die(before)
    heir.takeover.catch_up(heir.position)
    successor = heir.manager
    assert successor.segments.found == found
    successor.turn()
    for client in clients:
        # Replies may come twice, for they are not in what a process reports; nothing else may.
        changed, *others = client.hear()
        assert changed == ManagerChanged(os.getpid())
        assert {type(event) for event in others} == {Replied}
    # Each says what it has; nothing is delivered twice, and what is published now comes.
    consumer.ask(requests.ReportState(0, 0, os.getpid(), [[1, [(1 << 40) + 1, 2]]], []))
    producer.ask(requests.ReportState(0, 0, os.getpid(), [], [[granted.segment, granted.offset]]))
    successor.turn()
    assert consumer.hear() == []
    assert statistics(successor, consumer, 4) == known
    producer.write(notified[2])
    successor.turn()
    assert consumer.hear() == [Delivered(1, 1, notified[2])]


def test_replies_that_were_not_written_are_and_other_frames_are_not(
    before: Manager, heir: Heir, clients: list[Client]
) -> None:
    asker, other = clients
    asker.ask(requests.RegisterTopic(0, 1, "a"), requests.ListTopics(0, 2))
    asker.write(records.pack_span_wanted(1 << 16, SPAN_NEEDED))
    before.poller.wait(0)  # Decided, and not written.
    die(before)
    assert asker.hear() == []
    heir.takeover.catch_up(heir.position)
    heir.manager.turn()
    changed, registered, listed = asker.hear()
    assert changed == ManagerChanged(os.getpid())
    assert isinstance(registered, Replied)
    assert isinstance(listed, Replied)
    assert (registered.request, unpack(listed.body)) == (1, ["a"])
    assert other.hear() == [ManagerChanged(os.getpid())]


def test_a_link_that_was_opened_after_the_fork_is_given_up(before: Manager, heir: Heir) -> None:
    """Its process was not greeted: it connects again, and gets another number."""
    before.connect(pid=79)
    die(before)
    heir.takeover.catch_up(heir.position)
    assert [link.pid for link in heir.manager.core.state.links.values()] == list(PIDS)
    assert heir.manager.ingest.link_serial == 3


def test_links_that_have_ended_since_end_again(
    before: Manager, heir: Heir, clients: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    rogue, leaver = clients
    rogue.write(b"\xff" * 400)
    leaver.end()
    before.turn()
    assert list(before.links) == []
    die(before)
    assert not rogue.is_cut_off(), "the standby has its pipe"
    heir.takeover.catch_up(heir.position)
    assert rogue.is_cut_off()
    assert leaver.is_cut_off()
    assert heir.manager.core.state.links == {}


def test_a_read_that_was_not_carried_out_comes_from_the_pipe(
    before: Manager, heir: Heir, clients: list[Client]
) -> None:
    clients[0].ask(requests.RegisterTopic(0, 1, "a"))
    die(before)
    heir.takeover.catch_up(heir.position)
    assert list(heir.manager.core.state.registry.topics) == []
    heir.manager.turn()
    changed, registered = clients[0].hear()
    assert changed == ManagerChanged(os.getpid())
    assert isinstance(registered, Replied)
    assert list(heir.manager.core.state.registry.topics) == ["a"]
