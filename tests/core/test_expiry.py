"""Expiry buckets: never early, little late, and nothing kept of what is settled."""

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.event_batch import NOBODY, EventBatch
from eventbus_mp.core.expiry import BUCKET_SHIFT, TIDY_ABOVE, Expiry

BUCKET_NS = 1 << BUCKET_SHIFT


def event(sequence):
    return EventBatch(sequence, NOBODY, Span(1, 0, 1, 1, backed=True))


def test_never_early_and_at_most_one_bucket_late():
    expiry, late = Expiry(), event(1)
    expiry.add(late, 3, 10 * BUCKET_NS + 5)
    assert expiry.due(10 * BUCKET_NS + 5) == []
    assert expiry.next_due_ns() == 11 * BUCKET_NS
    assert expiry.due(11 * BUCKET_NS) == [(late, 0b1000)]
    assert expiry.next_due_ns() is None


def test_due_in_order_of_time():
    expiry, events = Expiry(), [event(number) for number in range(3)]
    for number, one in zip((7, 3, 5), events, strict=True):
        expiry.add(one, 0, number * BUCKET_NS)
    assert expiry.due(10 * BUCKET_NS) == [(events[1], 1), (events[2], 1), (events[0], 1)]


def test_a_settled_event_needs_no_wake_up():
    expiry, one = Expiry(), event(1)
    expiry.add(one, 0, BUCKET_NS)
    expiry.discard(one, 1)
    expiry.discard(one, 1)
    assert expiry.next_due_ns() is None
    assert expiry.due(100 * BUCKET_NS) == []


def test_a_bucket_that_emptied_can_fill_again():
    expiry, first, second = Expiry(), event(1), event(2)
    expiry.add(first, 0, BUCKET_NS)
    expiry.discard(first, 1)
    expiry.add(second, 0, BUCKET_NS)
    assert expiry.due(5 * BUCKET_NS) == [(second, 1)]
    assert expiry.due(5 * BUCKET_NS) == []


def test_far_deadlines_of_settled_events_are_forgotten():
    expiry = Expiry()
    for number in range(10 * TIDY_ABOVE):
        one = event(number)
        expiry.add(one, 0, (number + 10**6) * BUCKET_NS)
        expiry.discard(one, 1)
    assert len(expiry._heap) <= TIDY_ABOVE + 1
