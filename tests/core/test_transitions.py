"""The transition table, and what a watcher tells."""

import pytest

from eventbus_mp.core.batches import EventBatch
from eventbus_mp.core.registry import Route, SubscriberState, Topic
from eventbus_mp.core.spans import Span
from eventbus_mp.core.transitions import COMPLETED, DELIVERY_TRANSITIONS, QUEUED, SENT, SKIPPED, describe


@pytest.mark.parametrize("state", [COMPLETED, SKIPPED])
def test_settled_stays_settled(state):
    assert set(DELIVERY_TRANSITIONS[state].values()) == {state}


@pytest.mark.parametrize("state", [QUEUED, SENT])
def test_each_state_knows_every_event_but_a_second_dispatch(state):
    assert set(DELIVERY_TRANSITIONS[QUEUED]) - set(DELIVERY_TRANSITIONS[state]) <= {"dispatched"}


def test_a_sent_delivery_is_not_sent_again():
    assert "dispatched" not in DELIVERY_TRANSITIONS[SENT]


def test_describe_tells_subscribers_completers_skippers():
    subscribers = [SubscriberState(number, f"s{number}", b"", broadcast=False) for number in (1, 2, 3)]
    batch = EventBatch(1, Route(tuple(subscribers)), Span(1, 0, 1, 1, backed=True))
    batch.add(b"", [Topic(1, "a")], 2)
    batch.unsettled = [0b01, 0b11, 0b01]
    batch.completed = [0b10, 0b00, 0b00]
    assert describe(batch, 0b10) == [[["s1", b""], ["s2", b""], ["s3", b""]], [["s1", b""]], [["s3", b""]]]
    assert describe(batch, 0b01) == [[["s1", b""], ["s2", b""], ["s3", b""]], [], []]
