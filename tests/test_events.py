"""The nouns that users hold: validated when made, compared by value."""

import pickle

import pytest

from eventbus_mp.errors import InvalidTopic, UsageError
from eventbus_mp.events import Event, EventShadow, check_topic
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
        ({"id": 5}, "needs an id"),
        ({"topic": ""}, "needs a topic"),
        ({"topic": None}, "needs a topic"),
        ({"data": None}, "needs data"),
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
    event = Event("1", "a", {"x": [1]}, transaction_id="t", initialized_at=1, occurred_at=2, source="s", ttl=3)
    assert copied(event) == event
    assert copied(event) is not event


def test_an_event_has_no_other_fields():
    with pytest.raises(AttributeError, match="colour"):
        _ = Event("1", "a", 1).colour  # type: ignore[attr-defined]


@pytest.mark.parametrize("field", ["topic", "id", "data", "transaction_id", "ttl", "source"])
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
