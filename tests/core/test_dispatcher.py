"""Credit: fixed, measured, shared; quarantined events are sent alone."""

import pytest

from eventbus_mp import BusConfig
from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.dispatcher import dispatch
from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Route, Topic
from eventbus_mp.core.ingest import append_batch
from eventbus_mp.core.masks import SEQUENCE_BUCKET_EVENTS
from eventbus_mp.core.redelivery import reclaim
from eventbus_mp.core.settlement import settle_waiting
from eventbus_mp.core.state import BusState, Step
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


class Queue:
    """A state with one topic and one subscriber."""

    def __init__(self, subscriber):
        self.state = BusState(BusConfig(memory_bytes_max=1 << 20), 0)
        self.topic, self.subscriber = Topic(1, "a"), subscriber
        self.route = Route((subscriber,))
        self.span = Span(1, 0, CHUNK_BYTES, 1, backed=True)
        self.first = SEQUENCE_BUCKET_EVENTS

    def queue(self, count):
        """A batch of `count` events that wait; their records are their numbers."""
        batch = EventBatch(self.first, self.route, self.span)
        numbers = range(self.first - SEQUENCE_BUCKET_EVENTS, self.first - SEQUENCE_BUCKET_EVENTS + count)
        append_batch(self.step(), batch, packed_record(*numbers), [self.topic], count)
        self.first += count
        return batch

    def settle_waiting(self, batch, mask):
        settle_waiting(self.step(), batch, mask, self.subscriber, Outcome.SKIPPED)

    def quarantined(self, batch, count):
        """The oldest `count` events of the batch have crashed a process."""
        batch.waiting[0] &= ~((1 << count) - 1)
        self.subscriber.queued -= count
        for index in range(count):
            self.subscriber.quarantine.append((batch, 1 << index))
            self.subscriber.attempts[batch.first + index] = 1

    def sent(self):
        step = self.step()
        dispatch(step, self.subscriber)
        return step.effects

    def step(self):
        return Step(self.state, 0, [])


def counts(effects):
    return [(effect.link, len(effect.packed) // RECORD_BYTES) for effect in effects]


def test_as_many_as_the_credit_allows():
    waiting = Queue(subscriber_with(2))
    waiting.queue(3)
    assert waiting.sent() == [Deliver(1, 1, 1, packed_record(0, 1))]
    assert waiting.sent() == []


def test_everything_when_there_is_more_credit():
    waiting = Queue(subscriber_with(10))
    waiting.queue(3)
    assert waiting.sent() == [Deliver(1, 1, 1, packed_record(0, 1, 2))]


def test_credit_reaches_over_batches():
    waiting = Queue(subscriber_with(4))
    waiting.queue(3)
    waiting.queue(3)
    assert waiting.sent() == [Deliver(1, 1, 1, packed_record(0, 1, 2, 3))]


def test_endpoints_share_evenly():
    waiting = Queue(subscriber_with(4, 4))
    waiting.queue(4)
    assert counts(waiting.sent()) == [(1, 2), (2, 2)]


def test_the_one_with_more_free_credit_gets_the_odd_one():
    waiting = Queue(subscriber_with(1, 4))
    waiting.queue(3)
    assert counts(waiting.sent()) == [(2, 2), (1, 1)]


def test_a_quarantined_event_is_sent_alone_and_nothing_beside_it():
    waiting = Queue(subscriber_with(4, 4))
    waiting.quarantined(waiting.queue(5), 1)
    assert waiting.sent() == [Deliver(1, 1, 2, packed_record(0)), Deliver(2, 1, 1, packed_record(1, 2, 3, 4))]
    waiting.queue(4)
    assert waiting.sent() == []


def test_fresh_events_wait_for_those_in_quarantine():
    waiting = Queue(subscriber_with(4))
    batch = waiting.queue(3)
    waiting.quarantined(batch, 2)
    assert waiting.sent() == [Deliver(1, 1, 2, packed_record(0))]
    assert waiting.subscriber.endpoints[0].release_in_flight(batch, 1) == 1
    del waiting.subscriber.attempts[batch.first]
    assert waiting.sent() == [Deliver(1, 1, 2, packed_record(1))]


def test_events_settled_in_the_queue_are_passed_over():
    waiting = Queue(subscriber_with(2))
    batch = waiting.queue(5)
    waiting.settle_waiting(batch, 0b01011)
    assert waiting.sent() == [Deliver(1, 1, 1, packed_record(2, 4))]


def test_a_queue_of_settled_events_does_not_grow():
    waiting = Queue(subscriber_with())
    for batch in [waiting.queue(2) for _ in range(10)]:
        waiting.settle_waiting(batch, 0b11)
        assert len(waiting.subscriber.queue) >= 2 * waiting.subscriber.stale
    assert not waiting.subscriber.queue
    assert not list(waiting.state.batches)


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
    waiting = Queue(subscriber_with(3, 8, 5))
    for endpoint in waiting.subscriber.endpoints:
        endpoint.cost_ns = 50_000  # five are worth a message
    waiting.queue(4)
    assert counts(waiting.sent()) == [(2, 4)]


def test_fixed_credit_stays():
    endpoint = subscriber_with(3).endpoints[0]
    endpoint.update_credit(1, 10**9)
    assert endpoint.credit == 3


def test_what_one_cannot_take_goes_to_those_with_more_credit():
    waiting = Queue(subscriber_with(1, 8, 2))
    waiting.queue(9)
    assert counts(waiting.sent()) == [(2, 6), (3, 2), (1, 1)]
    assert not waiting.subscriber.queue


def test_what_was_handed_back_and_sent_again_is_still_the_older_one():
    """An endpoint ends that got the oldest event last: the next endpoint gets all in their order."""
    subscriber = subscriber_with(8)
    queue = Queue(subscriber)
    older, newer = queue.queue(2), queue.queue(2)
    dispatch(queue.step(), subscriber)
    endpoint = subscriber.endpoints[0]
    mask = endpoint.release_in_flight(older, 0b11)
    subscriber.to_front(older, mask)
    dispatch(queue.step(), subscriber)
    assert list(endpoint.in_flight) == [newer, older]
    subscriber.endpoints.clear()
    reclaim(queue.step(), endpoint, crashed=False)
    assert list(subscriber.queue) == [older, newer]
