"""What is always true between two messages. The numbers are those of ARCHITECTURE.md."""

from __future__ import annotations

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.changes import form_of
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits
from eventbus_mp.core.receipt_boxes import ReceiptBox, ReceiptPage
from eventbus_mp.core.state import BusState

__all__ = ["check_invariants"]


def check_invariants(state: BusState) -> None:
    """Raise AssertionError for the first thing that is not as it must be. Walks everything: for tests."""
    state.spans.check_invariants()
    in_flight = _in_flight_by_batch(state)
    for batch in state.batches:
        _check_batch(state, batch, in_flight)
    for subscriber in state.registry.subscriber_by_number.values():
        _check_queue(state, subscriber)
    _check_topics(state)
    _check_spans(state)
    _check_receipts(state)
    _check_nothing_is_left(state, in_flight)
    _check_changes(state)


def _in_flight_by_batch(state: BusState) -> dict[tuple[int, EventBatch], int]:
    """(subscriber, batch) -> what all its endpoints have in flight of it."""
    in_flight: dict[tuple[int, EventBatch], int] = {}
    for link in state.links.values():
        for number, endpoint in link.endpoints.items():
            count = 0
            numbers = [batch.first + index for batch, mask in endpoint.in_flight.items() for index in bits(mask)]
            assert len(numbers) == len(set(numbers)), "an endpoint holds two deliveries with one number"
            for batch, mask in endpoint.in_flight.items():
                assert mask, "an endpoint holds nothing of a batch"
                assert not (endpoint.forwards and batch.is_imported), "what came from another host is sent to one"
                assert not in_flight.get((number, batch), 0) & mask, (
                    f"batch {batch.first:#x}: two endpoints hold one delivery"
                )
                in_flight[number, batch] = in_flight.get((number, batch), 0) | mask
                count += mask.bit_count()
            assert endpoint.in_flight_count == count, (
                f"an endpoint counts {endpoint.in_flight_count} events, not {count}"
            )
            taken = sum(mask.bit_count() for mask in endpoint.taken.values())
            assert endpoint.taken_count == taken, f"an endpoint counts {endpoint.taken_count} taken events, not {taken}"
            assert count <= endpoint.held_max, f"an endpoint holds {count} events, more than {endpoint.held_max}"
            for batch, mask in endpoint.taken.items():
                assert mask, "an endpoint has taken nothing of a batch"
                assert not mask & ~endpoint.in_flight.get(batch, 0), "an endpoint has taken what it does not hold"
    return in_flight


def _check_batch(state: BusState, batch: EventBatch, in_flight: dict[tuple[int, EventBatch], int]) -> None:
    """2, 3: every delivery is in exactly one place; a batch exists while something of it is unsettled or being read."""
    name, pins = f"batch {batch.first:#x}", 0
    everything = (1 << batch.count) - 1
    for row, subscriber in enumerate(batch.route.subscribers):
        waiting, unsettled = batch.waiting[row], batch.unsettled[row]
        in_flight_mask = in_flight.get((subscriber.number, batch), 0)
        quarantine = sum(bit for quarantined, bit in subscriber.quarantine if quarantined is batch)
        delayed = subscriber.delayed.get(batch, 0)
        assert not delayed & (waiting | in_flight_mask | quarantine), f"{name}: a delayed delivery is somewhere else"
        assert not waiting & in_flight_mask, f"{name}: a delivery is queued and sent"
        assert not (waiting | in_flight_mask) & quarantine, f"{name}: a delivery in quarantine is queued or sent"
        assert not (waiting | quarantine | delayed) & ~unsettled, f"{name}: a settled delivery waits"
        assert not unsettled & ~(waiting | in_flight_mask | quarantine | delayed), (
            f"{name}: a delivery is lost: neither queued nor sent"
        )
        assert not batch.completed[row] & unsettled, f"{name}: a delivery is completed and unsettled"
        assert not (unsettled | batch.completed[row]) & ~everything, f"{name}: a delivery of no event"
        pins += (in_flight_mask & ~unsettled).bit_count()
    assert not (batch.is_imported and any(item.host for item in batch.route.subscribers)), (
        f"{name} came from another host, and leads to one"
    )
    assert batch.live == batch.any_unsettled().bit_count(), f"{name} counts {batch.live} live events"
    assert batch.pins == pins, f"{name} counts {batch.pins} pins, not {pins}"
    assert batch.live or batch.pins, f"{name} is settled and still in the table"
    assert len(batch.topics) in (1, batch.count), f"{name} has {len(batch.topics)} topics for {batch.count} events"
    assert batch.first >> SEQUENCE_BUCKET_SHIFT == (batch.first + batch.count - 1) >> SEQUENCE_BUCKET_SHIFT, (
        f"{name} leaves its bucket"
    )


