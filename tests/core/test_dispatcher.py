"""Credit: fixed, learned, shared; suspects alone."""

import pytest

from eventbus_mp.core.batches import SEQUENCE_BUCKET_EVENTS, EventBatch
from eventbus_mp.core.dispatcher import Endpoint, dispatch
from eventbus_mp.core.event_log import EventLog
from eventbus_mp.core.registry import Route, SubscriberState, Topic
from eventbus_mp.core.spans import Span
from eventbus_mp.core.state import BusState
from eventbus_mp.geometry import CHUNK_BYTES, RECORD_BYTES
from eventbus_mp.protocol.effects import Deliver
from eventbus_mp.protocol.messages import Outcome


def subscriber_with(*credits, credit_max=64):
    subscriber = SubscriberState(1, "s", b"", broadcast=False)
    for link, credit in enumerate(credits, 1):
        subscriber.endpoints.append(Endpoint(link, subscriber, credit, credit_max))
    return subscriber


def packed_record(*numbers):
    return b"".join(b"%*d" % (RECORD_BYTES, number) for number in numbers)


class EffectExecutor:
    """A ledger with one topic and one subscriber."""

    def __init__(self, subscriber):
        self.state, self.topic, self.subscriber = BusState(1 << 20, 3, None), Topic(1, "a"), subscriber
        self.route = Route((subscriber,))
        self.span = Span(1, 0, CHUNK_BYTES, 1, backed=True)
        self.first = SEQUENCE_BUCKET_EVENTS

    def queue(self, count):
        """A run of `count` events that wait; their records tell their number."""
        batch = EventBatch(self.first, self.route, self.span)
        numbers = range(self.first - SEQUENCE_BUCKET_EVENTS, self.first - SEQUENCE_BUCKET_EVENTS + count)
        self.state.append_batch(batch, packed_record(*numbers), [self.topic], count)
        self.first += count
        return batch

    def settle_waiting(self, batch, mask):
        self.state.settle_waiting(batch, mask, self.subscriber, Outcome.SKIPPED, [])

    def quarantined(self, batch, count):
        """The oldest `count` events of the run have crashed a process."""
        batch.waiting[0] &= ~((1 << count) - 1)
        self.subscriber.queued -= count
        for index in range(count):
            self.subscriber.quarantine.append((batch, 1 << index))
            self.subscriber.attempts[batch.first + index] = 1

    def sent(self):
        effects = []
        dispatch(self.subscriber, EventLog(), 0, effects)
        return effects


def counts(effects):
    return [(effect.link, len(effect.packed) // RECORD_BYTES) for effect in effects]


def test_as_many_as_the_credit_allows():
    desk = EffectExecutor(subscriber_with(2))
    desk.queue(3)
    assert desk.sent() == [Deliver(1, 1, 1, packed_record(0, 1))]
    assert desk.sent() == []


def test_everything_when_there_is_more_credit():
    desk = EffectExecutor(subscriber_with(10))
    desk.queue(3)
    assert desk.sent() == [Deliver(1, 1, 1, packed_record(0, 1, 2))]


def test_credit_reaches_over_runs():
    desk = EffectExecutor(subscriber_with(4))
    desk.queue(3)
    desk.queue(3)
    assert desk.sent() == [Deliver(1, 1, 1, packed_record(0, 1, 2, 3))]


def test_endpoints_share_evenly():
    desk = EffectExecutor(subscriber_with(4, 4))
    desk.queue(4)
    assert counts(desk.sent()) == [(1, 2), (2, 2)]


def test_the_one_with_more_free_credit_gets_the_odd_one():
    desk = EffectExecutor(subscriber_with(1, 4))
    desk.queue(3)
    assert counts(desk.sent()) == [(2, 2), (1, 1)]


def test_a_suspect_is_sent_alone_and_nothing_beside_it():
    desk = EffectExecutor(subscriber_with(4, 4))
    desk.quarantined(desk.queue(5), 1)
    assert desk.sent() == [Deliver(1, 1, 2, packed_record(0)), Deliver(2, 1, 1, packed_record(1, 2, 3, 4))]
    desk.queue(4)
    assert desk.sent() == []


def test_fresh_events_wait_for_waiting_suspects():
    desk = EffectExecutor(subscriber_with(4))
    batch = desk.queue(3)
    desk.quarantined(batch, 2)
    assert desk.sent() == [Deliver(1, 1, 2, packed_record(0))]
    assert desk.subscriber.endpoints[0].release_in_flight(batch, 1) == 1
    del desk.subscriber.attempts[batch.first]
    assert desk.sent() == [Deliver(1, 1, 2, packed_record(1))]


def test_events_settled_in_the_queue_are_passed_over():
    desk = EffectExecutor(subscriber_with(2))
    batch = desk.queue(5)
    desk.settle_waiting(batch, 0b01011)
    assert desk.sent() == [Deliver(1, 1, 1, packed_record(2, 4))]


def test_a_queue_of_settled_events_does_not_grow():
    desk = EffectExecutor(subscriber_with())
    for batch in [desk.queue(2) for _ in range(10)]:
        desk.settle_waiting(batch, 0b11)
        assert len(desk.subscriber.queue) >= 2 * desk.subscriber.stale
    assert not desk.subscriber.queue
    assert not list(desk.state.batches)


def test_automatic_credit_follows_the_measured_cost():
    endpoint = subscriber_with(0).endpoints[0]
    first = endpoint.credit
    for step in range(1, 20):
        endpoint.update_credit(10, step * 10_000)  # 1 us each
    fast = endpoint.credit
    for step in range(1, 20):
        endpoint.update_credit(1, 10**9 * step)  # 1 s each
    assert (endpoint.credit, fast) == (1, 64)
    assert 1 <= first < fast


@pytest.mark.parametrize(
    ("cost_ns", "credit"), [(100_000, 40), (400_000, 10), (1_000_000, 8), (2_500_000, 3), (9_000_000, 2)]
)
def test_slow_tasks_get_eight_up_to_eight_milliseconds(cost_ns, credit):
    endpoint = subscriber_with(0).endpoints[0]
    for step in range(1, 40):
        endpoint.update_credit(1, step, cost_ns)
    assert endpoint.credit == credit


def test_what_is_not_worth_dividing_goes_to_the_one_with_the_most_credit():
    desk = EffectExecutor(subscriber_with(3, 8, 5))
    for endpoint in desk.subscriber.endpoints:
        endpoint.cost_ns = 50_000  # five are worth a message
    desk.queue(4)
    assert counts(desk.sent()) == [(2, 4)]


def test_fixed_credit_stays():
    endpoint = subscriber_with(3).endpoints[0]
    endpoint.update_credit(1, 10**9)
    assert endpoint.credit == 3


def test_what_one_cannot_take_goes_to_those_with_more_credit():
    desk = EffectExecutor(subscriber_with(1, 8, 2))
    desk.queue(9)
    assert counts(desk.sent()) == [(2, 6), (3, 2), (1, 1)]
    assert not desk.subscriber.queue
