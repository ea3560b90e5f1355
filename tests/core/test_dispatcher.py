"""Credit: fixed, learned, shared; suspects alone."""

from eventbus_mp.core.dispatcher import Endpoint, dispatch, note_stale
from eventbus_mp.core.registry import Route, SubscriberState, Topic
from eventbus_mp.core.spans import Span
from eventbus_mp.core.story import Story
from eventbus_mp.core.watcher import Unsettled
from eventbus_mp.effects import Deliver
from eventbus_mp.messages import BLOCK_BYTES


def subscriber_with(*credits, credit_max=64):
    subscriber = SubscriberState(1, "s", b"", broadcast=False)
    for link, credit in enumerate(credits, 1):
        subscriber.endpoints.append(Endpoint(link, subscriber, credit, credit_max))
    return subscriber


def queue(subscriber, count):
    route = Route(Topic(1, "a"), [subscriber])
    span = Span(1, BLOCK_BYTES, 2 * BLOCK_BYTES, 0, 1, backed=True)
    first = len(subscriber.queue)
    events = [Unsettled(first + index, b"%d" % (first + index), route, span, 1) for index in range(count)]
    subscriber.queue.extend(events)
    return events


def sent(subscriber):
    effects = []
    dispatch(subscriber, Story(), 0, effects)
    return effects


def test_as_many_as_the_credit_allows():
    subscriber = subscriber_with(2)
    queue(subscriber, 3)
    assert sent(subscriber) == [Deliver(1, 1, 1, [b"0", b"1"])]
    assert sent(subscriber) == []


def test_everything_when_there_is_more_credit():
    subscriber = subscriber_with(10)
    queue(subscriber, 3)
    assert sent(subscriber) == [Deliver(1, 1, 1, [b"0", b"1", b"2"])]


def test_endpoints_share_evenly():
    subscriber = subscriber_with(4, 4)
    queue(subscriber, 4)
    assert [(effect.link, len(effect.raws)) for effect in sent(subscriber)] == [(1, 2), (2, 2)]


def test_the_one_with_more_free_credit_gets_the_odd_one():
    subscriber = subscriber_with(1, 4)
    queue(subscriber, 3)
    assert [(effect.link, len(effect.raws)) for effect in sent(subscriber)] == [(2, 2), (1, 1)]


def test_a_suspect_is_sent_alone_and_nothing_beside_it():
    subscriber = subscriber_with(4, 4)
    suspect, *_ = queue(subscriber, 5)
    subscriber.queue.popleft()
    subscriber.suspects.append(suspect)
    subscriber.attempts[suspect.sequence] = 1
    assert sent(subscriber) == [Deliver(1, 1, 2, [b"0"]), Deliver(2, 1, 1, [b"1", b"2", b"3", b"4"])]
    queue(subscriber, 4)
    assert sent(subscriber) == []


def test_fresh_events_wait_for_waiting_suspects():
    subscriber = subscriber_with(4)
    first, second, _ = queue(subscriber, 3)
    for event in (first, second):
        subscriber.queue.popleft()
        subscriber.suspects.append(event)
        subscriber.attempts[event.sequence] = 1
    assert sent(subscriber) == [Deliver(1, 1, 2, [b"0"])]
    del subscriber.endpoints[0].held[0], subscriber.attempts[0]
    assert sent(subscriber) == [Deliver(1, 1, 2, [b"1"])]


def test_events_settled_in_the_queue_are_passed_over():
    subscriber = subscriber_with(2)
    events = queue(subscriber, 5)
    for event in events[:2]:
        event.unsettled = 0
        note_stale(subscriber)
    assert sent(subscriber) == [Deliver(1, 1, 1, [b"2", b"3"])]
    assert subscriber.stale == 0


def test_a_queue_of_settled_events_does_not_grow():
    subscriber = subscriber_with()
    for event in queue(subscriber, 10):
        event.unsettled = 0
        note_stale(subscriber)
        assert len(subscriber.queue) >= 2 * subscriber.stale
    assert not subscriber.queue


def test_automatic_credit_follows_the_measured_cost():
    endpoint = subscriber_with(0).endpoints[0]
    first = endpoint.credit
    for step in range(1, 20):
        endpoint.learn(10, step * 10_000)  # 1 us each
    fast = endpoint.credit
    for step in range(1, 20):
        endpoint.learn(1, 10**9 * step)  # 1 s each
    assert (endpoint.credit, fast) == (1, 64)
    assert 1 <= first < fast


def test_fixed_credit_stays():
    endpoint = subscriber_with(3).endpoints[0]
    endpoint.learn(1, 10**9)
    assert endpoint.credit == 3


def test_what_one_cannot_take_goes_to_those_with_more_credit():
    subscriber = subscriber_with(1, 8, 2)
    queue(subscriber, 9)
    assert [(effect.link, len(effect.raws)) for effect in sent(subscriber)] == [(2, 6), (3, 2), (1, 1)]
    assert not subscriber.queue
