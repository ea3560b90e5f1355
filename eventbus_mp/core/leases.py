"""Leases: views of processes into events, which keep the memory from being recycled."""

from __future__ import annotations

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.links import Lease, LinkState
from eventbus_mp.core.span_requests import recycle_if_free
from eventbus_mp.core.state import Step
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol.effects import WarnOfLease
from eventbus_mp.protocol.messages import SpanLeased, SpanReleased

__all__ = ["drop_lease", "lease", "on_span_leased", "on_span_released", "warn_of_leases"]

LEASES_MAX = 1 << 17
"""How many events one process may have views into, beyond its unsettled deliveries."""


def on_span_leased(step: Step, message: SpanLeased) -> None:
    """A process keeps a view that outlives its delivery."""
    link = step.state.link(message.link)
    span = step.state.spans.find(message.segment, message.offset)
    if span is None or message.offset + message.length > span.end:
        raise ProtocolError(f"it leased {message.segment}+{message.offset}, where nothing is")
    topic = step.state.registry.topic_by_number.get(message.topic)
    name = topic.name if topic is not None else f"number {message.topic}"
    lease(step, link, message.sequence, span, name, message.offset, message.length)


def on_span_released(step: Step, message: SpanReleased) -> None:
    """One of the views into an event is gone."""
    link = step.state.link(message.link)
    found = link.leases.get(message.sequence)
    if found is None:
        raise ProtocolError(f"it released event {message.sequence:#x}, which it does not lease")
    found.views -= 1
    if not found.views:
        del link.leases[message.sequence]
        link.leased_bytes -= found.length
        drop_lease(step, found)


def lease(step: Step, link: LinkState, sequence: int, span: Span, topic: str, offset: int, length: int) -> None:
    """Keep the span from recycling until the link has released the event as often as it leased it."""
    state = step.state
    found = link.leases.get(sequence)
    if found is None:
        if len(link.leases) >= LEASES_MAX:
            raise ProtocolError(f"it has views into {LEASES_MAX} events")
        found = link.leases[sequence] = Lease(span, topic, offset, length, step.now_ns)
        state.spans.add_lease(span)
        link.leased_bytes += length
    found.views += 1
    if state.lease_check_ns is None:
        state.lease_check_ns = step.now_ns + state.lease_warning_ns


def drop_lease(step: Step, lease: Lease) -> None:
    """The last view is gone, or its process is."""
    step.state.spans.drop_lease(lease.span)
    recycle_if_free(step, lease.span)


def warn_of_leases(step: Step) -> None:
    """Warn once of each lease that is older than `lease_warning_s`."""
    state = step.state
    waiting = []
    for link in state.links.values():
        for sequence, lease in link.leases.items():
            age_ns = step.now_ns - lease.since_ns
            if lease.is_warned:
                continue
            if age_ns < state.lease_warning_ns:
                waiting.append(lease.since_ns + state.lease_warning_ns)
                break  # Those that follow are younger.
            lease.is_warned = True
            place = lease.span.segment, lease.offset, lease.length
            step.effects.append(WarnOfLease(link.pid, lease.topic, *place, sequence, age_ns / 1e9))
    state.lease_check_ns = min(waiting, default=None)
