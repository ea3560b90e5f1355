"""Taking in: bytes go in, effects come out, and what is in the journal is all that a successor needs."""

import os
from collections.abc import Iterator

import pytest

from eventbus_mp.manager.journal import EntryKind, Journal, Position
from eventbus_mp.protocol import records, requests
from eventbus_mp.protocol.client_events import Delivered, Replied, SpanGranted
from eventbus_mp.protocol.decoders import encode_request, unpack
from eventbus_mp.protocol.effects import CloseLink, NameSkip, Reply, Warn
from eventbus_mp.protocol.messages import (
    SPAN_NEEDED,
    LinkLost,
    LinkOpened,
    Outcome,
    SkipNamed,
    TimePassed,
)
from eventbus_mp.protocol.reasons import NAMED_FIRST
from eventbus_mp.runtime import pipe
from eventbus_mp.runtime.pipe import READ_BYTES
from tests.helpers import subscribe_request
from tests.manager.doubles import Client, Manager, ScriptedCore, a_manager

ROUND_TRIP = encode_request(requests.ListTopics(0, 9))


@pytest.fixture
def manager() -> Iterator[Manager]:
    with a_manager() as found:
        yield found


def journaled(journal: Journal) -> list[tuple[EntryKind, int, int, bytes]]:
    """Everything that was written down, as another process would read it."""
    other = Journal.__new__(Journal)
    other.__dict__.update(journal.__dict__)
    return [(entry.kind, entry.link, entry.number, entry.data) for entry in other.replay(START)]


START = Position(-1, 0)
"""A position in a generation that is over: everything since the beginning."""


def has_pid(manager: Manager, link: int) -> int:
    return manager.core.state.links[link].pid


def produce(manager: Manager, client: Client, link: int, *event_ids: str) -> list[bytes]:
    """Publish events of topic "a" into a span. Returns their records."""
    client.ask(requests.RegisterTopic(0, 1, "a"), requests.ResolveTopic(0, 2, "a"))
    client.write(records.pack_span_wanted(1 << 16, SPAN_NEEDED))
    manager.turn()
    *_, resolved, granted = client.hear()
    assert isinstance(resolved, Replied)
    assert isinstance(granted, SpanGranted)
    topic = unpack(resolved.body)[0]
    found = [
        records.pack_notified(topic, granted.segment, granted.offset + 64 * n, 64, 0, (link << 40) + 1 + n, False)
        for n in range(len(event_ids))
    ]
    client.write(b"".join(found))
    return found


# --- the way of bytes ---


def test_bytes_of_one_process_become_frames_for_another(manager: Manager) -> None:
    producer, consumer = manager.connect(), manager.connect()
    consumer.ask(subscribe_request(0, 1, "taker", [".*"], 10, config=b""))
    manager.turn()
    (subscribed,) = consumer.hear()
    assert isinstance(subscribed, Replied)
    found = produce(manager, producer, 1, "1", "2")
    manager.turn()
    subscriber = unpack(subscribed.body)
    assert consumer.hear() == [Delivered(subscriber, 1, b"".join(found))]
    consumer.write(records.pack_settled(subscriber, Outcome.COMPLETED, (1 << 40) + 1, 2))
    consumer.ask(requests.GetSnapshot(0, 2, -1))
    manager.turn()
    (statistics,) = consumer.hear()
    assert isinstance(statistics, Replied)
    assert unpack(statistics.body)["events"]["unsettled"] == 0


def test_a_message_in_pieces_is_carried_out_when_it_is_whole(manager: Manager) -> None:
    client = manager.connect()
    for start in range(0, len(ROUND_TRIP), 7):
        assert client.hear() == []
        client.write(ROUND_TRIP[start : start + 7])
        manager.turn()
    assert [type(event) for event in client.hear()] == [Replied]