def _check_queue(state: BusState, subscriber: SubscriberState) -> None:
    """2: the counts and the queue agree with the masks; endpoints and links know each other."""
    number = subscriber.number
    rows = [(batch, batch.route.row_of[number]) for batch in state.batches if number in batch.route.row_of]
    waiting = {batch for batch, row in rows if batch.waiting[row]}
    queued = sum(batch.waiting[row].bit_count() for batch, row in rows)
    assert subscriber.queued == queued, f"{subscriber.name} counts {subscriber.queued} waiting, not {queued}"
    assert waiting <= set(subscriber.queue), f"{subscriber.name}: a batch waits and is not queued"
    assert set(subscriber.delayed) <= set(state.batches), f"{subscriber.name}: a delayed batch is gone"
    delayed = sum(mask.bit_count() for mask in subscriber.delayed.values())
    assert subscriber.delayed_count == delayed, f"{subscriber.name} counts {subscriber.delayed_count} delayed"
    held = {
        batch.first + i for item in subscriber.endpoints for batch, mask in item.in_flight.items() for i in bits(mask)
    }
    due = [batch for batch in subscriber.delayed if not (batch.is_dead_letter and batch.first in held)]
    assert not due or state.delays.next_due_ns() is not None, f"{subscriber.name}: a delayed delivery is never due"
    backlog = subscriber.backlog
    if backlog is not None:
        unsettled = [(batch, batch.unsettled[row]) for batch, row in rows]
        events = sum(mask.bit_count() for _, mask in unsettled)
        nbytes = sum(batch.bytes_of(mask) for batch, mask in unsettled) if backlog.bytes_max else 0
        counted = backlog.events, backlog.nbytes
        assert counted == (events, nbytes), f"{subscriber.name} has {events} events, {nbytes} bytes, not {counted}"
    stale = len(subscriber.queue) - len(waiting)
    assert subscriber.stale == stale, f"{subscriber.name} counts {subscriber.stale} stale places, not {stale}"
    shares_out = not subscriber.host and any(endpoint.forwards for endpoint in subscriber.endpoints)
    assert subscriber.shares_out == shares_out, f"{subscriber.name} does not know whether it is shared with other hosts"
    for endpoint in subscriber.endpoints:
        known = state.links[endpoint.link].endpoints.get(number)
        assert known is endpoint, f"{subscriber.name} has an endpoint that its link does not know"


def _check_topics(state: BusState) -> None:
    """4: a topic counts exactly its unsettled events."""
    counts: dict[Topic, int] = {}
    for batch in state.batches:
        for index in bits(batch.any_unsettled()):
            topic = batch.topic_of(index)
            counts[topic] = counts.get(topic, 0) + 1
    nbytes: dict[Topic, int] = {}
    for batch in state.batches:
        lengths = batch.lengths()
        assert batch.nbytes == (0 if batch.is_dead_letter else sum(lengths)), f"batch {batch.first:#x} counts its bytes"
        for index in range(0 if batch.is_dead_letter else batch.count):
            nbytes[batch.topic_of(index)] = nbytes.get(batch.topic_of(index), 0) + lengths[index]
    for topic in state.registry.topics.values():
        assert topic.unsettled == counts.get(topic, 0), f"topic {topic.name} counts {topic.unsettled} events"
        assert topic.nbytes == nbytes.get(topic, 0), f"topic {topic.name} counts {topic.nbytes} bytes"
        mine = [batch for batch in state.batches if topic in batch.topics]
        assert set(topic.batches) == set(mine), f"topic {topic.name} has other batches"
        bounded = tuple(item for item in enumerate(topic.route.subscribers) if item[1].backlog is not None)
        assert topic.route.bounded == bounded, f"topic {topic.name}: others have a bound"
        oldest = min((batch.since_ns for batch in mine if batch.of_topic(topic) & batch.any_unsettled()), default=None)
        assert topic.oldest_ns({}) == oldest, f"topic {topic.name}: {topic.oldest_ns({})} is not its oldest batch"


def _check_spans(state: BusState) -> None:
    """1: a span counts exactly the batches that are in it, and the leases of live processes."""
    live: dict[Span, int] = {}
    leases: dict[Span, int] = {}
    for batch in state.batches:
        live[batch.span] = live.get(batch.span, 0) + 1
    for link in state.links.values():
        for lease in link.leases.values():
            assert lease.views, f"link {link.number} has a lease without a view"
        assert link.leased_bytes == sum(lease.length for lease in link.leases.values()), f"link {link.number}: bytes"
        for lease in link.leases.values():
            leases[lease.span] = leases.get(lease.span, 0) + 1
    for span in state.spans.in_use():
        name = f"span {span.segment}+{span.start}"
        assert span.live == live.pop(span, 0), f"{name} counts {span.live} batches"
        assert span.leases == leases.pop(span, 0), f"{name} counts {span.leases} leases"
    assert not live, "a batch is in a span that was recycled"
    assert not leases, "a lease is in a span that was recycled"


