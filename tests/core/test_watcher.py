"""The transition table, and what a watcher tells."""

import pytest

from eventbus_mp.core.registry import Route, SubscriberState, Topic
from eventbus_mp.core.spans import Span
from eventbus_mp.core.watcher import COMPLETED, DELIVERY_TRANSITIONS, QUEUED, SENT, SKIPPED, Unsettled, describe
from eventbus_mp.messages import Outcome


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
    route = Route(Topic(1, "a"), subscribers)
    event = Unsettled(1, b"", route, Span(1, 0, 1, 0, 1, backed=True), route.full)
    event.settle(route.bit_of[1], Outcome.COMPLETED)
    event.settle(route.bit_of[3], Outcome.SKIPPED)
    assert describe(event) == [[["s1", b""], ["s2", b""], ["s3", b""]], [["s1", b""]], [["s3", b""]]]
    assert event.unsettled == route.bit_of[2]
