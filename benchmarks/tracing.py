"""What tracing costs: CPU time for each event, in the producer and in the consumer, with and without it.

    python -m benchmarks.tracing [--events 20000] [--pairs 5]

Runs with and without tracing alternate, and each one has processes of its own. Every event is sampled; the SDK's batch
processor hands the spans to an exporter that drops them, and its thread's time counts. "sdk" is what the SDK alone
takes for a span with as many attributes, in the same process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import multiprocess
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, set_span_in_context

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.otel import instrument

TOPIC = "measured"
MODES = ("off", "on", "batch")
PAUSE_EVERY = 200
"""The producer waits for the consumer so often: spans that a full queue drops would cost less than those it takes."""


class Drops(SpanExporter):
    """An exporter that drops all it gets, and counts it."""

    count = 0

    def export(self, spans: Any) -> SpanExportResult:
        """Count them."""
        self.count += len(spans)
        return SpanExportResult.SUCCESS


def traced(run_dir: str, is_on: bool) -> tuple[EventBus, TracerProvider, Drops]:
    """A handle of this process."""
    bus = EventBus("tracing", [TOPIC, "done"], run_dir=run_dir)
    exporter = Drops()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=1 << 16))
    if is_on:
        instrument(bus, tracer_provider=provider)
    return bus, provider, exporter


def cpu_us(work: Callable[[], object], count: int) -> float:
    """CPU time of this process, all its threads, for each of `count`."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / count * 1e6


def consume(run_dir: str, mode: str, count: int, to_parent: Any) -> None:
    """The consumer's process."""
    bus, provider, exporter = traced(run_dir, mode != "off")
    with bus:
        bus.on(TOPIC, name="consumer", batch=256 if mode == "batch" else None)(lambda event: None)
        to_parent.send("ready")
        began = to_parent.recv(), time.process_time()
        assert to_parent.recv() == "sent"
        to_parent.send((time.process_time() - began[1]) / count * 1e6)
        provider.shutdown()
        assert (exporter.count > 0) == (mode != "off")


def produce(bus: EventBus, mode: str, count: int) -> None:
    """Publish, and wait for the consumer in between."""
    for first in range(0, count, PAUSE_EVERY):
        events = (Event(str(n), TOPIC, {"number": n, "text": "x" * 100}) for n in range(first, first + PAUSE_EVERY))
        if mode == "batch":
            bus.notify_many(events)
        else:
            for event in events:
                bus.notify(event)
        bus.drain(TOPIC)


def run(mode: str, count: int) -> tuple[float, float, float]:
    """CPU time in us an event: producer, consumer, and the SDK alone."""
    with tempfile.TemporaryDirectory() as run_dir:
        here, there = multiprocess.Pipe()
        child = multiprocess.get_context("fork").Process(target=consume, args=(run_dir, mode, count, there))
        child.start()
        assert here.recv() == "ready"
        bus, provider, _ = traced(run_dir, mode != "off")
        with bus:
            produce(bus, mode, PAUSE_EVERY)
            here.send("go")
            producer = cpu_us(lambda: produce(bus, mode, count), count)
            here.send("sent")
            consumer = here.recv()
            sdk = cpu_us(lambda: spans(provider, count), count)
            child.join()
            bus.shutdown()
        provider.shutdown()
        return producer, consumer, sdk


def spans(provider: TracerProvider, count: int) -> None:
    """Spans as the addon makes them for a consumer, by the SDK alone."""
    tracer = provider.get_tracer("alone")
    parent = tracer.start_span("parent")
    context, links = set_span_in_context(parent), [Link(parent.get_span_context())]
    attributes = {f"attribute.number.{n}": "value" for n in range(9)}
    for _ in range(count):
        span = tracer.start_span("process topic", context, SpanKind.CONSUMER, attributes, links)
        span.set_attribute("outcome", "completed")
        span.end()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in MODES}
    for _ in range(options.pairs):
        for mode in MODES:
            found[mode].append(run(mode, options.events))
    print(
        f"CPython on {os.cpu_count()} cores, {options.events} events, medians of {options.pairs} alternating runs, us"
    )
    for mode in MODES:
        producer, consumer, sdk = (statistics.median(column) for column in zip(*found[mode], strict=True))
        print(f"{mode:6} producer {producer:6.2f}  consumer {consumer:6.2f}  sdk alone, a span {sdk:6.2f}")


if __name__ == "__main__":
    main()
