"""The executor: every effect does what it says, in order, and what a takeover may repeat is repeated without harm."""

import errno
import time
from typing import Any, get_type_hints

import pytest

from eventbus_mp.core.bus import BusCore
from eventbus_mp.events import Event
from eventbus_mp.manager.executor import _ROWS, EffectExecutor
from eventbus_mp.memory.payload import encode_event
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.memory.written import write_payload
from eventbus_mp.protocol import effects, records, requests
from eventbus_mp.protocol.client_events import RECORD_EVENTS, Delivered, Recalled, RecordEvent, Replied, SpanGranted
from eventbus_mp.protocol.decoders import unpack
from eventbus_mp.protocol.effects import Effect, Replay
from eventbus_mp.protocol.messages import (
    SPAN_NEEDED,
    LinkLost,
    LinkOpened,
    Message,
    SkipNamed,
    SpanSealed,
    SpanWanted,
    TimePassed,
)
from tests.helpers import subscribe_request
from tests.manager.doubles import SETTINGS, MemorySegments, MemoryTransport, ScriptedCore
from tests.protocol.samples import sample_event

LINK = 1
PREFIX = "segment-"
RECORD = records.pack_notified(1, 7, 0, 200, 0, 5, False)
ANYTHING = TimePassed()


class Bench:
    """An executor that carries out given effects."""

    def __init__(self) -> None:
        self.segments = MemorySegments()
        self.transport = MemoryTransport(LINK)
        self.core = ScriptedCore()
        self.executor = EffectExecutor(self.core, PREFIX, self.transport, self.segments)

    def carry_out(self, *found: Effect) -> list[Message]:
        """What follows from these effects of one message."""
        self.core.decisions.append(list(found))
        return self.executor.perform(ANYTHING, 0)

    def repeat(self, *found: Effect) -> list[Message]:
        """The same, in a manager that takes over."""
        with self.executor.replaying():
            return self.carry_out(*found)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def written(segments: MemorySegments, event_id: str, sequence: int = 5) -> bytes:
    """Write an event to the start of segment 7. Returns its record."""
    encoded = encode_event(Event(event_id, "a", 1))
    segments.create(f"{PREFIX}7", 4096)
    write_payload(memoryview(segments.found[f"{PREFIX}7"]), 0, encoded, sequence)
    return records.pack_notified(1, 7, 0, encoded[4], 0, sequence, False)


# --- every effect ---

EFFECTS = [item for item in vars(effects).values() if isinstance(item, type) and issubclass(item, Effect)][1:]
EVERY_EFFECT = pytest.mark.parametrize("kind", EFFECTS, ids=lambda kind: kind.__name__)


def sample_effect(kind: type[Effect]) -> Effect:
    """One about link 1 and segment 7, where an event is written."""
    types = get_type_hints(kind)
    return kind(*[SAMPLES.get(field) or SAMPLES[types[field]] for field in kind.FIELDS])


SAMPLES: dict[object, Any] = {
    "link": LINK,
    "segment": 7,
    int: 5,
    float: 1.5,
    bool: True,
    str: "a",
    bytes: RECORD,
    Any: [1],
    dict[str, Any]: {"a": 1},
    RecordEvent: Recalled(3, 1),
}
"""A value for a field of this name, or of this type."""


@EVERY_EFFECT
def test_every_effect_has_a_method_and_says_what_a_takeover_does_with_it(kind: type[Effect]) -> None:
    assert kind in _ROWS, f"a method of EffectExecutor with `@_performs(effects.{kind.__name__})`"
    assert "REPLAY" in vars(kind), f"{kind.__name__} says its own REPLAY, and why"


