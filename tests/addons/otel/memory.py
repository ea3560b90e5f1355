"""Spans that are kept in memory."""

from __future__ import annotations

import os
import socket
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

__all__ = ["Spans", "attributes", "id_of", "links_of", "parent_of", "short"]


class Spans:
    """What an exporter got."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    def take(self) -> list[ReadableSpan]:
        """Those that have ended since the last time, in this order."""
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found


def short(span: ReadableSpan) -> tuple[Any, ...]:
    return span.name, span.kind


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Without what every span of this process has."""
    found = dict(span.attributes or {})
    assert found.pop("messaging.system") == "eventbus_mp"
    assert found.pop("messaging.client.id") == f"{os.getpid()}@{socket.gethostname()}"
    assert str(found.pop("server.address")).endswith("/test/socket")
    return found


def id_of(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return (span.parent.trace_id, span.parent.span_id) if span.parent else None


def links_of(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]
