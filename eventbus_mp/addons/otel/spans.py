"""Making and ending spans: their names and attributes, and that nothing of it makes an event fail."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TracerProvider, get_tracer

from eventbus_mp import Event, EventShadow, __version__
from eventbus_mp.addons.otel import names
from eventbus_mp.addons.otel.names import Operation
from eventbus_mp.addons.otel.propagate import complain
from eventbus_mp.addons.otel.topics import NAMES_MAX, Traced

__all__ = ["LINKS_MAX", "SpanMaker", "link_to"]

LINKS_MAX = 128
"""How many links a span has at most: as many as the SDK keeps (`OTEL_SPAN_LINK_COUNT_LIMIT`)."""
SKIP_REASON_CHARACTERS_MAX = 1_000

Attributes = dict[str, Any]


class SpanMaker:
    """Makes the spans of one process's part in one bus.

    Args:
        address: The bus's socket.
        exclude: Patterns of topics that have no spans.
        provider: Where spans go; None: to the global one, whenever it is set.
    """

    def __init__(self, address: str, exclude: Sequence[str], provider: TracerProvider | None) -> None:
        self._address = address
        self.traces = Traced(exclude)
        """Whether events of a topic have spans."""
        self._tracer = get_tracer("eventbus_mp", __version__, provider, schema_url=names.SCHEMA_URL)
        self.begin()

    def begin(self) -> None:
        """This process connects; it may be another one than before."""
        self._common = {
            names.SYSTEM: names.SYSTEM_NAME,
            names.SERVER_ADDRESS: self._address,
            names.CLIENT_ID: f"{os.getpid()}@{socket.gethostname()}",
        }
        self._ready: dict[tuple[str, str | None, str | None], tuple[str, Attributes]] = {}

    def start(
        self,
        operation: Operation,
        topic: str | None,
        kind: SpanKind,
        context: Context,
        links: Sequence[Link] = (),
        *,
        group: str | None = None,
        event: Event | EventShadow | None = None,
        more: Attributes | None = None,
        start_ns: int | None = None,
    ) -> Span | None:
        """A span that has begun; None if the SDK, or a part of it that the program has configured, raises.

        Args:
            operation: What it is about.
            topic: Its destination; None: several.
            kind: Its kind.
            context: Its parent is there, if it has one.
            links: To the spans in whose context the events were made.
            group: The subscriber.
            event: The only one that it is about.
            more: Further attributes.
            start_ns: When it began; None: now.
        """
        name, common = self._ready.get((operation.name, topic, group)) or self._make_ready(operation, topic, group)
        attributes = common.copy()
        try:
            if event is not None:
                attributes[names.MESSAGE_ID] = str(event.id)
                if type(event) is Event and (transaction := event.transaction_id) is not None:
                    attributes[names.CONVERSATION_ID] = str(transaction)
            if more:
                attributes.update(more)
            return self._tracer.start_span(name, context, kind, attributes, links, start_ns)
        except Exception as error:
            complain("no span can be started", error)
            return None

    def _make_ready(self, operation: Operation, topic: str | None, group: str | None) -> tuple[str, Attributes]:
        if len(self._ready) >= NAMES_MAX:
            self._ready.clear()
        attributes = {**self._common, names.OPERATION_NAME: operation.name, names.OPERATION_TYPE: operation.type}
        if topic is not None:
            attributes[names.DESTINATION_NAME] = topic
        if group is not None:
            attributes[names.CONSUMER_GROUP_NAME] = group
        found = self._ready[operation.name, topic, group] = operation.span_name(topic), attributes
        return found

    @staticmethod
    def end(span: Span, error: BaseException | None = None, outcome: str | None = None) -> None:
        """The span's work is done, perhaps with an error; a handler that skips its event, or puts it off, has none."""
        try:
            if span.is_recording():
                _say_how_it_ended(span, error, outcome)
        except Exception as problem:
            complain("a span cannot say how its work ended", problem)
        finally:
            _end(span)


def _say_how_it_ended(span: Span, error: BaseException | None, outcome: str | None) -> None:
    has_failed = error is not None
    if outcome is not None:
        has_failed = outcome == "failed"
        span.set_attribute(names.OUTCOME, outcome)
        if outcome == "skipped" and error is not None:
            span.set_attribute(names.SKIP_REASON, str(error)[:SKIP_REASON_CHARACTERS_MAX])
    if has_failed:  # Without an error, of a batch: its function has returned what was wrong with single events.
        if error is not None:
            span.record_exception(error)
        span.set_attribute(names.ERROR_TYPE, names.error_type(error))
        span.set_status(StatusCode.ERROR, str(error) if error is not None else None)


def _end(span: Span) -> None:
    try:
        span.end()
    except Exception as error:
        complain("no span can be ended", error)


def link_to(made_in: SpanContext | None, event: Event | EventShadow, attempt: int = 1) -> list[Link]:
    """A link to the span in whose context an event was made, with what is the event's own in a batch; none without."""
    if made_in is None:
        return []
    attributes: Attributes = {names.MESSAGE_ID: str(event.id)}
    if attempt > 1:
        attributes[names.ATTEMPT] = attempt
    return [Link(made_in, attributes)]
