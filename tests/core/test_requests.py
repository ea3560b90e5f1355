"""What the core answers to requests, to which it answers nothing, and that each message and request has its handler."""

import re
import typing
from pathlib import Path

import msgpack
import pytest

from eventbus_mp import BusConfig
from eventbus_mp.core.allocator.spans import SpanTable
from eventbus_mp.core.batches import BatchTable
from eventbus_mp.core.bus import BusCore
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.failures import NO_REASON, OTHER_REASONS, REASONS_MAX, SkipReasons
from eventbus_mp.core.requests import REQUEST_HANDLERS
from eventbus_mp.errors import UsageError
from eventbus_mp.geometry import EVENTS_PAGE_MAX, REASON_LENGTH_MAX, REQUIRED_MAX
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.effects import CloseLink, NameSkip, Refuse, Reply, ReplyWithFacts, Stop, Warn
from eventbus_mp.protocol.messages import (
    SPAN_NEEDED,
    DeliveriesSettled,
    LinkLost,
    LinkOpened,
    Message,
    Outcome,
    SpanWanted,
    TimePassed,
)
from eventbus_mp.protocol.reasons import NAMED_FIRST, NAMED_MAX
from eventbus_mp.protocol.records import RECORD, pack_notified
from eventbus_mp.protocol.requests import REQUESTS, Notice, Request
from tests.helpers import subscribe_fields
from tests.protocol.samples import sample_fields

LINK, PID = 1, 4711
SCENARIOS = Path(__file__).parent.parent / "scenarios"
EVENT_BYTES = 64


@pytest.fixture
def core():
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True), 0)
    core.handle(LinkOpened(LINK, PID), 0)
    return core


def answer(core, kind, *fields):
    """The value of the one reply, after the way over the pipe."""
    effects = core.handle(kind(LINK, 1, *fields), 0)
    [reply] = [effect for effect in effects if isinstance(effect, Reply | ReplyWithFacts | Refuse)]
    assert not isinstance(reply, Refuse)
    assert (reply.link, reply.request) == (LINK, 1)
    return msgpack.unpackb(msgpack.packb(reply.value))


def notified(core, *names, first=1, now_ns=0):
    """Topics with these names, and one event of each."""
    [*_, grant] = core.handle(SpanWanted(LINK, 1, SPAN_NEEDED), now_ns)
    for serial, name in enumerate(names, first):
        topic = core.state.registry.register(name)
        place = grant.segment, grant.offset + serial * EVENT_BYTES, EVENT_BYTES
        packed = pack_notified(topic.number, *place, 0, (LINK << 40) + serial, False)
        for message in ManagerDecoder(LINK).feed(packed):
            core.handle(message, now_ns)


# --- contracts ---


EVERY_REQUEST = pytest.mark.parametrize("kind", REQUESTS.values(), ids=lambda kind: kind.__name__)


def test_every_message_has_a_handler():
    messages = set(typing.get_args(Message)) - {Request} | set(REQUEST_HANDLERS)
    assert set(BusCore.HANDLERS) == messages, "a row in BusCore.HANDLERS for each message"


def test_every_request_has_a_handler_and_a_number():
    assert set(REQUEST_HANDLERS) == set(REQUESTS.values()), "core/requests/: a function with `handles` for each request"
    classes = {item for item in vars(requests).values() if isinstance(item, type) and issubclass(item, Request)}
    assert classes - {Request, Notice} == set(REQUESTS.values()), "protocol/requests.py: `numbered` for each request"


def test_a_number_is_of_one_request_and_a_free_one_is_named():
    with pytest.raises(ValueError, match=f"Another: RegisterTopic has number 0; {max(REQUESTS) + 1} is free"):

        @requests.numbered(0)
        class Another(Request):
            pass


@EVERY_REQUEST
def test_a_test_says_what_comes_of_every_request(kind):
    """The tests of contracts, here, do not: they only ask an empty bus."""
    tests = [*Path(__file__).parent.glob("test_re*.py"), *SCENARIOS.glob("*.txt"), SCENARIOS / "transcript.py"]
    asks = re.compile(rf"requests\.{kind.__name__}[(,)]|^ask \S+ {kind.__name__}\b", re.MULTILINE)
    assert any(asks.search(path.read_text()) for path in tests), "ask it here, in test_receipts.py, or in a transcript"


@EVERY_REQUEST
def test_a_notice_and_nothing_else_is_not_answered(kind):
    assert kind.ANSWERED is not issubclass(kind, Notice)
    if not kind.ANSWERED:
        assert typing.get_type_hints(REQUEST_HANDLERS[kind])["return"] is type(None)


