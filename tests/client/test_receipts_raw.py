"""Payloads of another bus, published as they are: what is taken, what is refused, and what arrives."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, Receipts, SubscriberKey, UsageError
from eventbus_mp.config import TIME_UNITS_NS
from eventbus_mp.memory.layout import HEADER
from eventbus_mp.memory.payload import encode_event
from eventbus_mp.memory.written import write_payload
from eventbus_mp.testing.clock import ManualClock
from eventbus_mp.testing.inprocess import InProcessBus

np = pytest.importorskip("numpy")

Handle = Callable[..., EventBus]


def payload_of(event: Event, sequence: int = 1 << 60) -> bytes:
    """As it would lie in the memory of another bus."""
    encoded = encode_event(event)
    block = bytearray(encoded[4])
    write_payload(memoryview(block), 0, encoded, sequence)
    return bytes(block)


def taken(receipts: Receipts, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        told = receipts.get(timeout_s=20)
        assert told, f"{len(found)} of {count} were told"
        found += [tag for receipt in told for tag in receipt.tags]
    return sorted(found)


@pytest.fixture
def world() -> InProcessBus:
    return InProcessBus(event_bytes_max=1 << 20)


@pytest.fixture
def receipts(handle: Handle) -> Receipts:
    return handle().receipts("bridge")


def test_events_arrive_as_they_were_in_any_size(handle: Handle, receipts: Receipts) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    inbox = handle().inbox("all", ["a"], credit=400)
    sizes = [chance.choice((0, 10, 100, 5_000, 70_000, 300_000)) for _ in range(300)]
    events = [
        Event(chance.choice((f"e{number}", number)), "a", {"text": "x" * size, "more": np.arange(size // 9)})
        if number % 5
        else Event(f"t{number}", "a", "y" * size, transaction_id="t", source="s", occurred_at=number)
        for number, size in enumerate(sizes)
    ]
    done = 0
    while done < len(events):
        part = events[done : done + chance.randint(1, 40)]
        blocks = [(event.topic, chance.choice((bytes, memoryview, bytearray))(payload_of(event))) for event in part]
        receipts.notify_raw(blocks, tags=[b"%d" % number for number in range(done, done + len(part))])
        for before, (shadow, after) in zip(part, _events(inbox, len(part)), strict=True):
            assert (after.id, after.transaction_id, after.source) == (before.id, before.transaction_id, before.source)
            if isinstance(before.data, dict):
                assert after.data["text"] == before.data["text"]
                assert np.array_equal(after.data["more"], before.data["more"])
            else:
                assert after.data == before.data
            inbox.complete(shadow)
            del after
        done += len(part)
    assert len(taken(receipts, len(events))) == len(events)
    inbox.close()


def _events(inbox, count):  # type: ignore[no-untyped-def]
    found: list[Any] = []
    while len(found) < count:
        found += inbox.events(count - len(found), timeout_s=20)
    return found


def broken(**fields: int) -> bytes:
    """A payload with other numbers in its header."""
    block = bytearray(payload_of(Event("id", "a", "data")))
    names = ("magic", "id_bytes", "zero", "sequence", "envelope_bytes", "data_bytes", "raw_count")
    values = dict(zip(names, HEADER.unpack_from(block), strict=True)) | fields
    HEADER.pack_into(block, 0, *values.values())
    return bytes(block)


BROKEN: dict[str, object] = {
    "nothing": b"",
    "half a header": payload_of(Event("id", "a", 1))[:16],
    "one byte more": payload_of(Event("id", "a", 1)) + b"x",
    "too much behind it": payload_of(Event("id", "a", 1)) + bytes(64),
    "another magic": broken(magic=1),
    "an id that goes too far": broken(id_bytes=60_000),
    "an envelope that goes too far": broken(envelope_bytes=(1 << 32) - 1),
    "data that goes too far": broken(data_bytes=1 << 31),
    "no data": broken(data_bytes=0),
    "an envelope that is none": broken(envelope_bytes=1),
    "too large": payload_of(Event("id", "a", "x" * 2_000_000)),
    "a text": "text",
    "a list": [1, 2],
    "an odd view": memoryview(bytes(256))[::2],
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_payload_publishes_nothing(receipts: Receipts, handle: Handle, what: str) -> None:
    good = "a", payload_of(Event("id", "a", 1))
    with pytest.raises(UsageError, match=r"notify_raw: raws\[1\] is not an event's payload: "):
        receipts.notify_raw([good, ("a", BROKEN[what])], tags=[b"x", b"y"])  # type: ignore[list-item]
    assert handle().statistics().events_notified == 0
    assert receipts.get(timeout_s=0) == []


def test_bytes_of_any_kind_are_refused_or_published_and_end_no_link(receipts: Receipts, handle: Handle) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    whole = payload_of(Event("id", "a", [1, "two"], source="s", ttl=1_000, occurred_at=0))
    accepted = 0
    for _ in range(3_000):
        block = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            block[chance.randrange(64)] = chance.randrange(256)
        try:
            receipts.notify_raw([("a", bytes(block))], tags=[b"x"])
        except UsageError:
            continue
        accepted += 1
    assert handle().statistics().links == 2
    assert len(taken(receipts, accepted)) == accepted


def test_arguments_that_are_none(receipts: Receipts) -> None:
    block = payload_of(Event("id", "a", 1))
    with pytest.raises(UsageError, match="1 events and 2 tags"):
        receipts.notify_raw([("a", block)], tags=[b"x", b"y"])
    for raws in ("text", [block], [("a", block, 1)], 7):
        with pytest.raises(UsageError, match=r"give a list of \(topic, block\)"):
            receipts.notify_raw(raws, tags=[b"x"])  # type: ignore[arg-type]


def test_they_go_to_whom_they_are_for(handle: Handle, receipts: Receipts) -> None:
    bus = handle()
    got: dict[str, list[object]] = {"bill": [], "audit": [], "local": []}
    for name, found in got.items():
        scope = "local" if name == "local" else "host"
        bus.on("a", name=name, scope=scope)(partial(lambda ids, event: ids.append(event.id), found))
    receipts.notify_raw([("a", payload_of(Event("1", "a", 1)))], tags=[b"1"])
    receipts.notify_raw([("a", payload_of(Event("2", "a", 1)))], tags=[b"2"], only=[SubscriberKey("bill")])
    receipts.notify_raw([("unknown", payload_of(Event("3", "a", 1)))], tags=[b"3"])
    receipts.notify_many([Event("4", "a", 1)], only=[SubscriberKey("audit")])
    receipts.notify_many([Event("5", "a", 1)])
    assert taken(receipts, 5) == [b"1", b"2", b"3", b"4", b"5"]
    assert got == {"bill": ["1", "2", "5"], "audit": ["1", "4", "5"], "local": ["5"]}


def test_a_ttl_is_counted_anew_on_this_bus() -> None:
    clock = ManualClock()
    world = InProcessBus(clock=clock)
    bus = world.handle(("a",))
    inbox, receipts = bus.inbox("slow", ["a"], credit=1), bus.receipts("bridge")
    unit_ns = TIME_UNITS_NS[bus.config.time_unit]
    now, ttl = clock.time_ns() // unit_ns, 10**10 // unit_ns
    lives = Event("lives", "a", 1, occurred_at=now, ttl=ttl)
    over = Event("over", "a", 1, occurred_at=now - 2 * ttl, ttl=ttl)
    receipts.notify_raw([("a", payload_of(item)) for item in (over, lives)], tags=[b"over", b"lives"])
    shadow = inbox.get(timeout_s=1)
    assert shadow is not None
    assert shadow.id == "lives"
    bus.close()
    world.run()


def test_what_did_not_fit_is_said(world: InProcessBus, handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("slow", ["a"])
    receipts = bus.receipts("bridge")
    blocks = [("a", payload_of(Event(f"e{number}", "a", "x" * 200_000))) for number in range(40)]
    published: list[str] = []

    def fill() -> None:
        while True:
            receipts.notify_raw(blocks, tags=[b"x"] * len(blocks), timeout_s=0)
            published.extend(f"e{number}" for number in range(len(blocks)))

    with pytest.raises(BusFull) as refused:
        fill()
    published += [str(shadow.id) for shadow in refused.value.published]
    assert published[-1] == f"e{(len(published) - 1) % len(blocks)}"
    assert bus.statistics().events_notified == len(published)
    assert receipts._box._count == len(published)
    inbox.close()
    assert len(taken(receipts, len(published))) == len(published)
