"""Who gets memory: requests for spans, in turn; sealed spans; spans that come free."""

from __future__ import annotations

from collections import deque

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.backpressure import note_output
from eventbus_mp.core.state import SpanRequest, Step, check_waits
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol.effects import GrantSpan
from eventbus_mp.protocol.messages import SPAN_AHEAD, SPAN_CANCELLED, SPAN_RESERVE, SpanSealed, SpanWanted

__all__ = ["drop_span_requests", "on_span_sealed", "on_span_wanted", "recycle_if_free", "serve_span_requests"]

AHEAD_SHARE = 3 / 4
"""Spans are granted ahead only while less than this share of the memory is in use."""


def on_span_wanted(step: Step, message: SpanWanted) -> None:
    """Grant the span, say no, or have the producer wait for its turn."""
    state = step.state
    link = state.link(message.link)
    if message.subscriber:
        note_output(step, link, message.subscriber, message.topic)
    if message.urgency == SPAN_CANCELLED:
        drop_span_requests(step, link.number, message.length)
        return
    wanted = SpanRequest(link.number, message.length, message.urgency == SPAN_RESERVE)
    if message.length < 1:
        raise ProtocolError(f"a span of {message.length} bytes was asked for")
    if not state.spans.fits(message.length):
        step.effects.append(GrantSpan(link.number, 0, 0, message.length, True))
    elif message.urgency == SPAN_AHEAD:
        crowded = state.spans.used_bytes + message.length > state.spans.memory_bytes_max * AHEAD_SHARE
        if crowded or state.span_requests or not _grant(step, wanted):
            step.effects.append(GrantSpan(link.number, 0, 0, message.length, False))
    elif not (wanted.reserve or not state.span_requests) or not _grant(step, wanted):
        check_waits(sum(item.link == link.number for item in state.span_requests), "spans")
        state.span_requests.append(wanted)


def on_span_sealed(step: Step, message: SpanSealed) -> None:
    """The span's writer appends no more to it."""
    link = step.state.link(message.link)
    span = step.state.spans.find(message.segment, message.offset)
    if span is None or link.spans.pop((span.segment, span.start), None) is None:
        raise ProtocolError(f"it sealed a span that it does not write, at {message.segment}+{message.offset}")
    span.sealed = True
    recycle_if_free(step, span)


def recycle_if_free(step: Step, span: Span) -> None:
    """Recycle the span if nobody writes it, has to read it or may be reading it."""
    if span.recyclable:
        step.state.spans.recycle(span, step.effects)
        step.state.memory_freed = True


def serve_span_requests(step: Step) -> None:
    """Give freed memory to those who wait, in order; the first that does not fit keeps its turn.

    Requests from inside a listener come first: the deliveries that their processes hold are what keeps the others'
    memory.
    """
    state = step.state
    state.memory_freed = False
    for wanted in sorted(state.span_requests, key=lambda item: not item.reserve):
        if not _grant(step, wanted):
            return
        state.span_requests.remove(wanted)


def drop_span_requests(step: Step, link: int, length: int | None = None) -> None:
    """Forget what a link waits for: everything, or the requests of this length."""
    state = step.state
    waiting = state.span_requests
    state.span_requests = deque(item for item in waiting if item.link != link or length not in (None, item.length))
    state.memory_freed = True  # Those behind it may fit.


def _grant(step: Step, wanted: SpanRequest) -> bool:
    state = step.state
    span = state.spans.allocate(wanted.length, wanted.link, step.effects, reserve=wanted.reserve)
    if span is None:
        return False
    state.links[wanted.link].spans[span.segment, span.start] = span
    step.effects.append(GrantSpan(wanted.link, span.segment, span.start, span.length, span.backed))
    return True