OTHER_FIELDS = {
    requests.MarkEvents: ("a", b"", "", Outcome.COMPLETED, "", [1, 1]),
    requests.SettleRanges: ("a", b"", "", Outcome.COMPLETED, "", [1, 1]),
    requests.Subscribe: subscribe_fields("a", ["a"], 0),
    requests.ListReceipts: (1, 0),
    requests.TakeReceipts: (1, 1, False),
}
"""For requests to whom a zero, or the like, breaks the protocol."""


@EVERY_REQUEST
def test_a_request_is_answered_once_and_a_notice_never(core, kind):
    given = OTHER_FIELDS.get(kind) or sample_fields(kind)
    core.handle(requests.OpenReceipts(LINK, 1, "a"), 0)
    effects = core.handle(kind(LINK, 7, *given), 0)
    answers = [item for item in effects if isinstance(item, Reply | ReplyWithFacts | Refuse)]
    assert [item.request for item in answers] == [7] * kind.ANSWERED


def test_a_process_that_is_gone_cannot_be_cut_off(core):
    assert answer(core, requests.CutOff, 9, 1, 0, "it took too long") is False
    assert answer(core, requests.CutOff, LINK, 1, 0, "it took too long") is True


def test_a_notice_whose_handler_refuses_it_is_logged_and_not_answered(core, monkeypatch):
    def refusing(step, link, message):
        raise UsageError("not now")

    monkeypatch.setitem(REQUEST_HANDLERS, requests.NameReason, refusing)
    effects = core.handle(requests.NameReason(LINK, 0, NAMED_FIRST, "because"), 0)
    assert effects == [Warn(f"process {PID}: NameReason: not now")]


# --- topics ---


def test_topics_are_registered_together(core):
    assert answer(core, requests.RegisterTopic, "b") is True
    assert answer(core, requests.RegisterTopics, ["a", "b", "c", "a"]) == ["a", "c"]
    assert answer(core, requests.RegisterTopics, ["a", "c"]) == []
    assert answer(core, requests.ListTopics) == ["a", "b", "c"]


def test_one_bad_name_registers_none(core):
    [refusal] = core.handle(requests.RegisterTopics(LINK, 1, ["a", "b\n", "c"]), 0)
    assert (type(refusal), refusal.error) == (Refuse, "InvalidTopic")
    assert r"'b\n' has a control character" in refusal.text
    assert answer(core, requests.ListTopics) == []
    assert answer(core, requests.RegisterTopics, ["first"]) == ["first"]
    assert answer(core, requests.ResolveTopic, "first") == [1, False, None]


def test_topics_beyond_the_bound_are_refused_together(core, monkeypatch):
    monkeypatch.setattr("eventbus_mp.core.registry.TOPICS_MAX", 3)
    assert answer(core, requests.RegisterTopics, ["a", "b"]) == ["a", "b"]
    [refusal] = core.handle(requests.RegisterTopics(LINK, 1, ["b", "c", "d"]), 0)
    assert refusal.error == "UsageError"
    assert "takes no more" in refusal.text
    assert answer(core, requests.RegisterTopics, ["a", "b", "c"]) == ["c"]


def test_a_topic_is_named_by_its_number(core):
    answer(core, requests.RegisterTopic, "a")
    [number, _, _] = answer(core, requests.ResolveTopic, "a")
    assert answer(core, requests.NameTopic, number) == "a"
    assert answer(core, requests.NameTopic, number + 1) is None


# --- the process itself ---


def test_a_drain_that_is_cancelled_is_not_answered(core):
    answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b""))
    notified(core, "a", "ab")
    for request in (7, 8):
        assert core.handle(requests.Drain(LINK, request, ".*"), 0) == []
    assert core.handle(requests.CancelWait(LINK, 0, 7), 0) == []
    effects = core.handle(DeliveriesSettled(LINK, 1, Outcome.COMPLETED, [((LINK << 40) + 1, 2)]), 0)
    assert [effect.request for effect in effects if isinstance(effect, Reply)] == [8]


def test_who_shuts_the_bus_down_is_answered_before_it_stops(core):
    answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b""))
    notified(core, "a", "ab")
    assert core.handle(requests.ShutDown(LINK, 7), 0) == [
        Warn(f"process {PID} shuts the bus down; 2 unsettled events are dropped"),
        Reply(LINK, 7, None),
        Stop(),
    ]


# --- answers by name ---