def _check_receipts(state: BusState) -> None:
    """2, 4: what is kept of a tagged event is in one place, which is the batch's while that has it unsettled."""
    in_batches: dict[ReceiptPage, int] = {}
    for batch in state.batches:
        for page in batch.tagged:
            unsettled = batch.any_unsettled() << batch.first - page.first & page.unsettled
            assert not in_batches.get(page, 0) & unsettled, f"batch {batch.first:#x}: two batches have one receipt"
            in_batches[page] = in_batches.get(page, 0) | unsettled
    for name, box in state.boxes.by_name.items():
        owner = state.links.get(box.link)
        assert box.name == name, f"receipts {name!r} are filed under another name"
        assert box.link or (box.count and box.taker is None), f"receipts {name!r}: nobody has them, nor anything left"
        assert not box.link or (owner and owner.boxes.get(box.number) is box), f"receipts {name!r}: no link has them"
        assert box.taker is None or not box.untold, f"receipts {name!r}: what is settled was not told"
        for bucket, page in box.pages.items():
            assert page.box is box, f"receipts {name!r}: a page is in another box"
            assert page.first == bucket << SEQUENCE_BUCKET_SHIFT, f"receipts {name!r}: a page is in another place"
            _check_page(page, in_batches.pop(page, 0))
        _check_box(state, box)
    assert not any(in_batches.values()), "a batch has receipts that nobody keeps"


def _check_page(page: ReceiptPage, in_batches: int) -> None:
    name = f"receipts {page.box.name!r}, page {page.first:#x}"
    places = [page.coming, page.unsettled, *page.settled.values()]
    assert sum(mask.bit_count() for mask in places) == page.kept.bit_count(), f"{name}: one is in two places"
    assert page.kept, f"{name} keeps nothing"
    assert all(page.settled.values()), f"{name} has a fate of nothing"
    assert not page.kept & ~page.known, f"{name} keeps what was never tagged"
    assert len(page.widths) == page.known.bit_count(), f"{name} has {len(page.widths)} tags"
    assert sum(page.widths) == len(page.tags), f"{name} has {len(page.tags)} bytes of tags"
    assert page.unsettled == in_batches, f"{name}: {page.unsettled:#x} is unsettled, not {in_batches:#x}"
    assert not page.told & ~page.all_settled, f"{name}: told of what is not settled"


def _check_box(state: BusState, box: ReceiptBox) -> None:
    pages = list(box.pages.values())
    count = sum(page.kept.bit_count() for page in pages)
    assert box.count == count, f"receipts {box.name!r} counts {box.count}, not {count}"
    untold = {page for page in pages if not page.is_told}
    assert set(box.untold) == untold, f"receipts {box.name!r}: other pages have something to tell"
    coming = {page for link in state.links.values() for page in link.tagged if page.box is box}
    assert {page for page in pages if page.coming} == coming, f"receipts {box.name!r}: tags come from nobody"


def _check_nothing_is_left(state: BusState, in_flight: dict[tuple[int, EventBatch], int]) -> None:
    """4: nothing remembers what is settled."""
    batches = set(state.batches)
    assert {batch for _, batch in in_flight} <= batches, "an endpoint holds what is settled and forgotten"
    assert state.batches.newest is None or state.batches.newest in batches, "the newest batch is gone"
    unsettled = {batch.first + index for batch in batches for index in bits(batch.any_unsettled())}
    assert set(state.awaited) <= unsettled, "a settled event is still awaited"
    for subscriber in state.registry.subscriber_by_number.values():
        assert set(subscriber.attempts) <= unsettled, f"{subscriber.name} counts crashes of settled events"
        assert set(subscriber.failures) <= unsettled, f"{subscriber.name} remembers failures of settled events"
        failed = {batch.first + index for batch, mask in subscriber.failed.items() for index in bits(mask)}
        assert set(subscriber.failures) == failed, f"{subscriber.name} remembers failures of other events"
    assert set(state.letters) <= batches, "a dead letter is remembered that is settled"
    assert not state.dirty, "a subscriber was to be served, and was not"
    assert not state.boxes.due, "receipts were due, and nobody got them"
    assert not state.memory_freed, "memory came free, and nobody was served"


def _check_changes(state: BusState) -> None:
    """4: what changed is kept only for those who have not heard it, and they hear of everything."""
    changes = state.changes
    assert {follower.link for follower in changes.followers.values()} <= set(state.links), "a follower is gone"
    assert len(changes.recent) <= changes.kept_max, f"{len(changes.recent)} changes are kept"
    assert all(follower.place <= changes.end for follower in changes.followers.values()), "a follower is ahead"
    slowest = min((follower.place for follower in changes.followers.values()), default=changes.end)
    assert not changes.recent or slowest <= changes.first, "a change is kept that all have heard"
    assert changes.followers or not changes.recent, "changes are kept for nobody"
    present = {item: form_of(item) for item in state.registry.subscribers.values()}
    assert changes.known == (present if changes.followers else {}), "a subscriber's change was not noted"
