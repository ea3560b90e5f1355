"""Spans in memory, of handles on a bus in this thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from eventbus_mp import EventBus
from eventbus_mp.addons.otel import instrument
from eventbus_mp.testing.testbus import TestBus

TOPICS = ("a", "b")


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


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def test_bus() -> Iterator[TestBus]:
    with TestBus("test", TOPICS) as bus:
        yield bus


@pytest.fixture
def traced(test_bus: TestBus, spans: Spans) -> Callable[..., EventBus]:
    """Makes an instrumented handle."""

    def make(**options: Any) -> EventBus:
        bus = EventBus("test")
        instrument(bus, tracer_provider=spans.provider, **options)
        return bus

    return make
