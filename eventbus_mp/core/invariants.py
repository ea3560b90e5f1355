"""What is always true between two messages. The numbers are those of ARCHITECTURE.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus_mp.core.spans import Span
from eventbus_mp.core.watcher import Unsettled

if TYPE_CHECKING:
    from eventbus_mp.core.ledger import Ledger

__all__ = ["check_invariants"]


def check_invariants(ledger: Ledger) -> None:
    """Raise AssertionError for the first thing that is not as it must be. Walks everything: for tests."""
    ledger.spans.check_invariants()
    _check_deliveries(ledger)
    _check_spans(ledger)
    _check_nothing_is_left(ledger)


def _check_deliveries(ledger: Ledger) -> None:
    """2: every delivery is in exactly one place; every SENT one belongs to a live endpoint."""
    waiting: dict[tuple[int, int], str] = {}
    for subscriber in ledger.registry.subscriber_by_number.values():
        queued = [(event, "queued") for event in (*subscriber.queue, *subscriber.suspects)]
        for link in ledger.links.values():
            endpoint = link.endpoints.get(subscriber.number)
            queued += [(event, "sent") for event in endpoint.held.values()] if endpoint else []
        stale = 0
        for event, where in queued:
            if not ledger.is_unsettled(event, subscriber):
                stale += where == "queued"
                continue
            key = (subscriber.number, event.sequence)
            assert key not in waiting, f"delivery {key} is {waiting[key]} and {where}"
            waiting[key] = where
        assert stale == subscriber.stale, f"{subscriber.name} counts {subscriber.stale} stale events, not {stale}"
        for endpoint in subscriber.endpoints:
            held_by_link = ledger.links[endpoint.link].endpoints.get(subscriber.number)
            assert held_by_link is endpoint, f"{subscriber.name} has an endpoint that its link does not know"
    for topic in ledger.registry.topics.values():
        for event in topic.events.values():
            assert event.unsettled, f"event {event.sequence:#x} is settled and still watched"
            for subscriber in event.route.subscribers:
                if ledger.is_unsettled(event, subscriber):
                    key = (subscriber.number, event.sequence)
                    assert key in waiting, f"delivery {key} is lost: neither queued nor sent"


def _check_spans(ledger: Ledger) -> None:
    """1: a span counts just the events that live in it, and the readers that hold settled ones."""
    live: dict[Span, int] = {}
    seen: set[int] = set()

    def count(event: Unsettled) -> None:
        if event.unsettled and id(event) not in seen:
            seen.add(id(event))
            live[event.span] = live.get(event.span, 0) + 1

    for topic in ledger.registry.topics.values():
        for event in topic.events.values():
            count(event)
    for link in ledger.links.values():
        for endpoint in link.endpoints.values():
            for event in endpoint.held.values():
                count(event)
                if not ledger.is_unsettled(event, endpoint.subscriber):
                    live[event.span] = live.get(event.span, 0) + 1
        for span in link.leases.values():
            assert span.leases.get(link.number), f"link {link.number} leases a span that does not count it"
    for span in ledger.spans.in_use():
        assert span.live == live.get(span, 0), (
            f"span {span.segment}+{span.start} counts {span.live}, not {live.get(span, 0)}"
        )
        for number in span.leases:
            assert number in ledger.links, f"a span is leased by link {number}, which is gone"


def _check_nothing_is_left(ledger: Ledger) -> None:
    """4: nothing remembers what is settled."""
    unsettled = {sequence for topic in ledger.registry.topics.values() for sequence in topic.events}
    held = {
        sequence for link in ledger.links.values() for endpoint in link.endpoints.values() for sequence in endpoint.held
    }
    assert set(ledger.awaited) <= unsettled | held, "a settled event is still awaited"
    assert ledger.lettered <= unsettled | held, "a settled event is remembered for its dead letter"
    for subscriber in ledger.registry.subscriber_by_number.values():
        assert set(subscriber.attempts) <= unsettled | held, f"{subscriber.name} counts crashes of settled events"
    assert not ledger.dirty, "a subscriber was to be served, and was not"
    assert not ledger.memory_freed, "memory came free, and nobody was served"
