"""What is always true between two messages. The numbers are those of ARCHITECTURE.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus_mp.core.runs import BLOCK_SHIFT, Run, bits
from eventbus_mp.core.spans import Span

if TYPE_CHECKING:
    from eventbus_mp.core.ledger import Ledger
    from eventbus_mp.core.registry import SubscriberState, Topic

__all__ = ["check_invariants"]


def check_invariants(ledger: Ledger) -> None:
    """Raise AssertionError for the first thing that is not as it must be. Walks everything: for tests."""
    ledger.spans.check_invariants()
    held = _held(ledger)
    for run in ledger.runs:
        _check_run(ledger, run, held)
    for subscriber in ledger.registry.subscriber_by_number.values():
        _check_queue(ledger, subscriber)
    _check_topics(ledger)
    _check_spans(ledger)
    _check_nothing_is_left(ledger, held)


def _held(ledger: Ledger) -> dict[tuple[int, Run], int]:
    """(subscriber, run) -> what all its endpoints hold of it."""
    held: dict[tuple[int, Run], int] = {}
    for link in ledger.links.values():
        for number, endpoint in link.endpoints.items():
            count = 0
            for run, mask in endpoint.held.items():
                assert mask, "an endpoint holds nothing of a run"
                assert not held.get((number, run), 0) & mask, f"run {run.first:#x}: two endpoints hold one delivery"
                held[number, run] = held.get((number, run), 0) | mask
                count += mask.bit_count()
            assert endpoint.holding == count, f"an endpoint counts {endpoint.holding} events, not {count}"
    return held


def _check_run(ledger: Ledger, run: Run, held: dict[tuple[int, Run], int]) -> None:
    """2, 3: every delivery is in exactly one place; a run is there as long as something of it is unsettled or read."""
    name, pins = f"run {run.first:#x}", 0
    everything = (1 << run.count) - 1
    for row, subscriber in enumerate(run.route.subscribers):
        waiting, unsettled = run.waiting[row], run.unsettled[row]
        in_hand = held.get((subscriber.number, run), 0)
        suspects = sum(bit for suspect, bit in subscriber.suspects if suspect is run)
        assert not waiting & in_hand, f"{name}: a delivery is queued and sent"
        assert not (waiting | in_hand) & suspects, f"{name}: a suspect is queued or sent besides"
        assert not (waiting | suspects) & ~unsettled, f"{name}: a settled delivery waits"
        assert not unsettled & ~(waiting | in_hand | suspects), f"{name}: a delivery is lost: neither queued nor sent"
        assert not run.completed[row] & unsettled, f"{name}: a delivery is completed and unsettled"
        assert not (unsettled | run.completed[row]) & ~everything, f"{name}: a delivery of no event"
        pins += (in_hand & ~unsettled).bit_count()
    assert run.live == run.any_unsettled().bit_count(), f"{name} counts {run.live} live events"
    assert run.pins == pins, f"{name} counts {run.pins} pins, not {pins}"
    assert run.live or run.pins, f"{name} is settled and still watched"
    assert len(run.topics) in (1, run.count), f"{name} has {len(run.topics)} topics for {run.count} events"
    assert run.first >> BLOCK_SHIFT == (run.first + run.count - 1) >> BLOCK_SHIFT, f"{name} leaves its block"


def _check_queue(ledger: Ledger, subscriber: SubscriberState) -> None:
    """2: the counts and the queue agree with the masks; endpoints and links know each other."""
    number = subscriber.number
    rows = [(run, run.route.row_of[number]) for run in ledger.runs if number in run.route.row_of]
    waiting = {run for run, row in rows if run.waiting[row]}
    queued = sum(run.waiting[row].bit_count() for run, row in rows)
    assert subscriber.queued == queued, f"{subscriber.name} counts {subscriber.queued} waiting, not {queued}"
    assert waiting <= set(subscriber.queue), f"{subscriber.name}: a run waits and is not queued"
    stale = len(subscriber.queue) - len(waiting)
    assert subscriber.stale == stale, f"{subscriber.name} counts {subscriber.stale} stale places, not {stale}"
    for endpoint in subscriber.endpoints:
        known = ledger.links[endpoint.link].endpoints.get(number)
        assert known is endpoint, f"{subscriber.name} has an endpoint that its link does not know"


def _check_topics(ledger: Ledger) -> None:
    counts: dict[Topic, int] = {}
    for run in ledger.runs:
        for index in bits(run.any_unsettled()):
            topic = run.topic_of(index)
            counts[topic] = counts.get(topic, 0) + 1
    for topic in ledger.registry.topics.values():
        assert topic.unsettled == counts.get(topic, 0), f"topic {topic.name} counts {topic.unsettled} events"


def _check_spans(ledger: Ledger) -> None:
    """1: a span counts just the runs that live in it, and the leases of live processes."""
    live: dict[Span, int] = {}
    leases: dict[Span, int] = {}
    for run in ledger.runs:
        live[run.span] = live.get(run.span, 0) + 1
    for link in ledger.links.values():
        for lease in link.leases.values():
            assert lease.views, f"link {link.number} has a lease without a view"
            leases[lease.span] = leases.get(lease.span, 0) + 1
    for span in ledger.spans.in_use():
        name = f"span {span.segment}+{span.start}"
        assert span.live == live.pop(span, 0), f"{name} counts {span.live} runs"
        assert span.leases == leases.pop(span, 0), f"{name} counts {span.leases} leases"
    assert not live, "a run lies in a span that was recycled"
    assert not leases, "a lease lies in a span that was recycled"


def _check_nothing_is_left(ledger: Ledger, held: dict[tuple[int, Run], int]) -> None:
    """4: nothing remembers what is settled."""
    runs = set(ledger.runs)
    assert {run for _, run in held} <= runs, "an endpoint holds what is settled and forgotten"
    assert ledger.runs.newest is None or ledger.runs.newest in runs, "the newest run is gone"
    unsettled = {run.first + index for run in runs for index in bits(run.any_unsettled())}
    assert set(ledger.awaited) <= unsettled, "a settled event is still awaited"
    for subscriber in ledger.registry.subscriber_by_number.values():
        assert set(subscriber.attempts) <= unsettled, f"{subscriber.name} counts crashes of settled events"
    assert not ledger.dirty, "a subscriber was to be served, and was not"
    assert not ledger.memory_freed, "memory came free, and nobody was served"
