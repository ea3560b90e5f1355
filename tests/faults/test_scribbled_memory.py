"""Payloads that somebody overwrote, and shadows made by hand: an event is lost to its reader, and nothing else is."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp import DecodeError, Event, EventBus, EventShadow
from eventbus_mp.events import Place
from eventbus_mp.memory.layout import HEADER_BYTES
from eventbus_mp.memory.payload import encode_event, read_event
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.memory.written import read_id, write_payload

Make = Callable[..., EventBus]


def memory_of(bus: EventBus, shadow: Any) -> memoryview:
    """The payload, to write to: any process of this user can map a segment, also one that should only read it."""
    assert bus._session is not None
    place = shadow._place
    whole = SHARED_MEMORY.attach(f"{bus._session.connection.welcome.segment_prefix}{place.segment}")
    return whole[place.offset : place.offset + place.length]


SCRIBBLES: dict[str, Callable[[memoryview], None]] = {
    "all zeros": lambda view: fill(view, 0, len(view), b"\0"),
    "no magic": lambda view: fill(view, 0, 4, b"x"),
    "another sequence": lambda view: fill(view, 8, 16, b"x"),
    "an id that is not a text": lambda view: fill(view, HEADER_BYTES, HEADER_BYTES + 2, b"\xff"),
    "an id that is too long": lambda view: fill(view, 4, 6, b"\xff"),
    "an envelope that is too long": lambda view: fill(view, 16, 20, b"\x7f"),
    "data that is too long": lambda view: fill(view, 20, 24, b"\x7f"),
    "data that is not msgpack": lambda view: fill(view, HEADER_BYTES + 2, len(view), b"\xc1"),
}


def fill(view: memoryview, start: int, stop: int, byte: bytes) -> None:
    view[start:stop] = byte * (stop - start)


@pytest.mark.parametrize("nbytes", [20, 100_000], ids=["small", "large"])
@pytest.mark.parametrize("name", SCRIBBLES)
def test_handlers_go_on_after_a_scribbled_event(
    make_bus: Make, caplog: pytest.LogCaptureFixture, name: str, nbytes: int
) -> None:
    bus, producer = make_bus(topics=["a"]), make_bus()
    got: list[int] = []
    inbox = bus.inbox("inbox", ["a"], credit=10)
    listener = make_bus()
    # Held until the memory is overwritten, and then handled by every kind of reader.
    shadows = [producer.notify(Event(id, "a", {"n": [1, "x" * nbytes]})) for id in ("e1", "e2")]
    SCRIBBLES[name](memory_of(producer, shadows[0]))
    listener.on("a", name="inbox", credit=10)(lambda event: got.append(event.data["n"][0]))
    inbox.close()
    bus.drain(timeout_s=30)
    # Who never asks for the id is not harmed by one that is not a text.
    assert got in ([1], [1, 1])
    found = bus.statistics().subscribers[0]
    assert (found.completed, found.skipped) == (len(got), 2 - len(got))
    assert len(got) == 1 or "an id" in name or "envelope" in name
    caplog.clear()  # A traceback in it has the event, which has the memory.


@pytest.mark.parametrize("name", SCRIBBLES)
def test_an_inbox_goes_on_after_a_scribbled_event(make_bus: Make, name: str) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("inbox", ["a"], credit=10)
    shadows = [bus.notify(Event(id, "a", {"n": [1, "x" * 30]})) for id in ("e1", "e2")]
    SCRIBBLES[name](memory_of(bus, shadows[0]))
    seen = []
    while "e2" not in seen:
        shadow = inbox.get(20)
        assert shadow is not None
        try:
            event = bus.fetch_event(shadow)
            assert event is None or event.id != "e1" or event.data
        except DecodeError:
            # It is read like any data that is not msgpack.
            seen.append("complaint")
        inbox.complete(shadow)
        seen.append(shadow.id)
    assert ("complaint" in seen) <= ("data" in name)
    bus.drain(timeout_s=20)


def test_shadows_made_by_hand(bus: EventBus) -> None:
    inbox = bus.inbox("inbox", ["a"], credit=10)
    true = bus.notify(Event("1", "a", b"x" * 100))._place
    assert true is not None
    forged = [
        true._replace(sequence=true.sequence + 1),
        true._replace(sequence=5),
        true._replace(topic=77),
        true._replace(segment=77, sequence=true.sequence + 1),
        Place(0, 0, 0, 0, 0),
        Place(-1, -1, -1, -1, -1),
    ]
    for place in forged:
        shadow = EventShadow("a", "1", place)
        assert bus.fetch_event(shadow) is None
        assert bus.watcher(shadow) is None
    assert bus.fetch_event(("a", "nowhere")) is None
    taken = inbox.get(20)
    assert taken is not None
    assert bus.fetch_event_data(taken) == b"x" * 100
    assert bus.statistics().links == 1


def test_a_view_outlives_the_inbox_that_it_came_from(make_bus: Make) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    inbox = bus.inbox("shared", ["a"])
    bus.notify(Event("1", "a", b"x" * 100_000))
    shadow = inbox.get(20)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert event is not None
    raw = event.encoded.data
    assert raw is not None
    # Not settled: it goes to another process, which settles it, while this one still looks at it.
    inbox.close(keep=True)
    with other.inbox("shared", ["a"]) as theirs:
        taken = theirs.get(20)
        assert taken is not None
        theirs.complete(taken)
        other.drain(timeout_s=20)
        for number in range(100):
            other.notify(Event(str(number), "a", b"y" * 100_000))
            got = theirs.get(20)
            assert got is not None
            theirs.complete(got)
        assert bytes(raw[-50_000:-49_990]) == b"x" * 10
        del event, raw


@given(st.binary(max_size=300), st.integers(0, 1 << 64))
def test_no_bytes_make_the_decoder_fail_in_a_strange_way(block: bytes, sequence: int) -> None:
    assert read_or_complain(block, sequence) in (None, True)


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 299), st.integers(0, 255)), max_size=8))
def test_no_change_makes_the_decoder_fail_in_a_strange_way(data: bytes, changes: list[tuple[int, int]]) -> None:
    encoded = encode_event(Event("id", "topic", {"a": [data, (1, 2.5)], "b": bytearray(data)}, source="s"))
    block = bytearray(encoded[4])
    write_payload(memoryview(block), 0, encoded, 7)
    for at, byte in changes:
        block[at % len(block)] = byte
    assert read_or_complain(bytes(block), 7) in (None, True)


def read_or_complain(block: bytes, sequence: int) -> bool | None:
    """None: nothing is there; True: it is an event, or one whose data says that it cannot be read."""
    read_id(block, sequence)
    event = read_event(block, sequence, "topic")
    if event is None:
        return None
    try:
        assert repr(event.data) is not None
        assert repr((event.id, event.source))
    except DecodeError:
        pass
    return True