def test_skips_are_counted_by_their_reasons(core):
    number = answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 9, config=b"config"))
    notified(core, "a", "ab", "ac", "ad", "ae")
    core.handle(requests.NameReason(LINK, 0, NAMED_FIRST, "x" * 2 * REASON_LENGTH_MAX), 0)
    first = (LINK << 40) + 1
    named = []
    for serial, reason in enumerate((NAMED_FIRST, NAMED_FIRST, NAMED_FIRST + 1, 1, 0)):
        effects = core.handle(DeliveriesSettled(LINK, number, Outcome.SKIPPED, [(first + serial, 1)], reason=reason), 0)
        named += [effect.reason for effect in effects if isinstance(effect, NameSkip)]
    assert named == ["x" * REASON_LENGTH_MAX] * 2 + ["expired"], "what has no reason is not among the latest skips"
    [subscriber] = answer(core, requests.GetSnapshot, -1)["subscribers"]
    assert subscriber["skip_reasons"] == {"x" * REASON_LENGTH_MAX: 2, "expired": 1, NO_REASON: 2}
    assert subscriber["skipped"] == 5


def test_reasons_beyond_the_bound_are_counted_together():
    reasons = SkipReasons()
    for number in range(REASONS_MAX + 10):
        reasons.count(2, f"reason {number}")
    reasons.count(1, "reason 0")
    assert len(reasons) == REASONS_MAX + 1
    assert (reasons["reason 0"], reasons[OTHER_REASONS]) == (3, 20)


@pytest.mark.parametrize("number", [0, NAMED_FIRST - 1, NAMED_FIRST + NAMED_MAX, -1])
def test_a_reason_gets_only_a_number_of_its_range(core, number):
    [effect] = core.handle(requests.NameReason(LINK, 0, number, "x"), 0)
    assert isinstance(effect, CloseLink)


def test_statistics_name_what_they_count(core):
    number = answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b"config"))
    notified(core, "a", "ab", "ac", "b")
    core.handle(DeliveriesSettled(LINK, number, Outcome.COMPLETED, [((LINK << 40) + 1, 1)]), 0)
    statistics = answer(core, requests.GetSnapshot, -1)
    [subscriber] = statistics["subscribers"]
    assert subscriber == {
        "name": "s",
        "config": b"config",
        "host": "",
        "patterns": ["a"],
        "scope": "host",
        "pids": [PID],
        "grace_left_ns": None,
        "queued": 0,
        "in_flight": 2,
        "completed": 1,
        "skipped": 0,
        "skip_reasons": {},
        "redelivered": 0,
        "handling": [0] * 33,
        **dict.fromkeys(["backlog_max", "backlog_bytes_max", "backlog_bytes", "when_full"]),
        "recent_skips": [],
    }
    assert statistics["events"] == {"notified": 4, "dropped": 1, "unsettled": 2}
    assert [topic["name"] for topic in statistics["topics"]] == ["a", "ab", "ac", "b"]


def test_a_snapshot_looks_at_no_event(core, monkeypatch):
    def must_not(*arguments):
        raise AssertionError("a snapshot walked through the events")

    answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b""))
    notified(core, *["a"] * 5)
    core._checks = False
    monkeypatch.setattr(BatchTable, "__iter__", must_not)
    monkeypatch.setattr(BatchTable, "in_bucket", must_not)
    monkeypatch.setattr(SpanTable, "in_use", must_not)
    assert answer(core, requests.GetSnapshot, -1)["events"]["unsettled"] == 5


def test_what_is_stuck_is_found_without_a_look_at_what_came_later(core, monkeypatch):
    answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b""))
    answer(core, requests.Subscribe, *subscribe_fields("t", ["b"], 2, config=b""))
    notified(core, *"abababab")  # Of two routes, so each is a batch of its own.
    looked_at = []
    any_unsettled = EventBatch.any_unsettled

    def look(batch):
        looked_at.append(batch)
        return any_unsettled(batch)

    core._checks = False
    monkeypatch.setattr(EventBatch, "any_unsettled", look)
    assert len(answer(core, requests.ListStuck, 0, 3, None)["deliveries"]) == 3
    assert len(looked_at) == 3


def test_a_snapshot_of_some_topics_has_those_with_the_most_unsettled_events(core):
    answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b""))
    notified(core, "ab", "ac", "ac", "b", "ac", "ab")
    assert [row["name"] for row in answer(core, requests.GetSnapshot, 2)["topics"]] == ["ac", "ab"]
    assert answer(core, requests.GetSnapshot, 2)["topics_total"] == 3
    assert answer(core, requests.GetSnapshot, 0)["topics"] == []
    assert [row["unsettled"] for row in answer(core, requests.GetSnapshot, 9)["topics"]] == [2, 3, 0]


def test_the_oldest_events_of_topics_that_share_their_batches(core):
    answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 9, config=b""))
    notified(core, "a", "ab", now_ns=1_000)
    notified(core, "ab", "ac", first=257, now_ns=3_000)  # In another bucket, so they are another batch.
    core.handle(DeliveriesSettled(LINK, 1, Outcome.COMPLETED, [((LINK << 40) + 2, 1)]), 4_000)
    reply = core.handle(requests.GetSnapshot(LINK, 77, -1), 5_000)[-1]
    assert {row["name"]: row["oldest_age_ns"] for row in reply.value["topics"]} == {
        "a": 4_000,
        "ab": 2_000,
        "ac": 2_000,
    }