def test_everything_is_written_down_before_it_is_carried_out(manager: Manager) -> None:
    client, other = manager.connect(pid=77), manager.connect(pid=78)
    client.write(ROUND_TRIP)
    manager.turn()
    other.end()
    manager.turn()
    manager.ingest.pass_time()
    assert journaled(manager.journal) == [
        (EntryKind.LINK_OPENED, 1, 77, b""),
        (EntryKind.LINK_OPENED, 2, 78, b""),
        (EntryKind.READ, 1, 0, ROUND_TRIP),
        (EntryKind.LINK_LOST, 2, 0, b""),
        (EntryKind.TIME_PASSED, 0, 0, b""),
    ]
    assert [has_pid(manager, link) for link in manager.core.state.links] == [77]


def test_messages_reach_the_core_in_order_with_what_follows_from_each_behind_it() -> None:
    skip = NameSkip(3, "taker", "a", records.pack_notified(1, 7, 0, 200, 0, 5, False), "expired", False)
    core = ScriptedCore([], [skip, Reply(1, 9, None), skip], [Warn("follows from the first skip"), skip])
    with a_manager(core) as manager:
        client = manager.connect()
        client.ask(requests.ListTopics(0, 9), requests.Goodbye(0, 10))
        manager.turn()
        named = SkipNamed(3, "0x5", "expired")
        asked, left = requests.ListTopics(1, 9), requests.Goodbye(1, 10)
        # The effect of the first skip's message is behind the second skip.
        assert core.messages == [LinkOpened(1, 1234), asked, named, named, named, left]


# --- processes that come ---


def test_a_link_gets_the_next_number_and_makes_a_new_standby_necessary(manager: Manager) -> None:
    manager.ingest.is_standby_stale = False
    first = manager.connect()
    assert manager.ingest.is_standby_stale
    first.end()
    manager.turn()
    manager.connect()
    assert [link.number for link in manager.links] == [2]
    assert manager.ingest.link_serial == 2


# --- processes that end ---


def test_a_process_that_says_goodbye_or_not_is_gone_for_the_core(manager: Manager) -> None:
    client = manager.connect()
    manager.ingest.is_standby_stale = False
    client.ask(requests.Goodbye(0, 1))
    client.end()
    manager.turn()
    manager.turn()
    assert manager.core.state.links == {}
    assert list(manager.links) == []
    # Its pipes have ended everywhere, whoever has copies of our ends.
    assert not manager.ingest.is_standby_stale