@EVERY_EFFECT
def test_a_takeover_does_with_every_effect_what_it_says(kind: type[Effect], caplog: pytest.LogCaptureFixture) -> None:
    """Whether the manager before has come to it or not, it is as if it were done once, or (`NEVER`) not begun."""

    def what_is_there(*, is_done: bool, is_repeated: bool) -> tuple[dict[str, object], list[str]]:
        """All that is to be seen of an effect, and what it has logged."""
        caplog.clear()
        bench, caused = Bench(), list[Message]()
        if kind is not effects.CreateSegment:
            written(bench.segments, "event 1")
        if is_done:
            caused = bench.carry_out(sample_effect(kind))
        if is_repeated:
            caused = bench.repeat(sample_effect(kind)) or caused
        frames = set(bench.transport.frames.get(LINK, ["it is cut off"]))
        replies = set(bench.transport.replies[LINK])
        found = {**vars(bench.segments), "frames": frames, "replies": replies, "caused": caused}
        return {**found, "stops": bench.executor.is_stopping}, list(caplog.messages)

    once, logged = what_is_there(is_done=True, is_repeated=False)
    assert what_is_there(is_done=True, is_repeated=True) == (once, logged)
    lost, _ = what_is_there(is_done=False, is_repeated=True)
    nothing, _ = what_is_there(is_done=False, is_repeated=False)
    assert lost == (nothing if kind.REPLAY is Replay.NEVER else once)
    assert once != nothing or logged


# --- effects on processes ---

DELIVERY = effects.Deliver(LINK, 3, 2, RECORD * 2), Delivered(3, 2, RECORD * 2)
GRANT = effects.GrantSpan(LINK, 7, 64, 128, True), SpanGranted(7, 64, 128, True)
TOLD = [(effects.Tell(LINK, event), event) for event in map(sample_event, RECORD_EVENTS.values())]


@pytest.mark.parametrize(("effect", "told"), [DELIVERY, GRANT, *TOLD])
def test_what_a_process_can_ask_for_again_is_a_frame(bench: Bench, effect: Effect, told: object) -> None:
    assert bench.carry_out(effect) == []
    assert bench.transport.events(LINK) == [told]
    assert bench.transport.replies[LINK] == []
    bench.repeat(effect)
    assert bench.transport.events(LINK) == [told] * 2


def test_replies_are_kept_apart_from_other_frames(bench: Bench) -> None:
    """A process cannot ask for these again: a manager that takes over sends what was not written of them."""
    answers: list[Effect] = [
        effects.Reply(LINK, 5, {"a": [1, None]}),
        effects.Refuse(LINK, 6, "UnknownTopic", "topic 'b' is not registered"),
    ]
    bench.carry_out(effects.Deliver(LINK, 3, 2, RECORD), *answers)
    _, reply, refusal = bench.transport.events(LINK)
    assert isinstance(reply, Replied)
    assert isinstance(refusal, Replied)
    assert (reply.request, reply.refused, unpack(reply.body)) == (5, False, {"a": [1, None]})
    assert (refusal.request, refusal.refused) == (6, True)
    assert unpack(refusal.body) == ["UnknownTopic", "topic 'b' is not registered"]
    assert bench.transport.replies[LINK] == bench.transport.frames[LINK][1:]
    bench.repeat(*answers)
    assert bench.transport.replies[LINK] == bench.transport.frames[LINK][1:3] * 2


@pytest.mark.parametrize("is_replayed", [False, True])
def test_a_process_that_is_cut_off_gets_nothing_more_and_is_lost_once(bench: Bench, is_replayed: bool) -> None:
    carry_out = bench.repeat if is_replayed else bench.carry_out
    follow_ups = carry_out(
        effects.CloseLink(LINK, "it sent nonsense"),
        effects.Deliver(LINK, 3, 1, RECORD),
        effects.CloseLink(LINK, "it is cut off already"),
    )
    assert follow_ups == [LinkLost(LINK, crashed=True)]
    assert LINK not in bench.transport.frames
    assert carry_out(effects.CloseLink(LINK, "it is cut off already")) == []


# --- effects on memory ---


def test_segments_are_made_and_removed(bench: Bench) -> None:
    bench.carry_out(effects.CreateSegment(7, 100))
    assert bench.segments.found == {f"{PREFIX}7": bytearray(100)}
    bench.carry_out(effects.RemoveSegment(7))
    assert bench.segments.found == {}


def test_a_name_that_is_taken_is_an_error_but_for_a_manager_that_takes_over(bench: Bench) -> None:
    written(bench.segments, "1")
    before = bytes(bench.segments.found[f"{PREFIX}7"])
    with pytest.raises(FileExistsError):
        bench.carry_out(effects.CreateSegment(7, 4096))
    bench.repeat(effects.CreateSegment(7, 4096), effects.CreateSegment(8, 100), effects.GrantSpan(LINK, 7, 0, 64, True))
    assert bytes(bench.segments.found[f"{PREFIX}7"]) == before
    assert len(bench.segments.found[f"{PREFIX}8"]) == 100


