"""Spans in memory, of handles on a bus in this thread. Without OpenTelemetry, the modules of tests skip themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from eventbus_mp import EventBus
from eventbus_mp.testing.testbus import TestBus

if TYPE_CHECKING:
    from tests.addons.otel.memory import Spans

TOPICS = ("a", "b")


@pytest.fixture
def spans() -> Spans:
    from tests.addons.otel.memory import Spans

    return Spans()


@pytest.fixture
def test_bus() -> Iterator[TestBus]:
    with TestBus("test", TOPICS) as bus:
        yield bus


@pytest.fixture
def traced(test_bus: TestBus, spans: Spans) -> Callable[..., EventBus]:
    """Makes an instrumented handle."""
    from eventbus_mp.addons.otel import instrument

    def make(**options: Any) -> EventBus:
        bus = EventBus("test")
        instrument(bus, tracer_provider=spans.provider, **options)
        return bus

    return make
