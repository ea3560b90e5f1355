"""Spans and metrics that are kept in memory."""

from __future__ import annotations

import os
import socket
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

__all__ = ["Metrics", "Spans", "attributes", "id_of", "links_of", "parent_of", "short"]


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


class Metrics:
    """What a reader collects, always from the beginning on."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def points(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Of one metric; by its operation, destination, subscriber and type of error."""
        data = self.reader.get_metrics_data()
        scopes = [scope for found in data.resource_metrics for scope in found.scope_metrics] if data else []
        return {
            tuple(point.attributes.get(key) for key in KEYS): point
            for scope in scopes
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }

    def counts(self, name: str) -> dict[tuple[Any, ...], float]:
        """Of one metric: its value, or how many values there were."""
        points = self.points(name).items()
        return {key: point.count if isinstance(point, HistogramDataPoint) else point.value for key, point in points}


KEYS = "messaging.operation.name", "messaging.destination.name", "messaging.consumer.group.name", "error.type"


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