def test_a_segment_that_is_gone_may_be_removed_again(bench: Bench) -> None:
    bench.carry_out(effects.CreateSegment(7, 100), effects.RemoveSegment(7))
    bench.repeat(effects.CreateSegment(7, 100), effects.RemoveSegment(7))
    bench.repeat(effects.RemoveSegment(7))
    assert bench.segments.found == {}


def test_a_segment_that_could_not_be_made_is_tried_again_when_a_span_of_it_is_granted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    grant = effects.GrantSpan(LINK, 7, 0, 64, True)
    bench.segments.refuses = OSError(errno.ENOSPC, "no space")
    bench.carry_out(effects.CreateSegment(7, 100), effects.FreePages(7, 0, 64), grant)
    assert bench.segments.found == {}
    assert caplog.messages == ["cannot make a segment of 100 bytes: [Errno 28] no space"]
    bench.segments.refuses = None
    bench.carry_out(grant, grant)
    assert list(bench.segments.found) == [f"{PREFIX}7"]
    assert len(bench.transport.events(LINK)) == 3
    assert bench.segments.freed == []


def test_a_segment_that_is_removed_is_not_tried_again(bench: Bench) -> None:
    bench.segments.refuses = OSError(errno.ENOSPC, "no space")
    bench.carry_out(effects.CreateSegment(7, 100))
    bench.segments.refuses = None
    bench.carry_out(effects.RemoveSegment(7), effects.GrantSpan(LINK, 7, 0, 64, True))
    assert bench.segments.found == {}


def test_a_segment_that_the_manager_before_has_made_at_last_is_taken_as_made(bench: Bench) -> None:
    """The standby was forked when the segment was refused; then the manager tried again, and died."""
    bench.segments.refuses = OSError(errno.ENOSPC, "no space")
    bench.carry_out(effects.CreateSegment(7, 4096))
    bench.segments.refuses = None
    written(bench.segments, "1")
    bench.repeat(effects.GrantSpan(LINK, 7, 0, 64, True))
    assert bench.transport.events(LINK) == [SpanGranted(7, 0, 64, True)]
    assert any(bench.segments.found[f"{PREFIX}7"])


def test_pages_are_given_back_but_not_by_a_manager_that_takes_over(bench: Bench) -> None:
    written(bench.segments, "1")
    bench.repeat(effects.FreePages(7, 0, 4096))
    assert any(bench.segments.found[f"{PREFIX}7"])
    bench.carry_out(effects.FreePages(7, 0, 4096))
    assert bench.segments.freed == [(f"{PREFIX}7", 0, 4096)]
    assert not any(bench.segments.found[f"{PREFIX}7"])


def test_pages_that_cannot_be_given_back_are_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.carry_out(effects.FreePages(7, 0, 64))
    assert caplog.messages == [f"cannot give back 64 bytes that are free: {PREFIX}7"]


# --- effects on the log ---


def test_what_is_logged_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    record = records.RECORD.unpack(written(bench.segments, "event 1"))
    found: list[Effect] = [
        effects.Warn("100 % of the memory is in use"),
        effects.WarnOfLease(42, "a", record[2], record[3], record[4], record[7], 61.5),
        effects.WarnOfLease(42, "a", record[2], record[3], record[4], 0xABC, 61.5),
    ]
    bench.carry_out(*found)
    of_lease = (
        "process 42 has kept a view of event {!r} of topic 'a', {} bytes, for 61 s: drop it, or keep event.copy()"
    )
    expected = [
        "100 % of the memory is in use",
        of_lease.format("event 1", record[4]),
        of_lease.format("0xabc", record[4]),
    ]
    assert caplog.messages == expected
    bench.repeat(*found)
    assert caplog.messages == expected


