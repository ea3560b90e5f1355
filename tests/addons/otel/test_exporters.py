"""Exporters that reach nobody, and workers that are killed before they export: events are handled all the same."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from eventbus_mp import Event, EventBus, WorkerPool
from eventbus_mp.addons.otel import instrument
from tests.addons.otel.programs import configure, flush, provider_to
from tests.addons.otel.receiver import Receiver

EVENTS = 3_000
"""More than the queue of a processor takes."""
Make = Callable[..., EventBus]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where an exporter sends: nobody listens there, or who does never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    if request.param == "refuses":
        listener.close()
        yield "http://127.0.0.1:9/v1/"
    else:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/"
        listener.close()


@pytest.fixture
def quiet() -> Iterator[None]:
    """The SDK says at length what it cannot export."""
    logger = logging.getLogger("opentelemetry")
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("place", ["refuses", "hangs"], indirect=True)
@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_spans_and_metrics_that_nobody_takes(make_bus: Make, place: str, processor: Any) -> None:
    bus = make_bus(topics=["a"])
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(processor(OTLPSpanExporter(f"{place}traces", timeout=0.05)))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{place}metrics", timeout=0.05), 20, 100)
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    instrument(bus, tracer_provider=tracer_provider, meter_provider=meter_provider)
    done: list[Any] = []
    bus.on("a", name="worker")(lambda event: done.append(event.id))
    count = EVENTS if processor is BatchSpanProcessor else 5  # The other one waits for each.
    bus.notify_many(Event(number, "a", number) for number in range(count))
    bus.drain(timeout_s=60)
    assert done == list(range(count))
    tracer_provider.shutdown()
    meter_provider.shutdown(timeout_millis=500)


def die_at_first(flag: Path, event: Event) -> None:
    """Kill this process at the first event."""
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_amid_a_span(make_bus: Make, tmp_path: Path) -> None:
    """Its span is lost with it. That of the worker that gets the event again says so, in the same trace."""
    bus = make_bus(topics=["order"])
    with Receiver() as receiver:
        provider = provider_to(receiver.url, "parent")
        instrument(bus, tracer_provider=provider)
        pool = WorkerPool(bus, 1, initializer=partial(configure, receiver.url, "worker"), finalizer=flush)
        pool.on("order", name="biller")(partial(die_at_first, tmp_path / "flag"))
        with pool:
            bus.notify(Event("1", "order", 1))
            bus.drain(timeout_s=60)
        provider.shutdown()
        publish, process = sorted(receiver.wait_for(2), key=lambda span: span.service)
    assert [span.name for span in (publish, process)] == ["publish order", "process order"]
    assert (process.trace_id, process.parent_id) == (publish.trace_id, publish.span_id)
    assert process.attributes["eventbus_mp.delivery.attempt"] == 2
