"""What runs in the processes of test_export.py: setting the SDK up, handlers, and a web application."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.otel import instrument

__all__ = ["app", "configure", "flush", "go_on", "last", "provider_to", "web_bus"]


def provider_to(url: str, service: str) -> TracerProvider:
    """A provider of this process, whose spans go to `url`, when it is flushed."""
    resource = Resource.create({"service.name": service, "process.pid": os.getpid()})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url), schedule_delay_millis=60_000))
    return provider


def configure(url: str, service: str) -> None:
    """Make it the global one, and one for metrics beside it: an `initializer` of a pool."""
    provider = provider_to(url, service)
    trace.set_tracer_provider(provider)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(url.replace("traces", "metrics")))
    metrics.set_meter_provider(MeterProvider([reader], provider.resource, shutdown_on_exit=False))


def flush() -> None:
    """Export what is left: a `finalizer` of a pool."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        assert isinstance(provider, (TracerProvider, MeterProvider))
        provider.shutdown()


def go_on(bus: EventBus, event: Event) -> None:
    """The first handler, which publishes for the second."""
    bus.notify(Event(event.id, "paid", os.getpid()))


def last(event: Event) -> None:
    """The second handler, which fails."""
    raise ValueError(event.data)


# --- the web application ---


def web_bus() -> EventBus:
    """Made before gunicorn forks, and used after it."""
    bus = EventBus("test", run_dir=os.environ["TEST_RUN_DIR"])
    instrument(bus)
    return bus


_bus: list[EventBus] = []


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Publishes an order in each request, whose trace goes on."""
    parent = propagate.extract({"traceparent": environ.get("HTTP_TRACEPARENT", "")})
    with trace.get_tracer("app").start_as_current_span("GET /", parent, trace.SpanKind.SERVER):
        _bus[0].notify(Event("1", "order", {"price": 3}))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


if "TEST_RUN_DIR" in os.environ:
    _bus.append(web_bus())