def test_a_skip_is_named_by_the_id_that_was_written_or_else_by_the_number(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    record = written(bench.segments, "event 1")
    overwritten = record[:-8] + (6).to_bytes(8, "little")
    elsewhere = records.pack_notified(1, 8, 0, 200, 0, 7, False)
    found = [effects.NameSkip(3, "taker", "a", raw, "expired", False) for raw in (record, overwritten, elsewhere)]
    named: list[Message] = [SkipNamed(3, name, "expired") for name in ("event 1", "0x6", "0x7")]
    assert bench.carry_out(*found) == named
    assert bench.repeat(*found) == named
    assert caplog.messages == []


def test_an_event_that_is_given_up_is_logged_once_and_named_each_time(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    effect = effects.NameSkip(3, "taker", "a", written(bench.segments, "event 1"), "its holder crashed", True)
    named = [SkipNamed(3, "event 1", "its holder crashed")]
    assert bench.carry_out(effect) == named
    assert caplog.messages == ["taker: gave up event 'event 1' of 'a': its holder crashed"]
    assert bench.repeat(effect) == named
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("is_replayed", [False, True])
def test_it_says_when_the_bus_is_over(bench: Bench, is_replayed: bool) -> None:
    assert not bench.executor.is_stopping
    (bench.repeat if is_replayed else bench.carry_out)(effects.Stop())
    assert bench.executor.is_stopping


# --- order ---


def test_what_effects_cause_is_returned_in_their_order_and_not_carried_out(bench: Bench) -> None:
    skip = effects.NameSkip(3, "taker", "a", RECORD, "expired", False)
    follow_ups = bench.carry_out(skip, effects.CloseLink(LINK, "nonsense"), effects.Warn("x"), skip)
    assert follow_ups == [SkipNamed(3, "0x5", "expired"), LinkLost(LINK, crashed=True), SkipNamed(3, "0x5", "expired")]
    assert bench.core.messages == [ANYTHING]
    assert bench.carry_out() == []


def test_an_error_while_it_repeats_leaves_it_as_before(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with bench.executor.replaying():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    bench.carry_out(effects.Warn("x"))
    assert caplog.messages == ["x"]


# --- with the real core and real shared memory ---


def test_a_bus_in_one_thread_under_a_clock_that_the_test_holds() -> None:
    prefix = f"ebmp-test-executor-{time.monotonic_ns()}-"
    transport = MemoryTransport(LINK)
    executor = EffectExecutor(BusCore(SETTINGS, 0), prefix, transport, SHARED_MEMORY)
    now_ns = 1_000

    def say(message: Message) -> list[Message]:
        nonlocal now_ns
        now_ns += 1_000
        return executor.perform(message, now_ns)

    try:
        assert say(LinkOpened(LINK, 4321)) == []
        say(requests.RegisterTopic(LINK, 1, "a"))
        say(subscribe_request(LINK, 2, "taker", ["a"], 10, config=b""))
        say(SpanWanted(LINK, 1 << 16, SPAN_NEEDED))
        *_, granted = transport.events(LINK)
        assert isinstance(granted, SpanGranted)
        name = f"{prefix}{granted.segment}"
        assert SHARED_MEMORY.leftovers(prefix) == [name]
        # A message that breaks the protocol: its answer is the end of the link, and memory comes back with that.
        follow_ups = say(SpanSealed(LINK, granted.segment, granted.offset + granted.length))
        assert follow_ups == [LinkLost(LINK, crashed=True)]
        assert transport.cut[0][0] == LINK
        assert say(follow_ups[0]) == []
        assert executor.core.state.links == {}
        assert not executor.is_stopping
        executor.perform(TimePassed(), now_ns + int(SETTINGS.manager_idle_s * 2e9))
        assert executor.is_stopping
    finally:
        for left in SHARED_MEMORY.leftovers(prefix):
            SHARED_MEMORY.remove(left)


def test_a_standby_with_the_same_messages_comes_to_the_same_frames() -> None:
    """With segments that are there already."""
    segments = MemorySegments()
    messages: list[Message] = [
        LinkOpened(LINK, 4321),
        requests.RegisterTopic(LINK, 1, "a"),
        subscribe_request(LINK, 2, "taker", ["a"], 10, config=b""),
        SpanWanted(LINK, 1 << 16, SPAN_NEEDED),
        requests.ListTopics(LINK, 3),
    ]
    frames = []
    for is_standby in (False, True):
        transport = MemoryTransport(LINK)
        executor = EffectExecutor(BusCore(SETTINGS, 0), PREFIX, transport, segments)
        if is_standby:
            with executor.replaying():
                assert [executor.perform(message, 1) for message in messages] == [[]] * len(messages)
        else:
            assert [executor.perform(message, 1) for message in messages] == [[]] * len(messages)
        frames.append(transport.frames[LINK])
    assert frames[0] == frames[1]
    assert len(frames[0]) == 4