def test_what_a_process_sent_before_it_died_counts(manager: Manager) -> None:
    pidfd = os.eventfd(0)
    client = manager.connect(pidfd=pidfd)
    padding = encode_request(requests.NameReason(0, 2, NAMED_FIRST, "y" * 1000))
    client.write(padding * (READ_BYTES // len(padding) + 1))
    client.ask(requests.RegisterTopic(0, 1, "late"))
    (link,) = manager.links
    manager.ingest.read_to_end(link)
    assert not link.is_open
    assert "late" in manager.core.state.registry.topics
    kinds = [kind for kind, *_ in journaled(manager.journal)]
    assert kinds == [EntryKind.LINK_OPENED, EntryKind.READ, EntryKind.READ, EntryKind.LINK_LOST]


def test_a_process_that_dies_after_it_broke_the_protocol_is_lost_once(manager: Manager) -> None:
    client = manager.connect()
    client.write(b"\xff" * 400)
    (link,) = manager.links
    manager.ingest.read_to_end(link)
    assert not link.is_open
    assert [kind for kind, *_ in journaled(manager.journal)] == [EntryKind.LINK_OPENED, EntryKind.READ]


def test_a_full_journal_leaves_everything_in_the_pipe(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    client = manager.connect()
    client.write(ROUND_TRIP)
    (link,) = manager.links
    with monkeypatch.context() as patch:
        patch.setattr("eventbus_mp.manager.journal.JOURNAL_BYTES", 0)
        assert manager.journal.is_full
        manager.turn()
        manager.ingest.read_to_end(link)
        assert link.is_open
        assert client.hear() == []
    manager.turn()
    assert [type(event) for event in client.hear()] == [Replied]


# --- processes that are cut off ---


def test_nonsense_ends_the_link_that_sent_it(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    rogue, other = manager.connect(pid=77), manager.connect()
    manager.ingest.is_standby_stale = False
    rogue.write(b"\xff" * 400)
    manager.turn()
    assert rogue.is_cut_off()
    assert list(manager.core.state.links) == [2]
    assert manager.ingest.is_standby_stale  # It has copies of the pipe ends, and the process must see them close.
    assert caplog.messages == ["process 77 broke the protocol and is cut off: kind 4294967295 does not exist"]
    other.write(ROUND_TRIP)
    manager.turn()
    assert [type(event) for event in other.hear()] == [Replied]


def test_what_the_core_objects_to_ends_the_link_once_however_much_follows(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    rogue = manager.connect(pid=77)
    manager.ingest.is_standby_stale = False
    rogue.ask(requests.RegisterTopic(0, 1, "before"))
    rogue.write(records.pack_span_sealed(99, 0) * 3)
    rogue.ask(requests.RegisterTopic(0, 2, "after"))
    manager.turn()
    assert [type(event) for event in rogue.hear()] == [Replied]
    assert rogue.is_cut_off()
    assert set(manager.core.state.registry.topics) == {"before"}
    assert manager.core.state.links == {}
    assert manager.ingest.is_standby_stale
    assert len(caplog.messages) == 1
    # It follows from the read: a successor comes to it by itself.
    assert [kind for kind, *_ in journaled(manager.journal)] == [EntryKind.LINK_OPENED, EntryKind.READ]


def test_a_link_that_is_cut_off_gets_none_of_the_frames_that_are_decided_after_that() -> None:
    core = ScriptedCore([], [Reply(1, 1, "before"), CloseLink(1, "nonsense"), Reply(1, 2, "after")])
    with a_manager(core) as manager:
        client = manager.connect()
        client.write(ROUND_TRIP)
        manager.turn()
        (reply,) = client.hear()
        assert isinstance(reply, Replied)
        assert unpack(reply.body) == "before"
        assert client.is_cut_off()
        assert core.messages[2:] == [LinkLost(1, crashed=True)]


def test_a_process_that_asks_and_does_not_read_is_cut_off_and_others_get_what_it_held(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipe, "BACKLOG_BYTES_MAX", 1000)
    # The other one is flushed before it: what it gets of that comes with one more flush.
    other, deaf, producer = manager.connect(), manager.connect(pid=77), manager.connect()
    deaf.ask(subscribe_request(0, 1, "taker", [".*"], 10, config=b""))
    manager.turn()
    produce(manager, producer, 3, "1")
    manager.turn()
    other.ask(subscribe_request(0, 1, "taker", [".*"], 10, config=b""))
    manager.turn()
    (subscribed,) = other.hear()
    assert isinstance(subscribed, Replied)
    manager.ingest.is_standby_stale = False
    other.write(ROUND_TRIP)
    manager.links.post(2, [bytes(4000)] * (2 * pipe.PIPE_BYTES // 4000))
    manager.turn()
    assert [link.number for link in manager.links] == [1, 3]
    assert caplog.messages == ["process 77 is cut off: it asks and does not read the answers"]
    assert manager.ingest.is_standby_stale
    _, delivered = other.hear()
    assert isinstance(delivered, Delivered)
    assert delivered.attempt == 2
    assert journaled(manager.journal)[-1][:2] == (EntryKind.LINK_LOST, 2)


# --- time ---


def test_time_passes_by_its_own_clock() -> None:
    core = ScriptedCore()
    with a_manager(core) as manager:
        manager.ingest.pass_time()
        assert core.messages == [TimePassed()]
        assert [kind for kind, *_ in journaled(manager.journal)] == [EntryKind.TIME_PASSED]
