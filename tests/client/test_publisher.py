"""Publishing: the fast way and the long way say the same; nobody there; memory that runs out. No process is started."""

import logging
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp import BusFull, Event, EventBus, EventTooLarge, UnknownTopic
from eventbus_mp.client import loan_publisher, publisher, topic_numbers
from eventbus_mp.client.protocol import ClientProtocol
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.memory.heap import HeapStore
from eventbus_mp.protocol import records
from eventbus_mp.protocol.messages import SPAN_CANCELLED, SPAN_NEEDED
from eventbus_mp.protocol.records import NOTIFIED, RECORD
from eventbus_mp.testing.inprocess import InProcessBus
from eventbus_mp.testing.transport import InProcessTransport

Handle = Callable[..., EventBus]


class Recorder:
    """Notes what a client writes."""

    def __init__(self, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[bytes] = []
        write = InProcessTransport.write

        def record(transport: InProcessTransport, data: bytes) -> None:
            self.written.append(data)
            write(transport, data)

        monkeypatch.setattr(InProcessTransport, "write", record)


def test_the_fast_way_writes_what_the_long_way_would(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Publisher` packs the record of a plain event itself; `ClientProtocol.notify` is its slow twin."""
    bus = handle()
    bus.inbox("one", ["a"], credit=100)
    bus.notify(Event("0", "a", 0))
    recorder = Recorder(bus, monkeypatch)
    shadows = [bus.notify(Event(str(number), "a", "x" * number)) for number in (1, 100, 1_000)]
    for shadow, data in zip(shadows, recorder.written, strict=True):
        place = shadow._place
        assert place is not None
        twin = ClientProtocol(0, 0)
        twin.sequence = place.sequence - 1
        assert twin.next_sequence() == place.sequence
        crc = zlib.crc32(shadow.id.encode())
        twin.notify(place.topic, place.segment, place.offset, place.length, id_crc=crc)
        assert twin.data_to_send() == data


@given(
    topic=st.integers(1, 2**32 - 1),
    segment=st.integers(1, 2**32 - 1),
    offset=st.integers(0, 2**32 - 1),
    length=st.integers(64, 2**32 - 1),
    sequence=st.integers(1, 2**63),
)
def test_the_record_of_a_plain_event(topic: int, segment: int, offset: int, length: int, sequence: int) -> None:
    twin = ClientProtocol(0, 0)
    twin.sequence = sequence
    twin.notify(topic, segment, offset, length)
    assert twin.data_to_send() == RECORD.pack(NOTIFIED, topic, segment, offset, length, 0, 0, sequence)


def test_what_an_interruption_left_goes_before_the_next_event(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler raised between a call of the protocol and its write: the order of the records stays."""
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("0", "a", 0))
    session = bus._session
    assert session is not None
    left = records.pack_span_wanted(CHUNK_BYTES, SPAN_CANCELLED)
    session.connection.protocol.outgoing.append(left)
    recorder = Recorder(bus, monkeypatch)
    bus.notify(Event("1", "a", 1))
    assert recorder.written[0][: len(left)] == left
    assert len(recorder.written[0]) == 2 * len(left)
    assert [shadow.id for shadow in inbox.get_many(2, 1)] == ["0", "1"]


class Interrupted(Exception):
    """What a signal handler raises."""


def interrupt(*_: Any) -> None:
    raise Interrupted


@pytest.mark.parametrize("many", [False, True], ids=["notify", "notify_many"])
def test_the_memory_of_an_event_whose_writing_is_interrupted_comes_back(
    handle: Handle, world: InProcessBus, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """A large event has a span of its own, and copying it is when a signal most likely comes."""
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    event = Event("1", "a", bytes(300_000))
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(publisher, "write_payload", interrupt)
            with pytest.raises(Interrupted):
                bus.notify_many([event]) if many else bus.notify(event)
    bus.notify(Event("2", "a", 2))
    assert [shadow.id for shadow in inbox.get_many(10, 0)] == ["2"]
    assert world.core.state.spans.used_bytes == world.core.state.spans.memory_bytes_max // 16  # the shared span


def test_the_memory_of_a_loan_whose_publishing_is_interrupted_comes_back(
    handle: Handle, world: InProcessBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted), bus.loan("a", 300_000):
        patch.setattr(loan_publisher, "write_loaned", interrupt)
    bus.topics()
    assert inbox.get(0) is None
    assert world.core.state.spans.used_bytes == 0


@pytest.mark.parametrize("order", ["_order_once", "_order_ahead"])
def test_an_order_that_was_interrupted_is_not_waited_for(
    handle: Handle, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """It may be noted as open and never have been sent."""
    bus = handle()
    inbox: Any = bus.inbox("one", ["a"], credit=100)

    def note_and_interrupt(pool: SpanPool, *_: Any) -> None:
        pool._orders.place(pool.arena, pool.arena.span_bytes, SPAN_NEEDED)
        raise Interrupted

    def publish() -> None:
        for _ in range(100):
            bus.notify(Event("1", "a", bytes(60_000)))
            inbox.complete(inbox.get(0))

    with monkeypatch.context() as patch:
        patch.setattr(SpanPool, order, note_and_interrupt)
        with pytest.raises(Interrupted):
            publish()
    publish()


def test_an_event_that_nobody_wants_is_dropped_with_a_warning_a_minute(
    handle: Handle, world: InProcessBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = handle()
    with caplog.at_level(logging.WARNING, "eventbus_mp"):
        for _ in range(3):
            assert bus.notify(Event("1", "a", 1))._place is None
            bus.notify(Event("1", "nowhere", 1))
        assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
            "topic 'a' has no subscriber",
            "topic 'nowhere' doesn't exist",
        ]
        world.clock.advance(60)
        bus.notify(Event("1", "a", 1))
        assert len(caplog.records) == 3


def test_what_is_dropped_is_counted_and_reported_once_a_second(
    handle: Handle, world: InProcessBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, other = handle(), handle()

    def dropped() -> dict[str, int]:
        world.run()
        return {topic.name: topic.dropped for topic in other.snapshot().topics if topic.dropped}

    world.clock.advance(10)
    bus.notify(Event("0", "a", 0))
    assert dropped() == {"a": 1}
    bus.notify_many([Event(str(number), "a", number) for number in range(5)])
    bus.notify(Event("1", "nowhere", 1))
    assert dropped() == {"a": 1}
    world.clock.advance(1)
    bus.notify(Event("6", "a", 6))
    assert dropped() == {"a": 7}
    bus.notify(Event("7", "a", 7))
    assert bus.statistics().events_dropped == 9  # Who asks has reported.
    bus.notify(Event("8", "a", 8))
    bus.close()
    assert dropped() == {"a": 9}
    assert other.snapshot().events.dropped == 10


def test_a_strict_handle_refuses_an_unknown_topic(handle: Handle) -> None:
    with pytest.raises(UnknownTopic, match="topic 'nowhere' is not registered"):
        handle(strict=True).notify(Event("1", "nowhere", 1))


def test_a_topic_is_resolved_once(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = handle()
    bus.inbox("one", ["a"], credit=100)
    recorder = Recorder(bus, monkeypatch)
    for number in range(10):
        bus.notify(Event(str(number), "a", number))
    kinds = [RECORD.unpack_from(data)[0] for data in recorder.written]
    assert kinds.count(6) == 1, "one request"


def test_many_are_one_write(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"], credit=1_000)
    bus.notify(Event("first", "a", 0))
    recorder = Recorder(bus, monkeypatch)
    shadows = bus.notify_many([Event(str(number), "a", number) for number in range(200)])
    assert len(recorder.written) == 1
    assert [shadow.id for shadow in inbox.get_many(1_000, 1)] == ["first", *(shadow.id for shadow in shadows)]


def test_an_event_over_the_limit(handle: Handle) -> None:
    bus = handle(event_bytes_max=1_000)
    bus.inbox("one", ["a"])
    with pytest.raises(EventTooLarge, match=r"has \d+ bytes encoded; BusConfig.event_bytes_max allows 1000"):
        bus.notify(Event("1", "a", "x" * 2_000))


def test_an_event_that_no_memory_can_hold(handle: Handle) -> None:
    bus = handle()
    bus.inbox("one", ["a"])
    with pytest.raises(EventTooLarge, match=r"raise BusConfig\.memory_bytes_max"):
        bus.notify(Event("1", "a", bytes(17 << 20)))


def fill(bus: EventBus) -> None:
    """More than any of these buses holds."""
    for number in range(100):
        bus.notify(Event(str(number), "a", bytes(CHUNK_BYTES)))


def test_full_memory_is_waited_for_and_then_said(handle: Handle, world: InProcessBus) -> None:
    bus = handle(notify_timeout_s=7)
    inbox = bus.inbox("slow", ["a"], credit=100)
    began_ns = world.clock.monotonic_ns()
    with pytest.raises(BusFull, match=r"became free within 7 s: .*slow has \d+ events in flight"):
        fill(bus)
    assert world.clock.monotonic_ns() - began_ns == 7 * 10**9
    for shadow in inbox.get_many(100, 0):
        inbox.complete(shadow)
    bus.notify(Event("again", "a", bytes(CHUNK_BYTES)))


def test_a_store_without_memory_is_waited_for_and_then_said() -> None:
    world = InProcessBus(store=HeapStore(capacity=2 << 20))
    bus = world.handle(("a",), notify_timeout_s=3)
    bus.inbox("slow", ["a"], credit=100)
    with pytest.raises(BusFull, match=r"/dev/shm is full: \d+ bytes are free"):
        fill(bus)
    bus.close()


def test_a_deadline_counts_from_occurred_at(handle: Handle, world: InProcessBus) -> None:
    bus = handle(time_unit="second")
    inbox = bus.inbox("one", ["a"])
    now_s = world.clock.time_ns() // 10**9
    bus.notify(Event("late", "a", 1, occurred_at=now_s - 100, ttl=50))
    bus.notify(Event("in time", "a", 1, occurred_at=now_s - 100, ttl=150))
    found = inbox.get(timeout_s=1)
    assert found is not None
    assert found.id == "in time"
    inbox.complete(found)


def test_waiting_for_an_event_to_be_settled(handle: Handle) -> None:
    bus, other = handle(), handle()
    seen: list[Any] = []
    other.on("a", name="handler")(lambda event: seen.append(event.data))
    watcher = bus.notify_and_wait(Event("1", "a", "x"), timeout_s=5)
    assert seen == ["x"]
    assert [key.name for key in watcher.completers] == ["handler"]


def test_a_log_handler_may_publish(handle: Handle, world: InProcessBus) -> None:
    """The warning of a topic that lost its subscribers comes in the middle of taking in what arrived."""
    bus, other = handle(), handle()
    inbox = other.inbox("one", ["a"])
    warnings = bus.inbox("warnings", ["b"])
    bus.notify(Event("0", "b", "the topic's number is known from now on"))
    bus.notify(Event("1", "a", 1))
    shadow = inbox.get(timeout_s=1)
    assert shadow is not None
    inbox.complete(shadow)
    other.unsubscribe("one")

    class Publishes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bus.notify(Event("warning", "b", record.getMessage()))

    log, publishes = logging.getLogger("eventbus_mp"), Publishes()
    log.addHandler(publishes)
    try:
        bus.notify(Event("2", "a", 1))
        bus.topics()  # A wait, in which the answer to that comes in.
    finally:
        log.removeHandler(publishes)
    found = warnings.get_many(2, 1)
    assert [item.id for item in found] == ["0", "warning"]
    for item in found:
        warnings.complete(item)


def test_a_warning_that_cannot_be_logged_does_not_end_the_thread_that_reads(
    handle: Handle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    bus.unsubscribe(inbox)
    monkeypatch.setattr(topic_numbers.log, "warning", interrupt)
    bus.notify(Event("2", "a", 2))
    assert bus.topics() == ["a", "b"]
    assert "Interrupted" in capsys.readouterr().err


def test_many_that_find_the_memory_full_say_how_far_they_came(handle: Handle) -> None:
    bus = handle()
    inbox = bus.inbox("one", ["a"])
    events = [Event(str(number), topic, bytes(1 << 20)) for number in range(40) for topic in ("a", "unheard")]
    with pytest.raises(BusFull) as caught:
        bus.notify_many(events)
    published = caught.value.published
    assert [(shadow.id, shadow.topic) for shadow in published] == [
        (event.id, event.topic) for event in events[: len(published)]
    ]
    assert events[len(published)].topic == "a"
    arrived = 0
    while shadow := inbox.get(0):
        inbox.complete(shadow)
        arrived += 1
    assert 0 < arrived == sum(shadow.topic == "a" for shadow in published)


@pytest.mark.parametrize("many", [False, True], ids=["notify", "notify_many"])
def test_a_refused_event_lets_go_of_its_memory(handle: Handle, many: bool) -> None:
    """Even while the error is there, whose traceback has everything that was prepared."""
    bus = handle(event_bytes_max=2 << 20)
    bus.inbox("one", ["a"])
    with pytest.raises(BusFull):
        fill(bus)
    for nbytes, refusal in ((1 << 20, BusFull), (3 << 20, EventTooLarge)):
        received = bytearray(nbytes)
        event = Event("1", "a", [received])
        with pytest.raises(refusal) as caught:
            bus.notify_many([event, event]) if many else bus.notify(event)
        received.extend(b"x")
        del caught