@pytest.mark.parametrize(("topics", "counts"), [(["a"], []), (["a"], [0]), (["a"], [-1]), (["a"], [1 << 63])])
def test_nonsense_about_dropped_events_closes_the_link(core, topics, counts):
    [closed] = core.handle(requests.ReportDropped(LINK, 0, topics, counts), 0)
    assert type(closed) is CloseLink


def test_subscribers_are_listed_by_name(core):
    more = {"scope": "cluster", "host": "B", "forwards": True}
    answer(core, requests.Subscribe, *subscribe_fields("s", ["a", "b"], 2, config=b"config", **more))
    row = {"name": "s", "config": b"config", "host": "B", "patterns": ["a", "b"], "scope": "cluster", "pids": [PID]}
    row["home_pids"] = []
    assert answer(core, requests.ListSubscribers, None) == [row]
    assert answer(core, requests.ListSubscribers, "a") == []
    core.state.registry.register("a")
    assert answer(core, requests.ListSubscribers, "a") == [row]


def test_events_are_listed_with_their_watchers(core):
    number = answer(core, requests.Subscribe, *subscribe_fields("s", ["a"], 2, config=b""))
    answer(core, requests.Subscribe, *subscribe_fields("t", ["a"], 2, config=b""))
    notified(core, "a")
    core.handle(DeliveriesSettled(LINK, number, Outcome.COMPLETED, [((LINK << 40) + 1, 1)]), 0)
    watcher = {"subscribers": [["s", b"", ""], ["t", b"", ""]], "completers": [["s", b"", ""]], "skippers": []}
    [event] = answer(core, requests.ListEvents, "a", 0, 9)
    assert event == {"record": answer(core, requests.FindEvents, "a", 0, False), "watcher": watcher}
    assert RECORD.unpack(event["record"])[-1] == (LINK << 40) + 1
    assert answer(core, requests.WatchEvent, 1, (LINK << 40) + 1) == watcher
    assert answer(core, requests.ListEvents, "nothing", 0, 9) == []


@pytest.mark.parametrize(("after", "limit"), [(0, -1), (0, EVENTS_PAGE_MAX + 1), (-1, 5)])
def test_a_page_that_cannot_be_closes_the_link(core, after, limit):
    [close] = core.handle(requests.ListEvents(LINK, 1, "a", after, limit), 0)
    assert type(close) is CloseLink


def test_more_required_names_than_there_may_be_close_the_link(core):
    names = [str(number) for number in range(REQUIRED_MAX + 1)]
    [close] = core.handle(requests.RequireSubscribers(LINK, 1, "a", names), 0)
    assert type(close) is CloseLink


# --- who only looks ---


def idle(core):
    return core.state.idle_deadline_ns


def test_the_bus_does_not_live_on_for_who_only_looks(core):
    """An observer changes nothing of when the bus is to end, whenever it comes and goes."""
    idle_ns = int(core.state.config.manager_idle_s * 1e9)
    assert idle(core) is None
    core.handle(LinkOpened(2, PID), 1)
    core.handle(requests.Observe(2, 0), 2)
    assert idle(core) is None
    core.handle(LinkLost(LINK, crashed=False), 10)
    assert idle(core) == 10 + idle_ns
    core.handle(LinkOpened(3, PID), 20)
    core.handle(requests.Observe(3, 0), 21)
    core.handle(requests.Observe(3, 0), 22)
    assert idle(core) == 10 + idle_ns
    core.handle(LinkLost(3, crashed=True), 30)
    assert idle(core) == 10 + idle_ns
    core.handle(LinkOpened(4, PID), 40)
    assert idle(core) is None
    core.handle(LinkLost(4, crashed=True), 50)
    assert idle(core) == 50 + idle_ns
    assert [type(effect) for effect in core.handle(TimePassed(), 50 + idle_ns)] == [Stop]


def test_two_that_look_at_once(core):
    core.handle(LinkLost(LINK, crashed=False), 1)
    idle_ns = idle(core)
    core.handle(LinkOpened(2, PID), 2)
    core.handle(LinkOpened(3, PID), 3)
    core.handle(requests.Observe(2, 0), 4)
    assert idle(core) is None
    core.handle(requests.Observe(3, 0), 5)
    assert idle(core) is not None
    assert idle(core) >= idle_ns


@pytest.mark.parametrize("id_crc", [-1, 1 << 32])
def test_a_crc_that_is_none_closes_the_link(core, id_crc):
    [closed] = core.handle(requests.FindEvents(LINK, 1, "a", id_crc, True), 0)
    assert (type(closed), closed.reason) == (CloseLink, f"it looked for an id with CRC {id_crc}")
