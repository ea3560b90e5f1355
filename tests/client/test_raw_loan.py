"""Payloads that are received in shared memory, as they are, and published there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from eventbus_mp import BusFull, Event, EventBus, EventTooLarge, Receipts, UnknownTopic, UsageError
from eventbus_mp.memory.payload import encode_event
from eventbus_mp.memory.written import write_payload


def payload_of(event: Event, sequence: int = 77) -> bytes:
    """The event as it is in the memory of another bus."""
    encoded = encode_event(event)
    block = bytearray(encoded[4])
    write_payload(memoryview(block), 0, encoded, sequence)
    return bytes(block)


def publish(receipts: Receipts, block: bytes, topic: str = "a", **how: Any) -> None:
    with receipts.loan_raw(topic, len(block), **{"tag": b"tag", **how}) as loaned:
        assert loaned.buffer.nbytes == len(block)
        loaned.buffer[:] = block


@pytest.fixture
def receipts(bus: EventBus) -> Iterator[Receipts]:
    with bus.receipts("bridge") as receipts:
        yield receipts


def an_event(**fields: Any) -> Event:
    return Event("x", "a", {"image": np.arange(100_000), "name": "one"}, **fields)


def test_it_arrives_as_if_it_had_been_published_here(bus: EventBus, receipts: Receipts) -> None:
    inbox = bus.inbox("one", ["a"])
    publish(receipts, payload_of(an_event(source="elsewhere", headers={"k": "v"})))
    shadow = inbox.get(10)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert (event.id, event.topic, event.source, event.headers) == ("x", "a", "elsewhere", {"k": "v"})
    assert (event.data["image"] == np.arange(100_000)).all()
    assert event.data["image"].ctypes.data % 64 == 0
    assert bus.watcher(("a", "x")).waiting == (inbox.key,), "it is found by its id"
    inbox.complete(shadow)
    (receipt,) = receipts.get(timeout_s=20)
    assert receipt.tags == (b"tag",)
    assert receipt.watcher.completers == (inbox.key,)


def test_it_goes_to_those_it_is_for(bus: EventBus, receipts: Receipts) -> None:
    one, two = bus.inbox("one", ["a"]), bus.inbox("two", ["b"])
    publish(receipts, payload_of(an_event()), only=[two])
    publish(receipts, payload_of(an_event()))
    bus.notify(an_event())
    assert len(one.get_many(10, 10)) == 2
    assert len(two.get_many(10, 10)) == 1


def test_what_nobody_wants_is_settled_by_nobody(bus: EventBus, receipts: Receipts) -> None:
    publish(receipts, payload_of(an_event()))
    publish(receipts, payload_of(an_event()), tag=b"other", only=["one"])
    told = [receipt for _ in range(2) for receipt in receipts.get(1, 20)]
    assert [receipt.tags for receipt in told] == [(b"tag",), (b"other",)]
    assert [receipt.watcher.subscribers for receipt in told] == [(), ()]


def test_its_deadline_is_that_of_its_own_times(bus: EventBus, receipts: Receipts) -> None:
    inbox = bus.inbox("one", ["a"])
    publish(receipts, payload_of(an_event(occurred_at=1, ttl=1)))
    assert inbox.get(0.1) is None
    (receipt,) = receipts.get(timeout_s=20)
    assert receipt.watcher.skippers == (inbox.key,)


def test_an_error_in_the_block_gives_the_memory_back(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a"], memory_bytes_max=4 << 20, receipts_max=1)
    inbox, receipts = bus.inbox("one", ["a"]), bus.receipts("bridge")
    block = payload_of(an_event())

    def break_off() -> None:
        with receipts.loan_raw("a", len(block), tag=b"tag") as loaned:
            loaned.buffer[:1000] = block[:1000]
            raise ConnectionError("gone")

    for _ in range(20):
        with pytest.raises(ConnectionError, match="gone"):
            break_off()
    assert inbox.get(0) is None
    publish(receipts, block)
    assert inbox.get(10) is not None
    with pytest.raises(BusFull, match="receipts_max"):
        publish(receipts, block)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [(0, b"\0"), (4, b"\xff\xff"), (6, b"\1"), (16, b"\xff\xff\xff"), (20, b"\0\0\0\0"), (32, b"\xc3"), (33, b"\0")],
)
def test_what_is_not_a_payload_is_refused_and_given_back(
    bus: EventBus, receipts: Receipts, at: int, wrong: bytes
) -> None:
    inbox = bus.inbox("one", ["a"])
    block = bytearray(payload_of(an_event(source="here")))
    block[at : at + len(wrong)] = wrong
    with pytest.raises(UsageError, match="what was written for topic 'a' is not a payload: "):
        publish(receipts, bytes(block))
    assert inbox.get(0) is None
    assert bus.statistics().events_notified == 0
    assert receipts.get(timeout_s=0) == []


def test_times_that_are_none_are_refused(bus: EventBus, receipts: Receipts) -> None:
    """From another machine anything may come."""
    block = payload_of(an_event(source="here", occurred_at=100, ttl=100))
    at = block.index(b"\x64\xa4here\x64")  # occurred_at, source, ttl
    for wrong in (block[:at] + b"\xc0\xa4here\x64", block[:at] + b"\x64\xa4here\xc3", block[:at] + b"\x90\xa4here\x64"):
        with pytest.raises(UsageError, match="is not a payload: it has the ttl"):
            publish(receipts, wrong + block[at + 7 :])
    assert bus.statistics().events_notified == 0


@pytest.mark.parametrize("nbytes", [0, 63, 65, 100])
def test_a_length_that_no_payload_has(receipts: Receipts, nbytes: int) -> None:
    with pytest.raises(UsageError, match="the length of a payload is a multiple of 64"):
        receipts.loan_raw("a", nbytes, tag=b"tag")


def test_a_tag_that_is_none(receipts: Receipts) -> None:
    with pytest.raises(UsageError, match="is not a tag"):
        receipts.loan_raw("a", 64, tag=b"")


def test_one_that_is_too_large(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a"], event_bytes_max=1024)
    with bus.receipts("bridge") as receipts, pytest.raises(EventTooLarge, match="event_bytes_max allows 1024"):
        receipts.loan_raw("a", 2048, tag=b"tag")


def test_a_topic_that_is_not_there(receipts: Receipts) -> None:
    with pytest.raises(UnknownTopic, match="topic 'unknown' is not registered"):
        publish(receipts, payload_of(an_event()), "unknown")
    assert receipts.get(timeout_s=0) == []
