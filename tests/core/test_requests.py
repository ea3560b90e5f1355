"""What the core answers to requests, to which it answers nothing, and that each message and request has its handler."""

import typing

import msgpack
import pytest

from eventbus_mp import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.core.requests import REQUEST_HANDLERS
from eventbus_mp.errors import UsageError
from eventbus_mp.geometry import REASON_LENGTH_MAX
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.effects import Refuse, Reply, Warn
from eventbus_mp.protocol.messages import SPAN_NEEDED, DeliveriesSettled, LinkOpened, Message, Outcome, SpanWanted
from eventbus_mp.protocol.records import RECORD, pack_notified
from eventbus_mp.protocol.requests import REQUESTS, Notice, Request

LINK, PID = 1, 4711
EVENT_BYTES = 64


@pytest.fixture
def core():
    core = BusCore(BusConfig(memory_bytes_max=1 << 20, check_invariants=True), 0)
    core.handle(LinkOpened(LINK, PID), 0)
    return core


def answer(core, kind, *fields):
    """The value of the one reply, after the way over the pipe."""
    [reply] = core.handle(kind(LINK, 1, *fields), 0)
    assert (type(reply), reply.link, reply.request) == (Reply, LINK, 1)
    return msgpack.unpackb(msgpack.packb(reply.value))


def notified(core, *names):
    """Topics with these names, and one event of each."""
    [_, grant] = core.handle(SpanWanted(LINK, 1, SPAN_NEEDED), 0)
    for serial, name in enumerate(names, 1):
        topic = core.state.registry.register(name)
        place = grant.segment, grant.offset + serial * EVENT_BYTES, EVENT_BYTES
        packed = pack_notified(topic.number, *place, 0, (LINK << 40) + serial, False)
        for message in ManagerDecoder(LINK).feed(packed):
            core.handle(message, 0)


# --- contracts ---


def test_every_message_has_a_handler():
    messages = set(typing.get_args(Message)) - {Request} | set(REQUESTS)
    assert set(BusCore.HANDLERS) == messages


def test_every_request_has_a_handler():
    assert set(REQUEST_HANDLERS) == set(REQUESTS)


def test_every_request_class_can_travel():
    classes = {item for item in vars(requests).values() if isinstance(item, type) and issubclass(item, Request)}
    assert classes - {Request, Notice} == set(REQUESTS)
    assert len(REQUESTS) == len(set(REQUESTS))


def test_the_notices_are_those_without_an_answer():
    assert {kind for kind in REQUESTS if not kind.ANSWERED} == {kind for kind in REQUESTS if issubclass(kind, Notice)}
    assert {kind for kind in REQUESTS if not kind.ANSWERED} == {
        requests.CancelWait,
        requests.ExplainSkip,
        requests.Goodbye,
        requests.ReportState,
    }


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if not kind.ANSWERED], ids=lambda kind: kind.__name__)
def test_the_handler_of_a_notice_returns_nothing(kind):
    assert typing.get_type_hints(REQUEST_HANDLERS[kind])["return"] is type(None)


SAMPLES = {str: "a", bytes: b"", int: 0, bool: False, list: [], (str, type(None)): None, list[str]: ["a"]}


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_request_is_answered_once_and_a_notice_never(core, kind):
    effects = core.handle(kind(LINK, 7, *(SAMPLES[expected] for expected in kind.WIRE)), 0)
    if kind is requests.MarkEvent:
        effects = core.handle(kind(LINK, 7, 1, 1, "a", b"", Outcome.COMPLETED), 0)
    answers = [item for item in effects if isinstance(item, Reply | Refuse)]
    assert [item.request for item in answers] == [7] * kind.ANSWERED


def test_a_notice_whose_handler_refuses_it_is_logged_and_not_answered(core, monkeypatch):
    def refusing(step, link, message):
        raise UsageError("not now")

    monkeypatch.setitem(REQUEST_HANDLERS, requests.ExplainSkip, refusing)
    effects = core.handle(requests.ExplainSkip(LINK, 0, 1, "id", "because"), 0)
    assert effects == [Warn(f"process {PID}: ExplainSkip: not now")]


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
    assert answer(core, requests.ResolveTopic, "first") == [1, False]


def test_topics_beyond_the_bound_are_refused_together(core, monkeypatch):
    monkeypatch.setattr("eventbus_mp.core.registry.TOPICS_MAX", 3)
    assert answer(core, requests.RegisterTopics, ["a", "b"]) == ["a", "b"]
    [refusal] = core.handle(requests.RegisterTopics(LINK, 1, ["b", "c", "d"]), 0)
    assert refusal.error == "UsageError"
    assert "takes no more" in refusal.text
    assert answer(core, requests.RegisterTopics, ["a", "b", "c"]) == ["c"]


# --- answers by name ---


def test_an_explained_skip_is_remembered_once_and_shortened(core):
    number = answer(core, requests.Subscribe, "s", b"config", ["a"], 2, False)
    for _ in range(2):
        core.handle(requests.ExplainSkip(LINK, 0, number, "id", "x" * 2 * REASON_LENGTH_MAX), 0)
    [subscriber] = answer(core, requests.GetStatistics)["subscribers"]
    assert subscriber["recent_skips"] == [["id", "x" * REASON_LENGTH_MAX]]


def test_statistics_name_what_they_count(core):
    number = answer(core, requests.Subscribe, "s", b"config", ["a"], 2, False)
    notified(core, "a", "ab", "ac", "b")
    core.handle(DeliveriesSettled(LINK, number, Outcome.COMPLETED, [((LINK << 40) + 1, 1)]), 0)
    statistics = answer(core, requests.GetStatistics)
    assert statistics["subscribers"] == [
        {
            "name": "s",
            "config": b"config",
            "queued": 0,
            "sent": 2,
            "completed": 1,
            "skipped": 0,
            "redelivered": 0,
            "recent_skips": [],
        }
    ]
    counts = [statistics[name] for name in ("topics", "events_notified", "events_dropped", "events_unsettled")]
    assert counts == [4, 4, 1, 2]


def test_subscribers_are_listed_by_name(core):
    answer(core, requests.Subscribe, "s", b"config", ["a", "b"], 2, False)
    row = {"name": "s", "config": b"config", "patterns": ["a", "b"], "pids": [PID]}
    assert answer(core, requests.ListSubscribers, None) == [row]
    assert answer(core, requests.ListSubscribers, "a") == []
    core.state.registry.register("a")
    assert answer(core, requests.ListSubscribers, "a") == [row]


def test_events_are_listed_with_their_watchers(core):
    number = answer(core, requests.Subscribe, "s", b"", ["a"], 2, False)
    answer(core, requests.Subscribe, "t", b"", ["a"], 2, False)
    notified(core, "a")
    core.handle(DeliveriesSettled(LINK, number, Outcome.COMPLETED, [((LINK << 40) + 1, 1)]), 0)
    watcher = {"subscribers": [["s", b""], ["t", b""]], "completers": [["s", b""]], "skippers": []}
    [event] = answer(core, requests.ListEvents, "a", True)
    assert event == {"record": answer(core, requests.ListEvents, "a", False), "watcher": watcher}
    assert RECORD.unpack(event["record"])[-1] == (LINK << 40) + 1
    assert answer(core, requests.WatchEvent, 1, (LINK << 40) + 1) == watcher
    assert answer(core, requests.ListEvents, "nothing", True) == []
