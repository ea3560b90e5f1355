"""The nouns that users hold: validated when made, compared by value."""

import enum
import pickle

import numpy as np
import pytest

from eventbus_mp.errors import InvalidTopic, UsageError
from eventbus_mp.events import EventShadow, check_topic
from eventbus_mp.memory.payload import Event
from eventbus_mp.statistics import SubscriberKey, Watcher


@pytest.mark.parametrize("topic", ["a", "user_created", "x" * 255, "a b", "ünï", "日本"])
def test_topics(topic):
    assert check_topic(topic) == topic


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("", "0 characters"),
        ("x" * 256, "256 characters"),
        ("a\n", "control character"),
        ("\x00", "control character"),
        ("\x85", "control character"),
        ("\ud800", "not valid unicode"),
        (None, "NoneType"),
        (b"a", "bytes"),
    ],
)
def test_what_names_no_topic(topic, text):
    with pytest.raises(InvalidTopic, match=text):
        check_topic(topic)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"id": ""}, "needs an id"),
        ({"id": None}, "needs an id"),
        ({"id": 5.0}, "needs an id"),
        ({"id": True}, "needs an id"),
        ({"id": 1 << 63}, "id=9223372036854775808.*64 bits, signed"),
        ({"transaction_id": -(1 << 63) - 1}, "transaction_id=-9223372036854775809.*64 bits, signed"),
        ({"headers": [("a", "b")]}, "a dict of str to str"),
        ({"headers": {"a": 1}}, "header 'a' is 1; names and values are str"),
        ({"headers": {b"a": "1"}}, "names and values are str"),
        ({"headers": {"a": "\ud800"}}, "header 'a' is not valid unicode"),
        ({"headers": {"a": "x" * 8192}}, "8193 bytes of UTF-8; 8192 are allowed"),
        ({"topic": ""}, "needs a topic"),
        ({"topic": None}, "needs a topic"),
        ({"ttl": 5}, "occurred_at, which is missing"),
        ({"ttl": 5.5, "occurred_at": 1}, "whole numbers"),
        ({"ttl": 5, "occurred_at": "now"}, "whole numbers"),
    ],
)
def test_what_makes_no_event(arguments, text):
    with pytest.raises(UsageError, match=text):
        Event(**{"id": "1", "topic": "a", "data": 1, **arguments})


def test_duration_is_the_difference_or_zero():
    assert Event("1", "a", 1, initialized_at=5, occurred_at=12).duration == 7
    assert Event("1", "a", 1, occurred_at=12).duration == 0
    assert Event("1", "a", 1, initialized_at=5).duration == 0


def test_events_are_values():
    one = Event("1", "a", {"x": [1]}, source="s")
    assert one == Event("1", "a", {"x": [1]}, source="s")
    assert one != Event("1", "a", {"x": [2]}, source="s")
    assert hash(one) == hash(Event("1", "a", 5))
    assert one != "1"


@pytest.mark.parametrize("copied", [lambda event: event.copy(), lambda event: pickle.loads(pickle.dumps(event))])
def test_copies_are_equal(copied):
    fields = {"transaction_id": "t", "initialized_at": 1, "occurred_at": 2, "source": "s", "ttl": 3}
    event = Event("1", "a", {"x": [1]}, **fields, headers={"a": "b"})
    assert copied(event) == event
    assert copied(event) is not event


def test_an_event_has_no_other_fields():
    with pytest.raises(AttributeError, match="colour"):
        _ = Event("1", "a", 1).colour  # type: ignore[attr-defined]


@pytest.mark.parametrize("field", ["topic", "id", "data", "transaction_id", "ttl", "source", "headers"])
def test_no_field_of_an_event_can_be_set(field):
    event = Event("1", "a", 1)
    with pytest.raises(AttributeError):
        setattr(event, field, "b")
    assert event == Event("1", "a", 1)


@pytest.mark.parametrize("field", ["topic", "id"])
def test_no_field_of_a_shadow_can_be_set(field):
    """They are hashed: a shadow in a set would not be found any more."""
    shadow = EventShadow("a", "1")
    with pytest.raises(AttributeError):
        setattr(shadow, field, "b")
    assert shadow in {("a", "1")}


def test_headers_are_copied_and_cannot_be_set():
    given = {"a": "b"}
    event = Event("1", "a", 1, headers=given)
    given["a"] = "c"
    assert event.headers == {"a": "b"}
    with pytest.raises(TypeError, match="item assignment"):
        event.headers["a"] = "c"  # type: ignore[index]
    assert Event("1", "a", 1, headers={}).headers is None


@pytest.mark.parametrize("event_id", [0, 7, -1, (1 << 63) - 1, -(1 << 63)])
def test_an_id_may_be_an_integer(event_id):
    event = Event(event_id, "a", 1, transaction_id=event_id)
    assert (event.id, event.transaction_id) == (event_id, event_id)
    assert event != Event(str(event_id), "a", 1, transaction_id=event_id)
    assert EventShadow("a", event_id) == ("a", event_id) != EventShadow("a", str(event_id))
    assert event.copy() == pickle.loads(pickle.dumps(event)) == event


def test_a_long_payload_is_cut_in_the_repr():
    assert len(repr(Event("1", "a", "x" * 10_000))) < 300


def test_a_shadow_is_the_pair():
    shadow = EventShadow("a", "1")
    topic, event_id = shadow
    assert (topic, event_id) == ("a", "1") == shadow == EventShadow("a", "1")
    assert (shadow[0], shadow[1], len(shadow)) == ("a", "1", 2)
    assert {shadow: 5}[("a", "1")] == 5  # type: ignore[index]
    assert repr(shadow) == "EventShadow('a', '1')"


def test_a_watcher_knows_who_is_waited_for():
    bill, audit, log = (SubscriberKey(name) for name in ("bill", "audit", "log"))
    assert Watcher((bill, audit, log), (bill,), (log,)).waiting == (audit,)


class Topic(str, enum.Enum):
    PAID = "order_paid"


def test_a_str_of_a_subclass_is_a_str():
    event = Event(
        np.str_("id"),
        Topic.PAID,
        1,
        transaction_id=Topic.PAID,
        source=Topic.PAID,
        headers={Topic.PAID: np.str_("x")},
    )
    headers = [part for pair in event.headers.items() for part in pair]
    for value in (event.id, event.topic, event.transaction_id, event.source, *headers):
        assert type(value) is str
    assert (event.id, event.topic, event.headers) == ("id", "order_paid", {"order_paid": "x"})
    assert type(check_topic(Topic.PAID)) is str


def test_whole_numbers_of_numpy_are_ints():
    event = Event(
        np.int64(7),
        "t",
        1,
        transaction_id=np.uint8(8),
        initialized_at=np.int32(1),
        occurred_at=np.int64(2),
        ttl=np.int8(3),
    )
    found = [event.id, event.transaction_id, event.initialized_at, event.occurred_at, event.ttl]
    assert (found, {type(value) for value in found}) == ([7, 8, 1, 2, 3], {int})
    for no_id in (True, np.bool_(True), 1.0, np.float64(1)):
        with pytest.raises(UsageError, match="needs an id"):
            Event(no_id, "t", 1)


def test_none_is_data_as_any_other():
    event = Event("id", "topic", None)
    assert event.data is None
    assert Event.from_encoded("id", "topic", event.encoded).data is None
    assert event == event.copy()
