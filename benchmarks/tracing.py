"""What tracing costs: CPU time for each event, in the producer and in the consumer, with and without it.

    python -m benchmarks.tracing [--events 5000] [--rate 1000] [--pairs 5]

Runs with and without tracing alternate, and each one has processes of its own. All have the same pace: as fast as they
can, the slower one would also pay for waking the others up at each event. Every event is sampled; the SDK's batch
processor hands the spans to an exporter that drops them, and its thread's time counts.

"sdk" is the SDK without the addon: producer and handler make a span by hand, with as many attributes and links, and
carry no context. So what the addon takes is "on" without "sdk".
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import multiprocess
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.otel import instrument

TOPIC = "measured"
MODES = ("off", "sdk", "on", "batch, off", "batch, on")
BATCH = 200
"""How many events `notify_many` gets, and the handler of a batch."""
ATTRIBUTES = {f"messaging.attribute.{n}": "value" for n in range(7)}


class Drops(SpanExporter):
    """An exporter that drops all it gets, and counts it."""

    count = 0

    def export(self, spans: Any) -> SpanExportResult:
        """Count them."""
        self.count += len(spans)
        return SpanExportResult.SUCCESS


class Side:
    """A handle of this process, traced or not."""

    def __init__(self, run_dir: str, mode: str) -> None:
        self.bus = EventBus("tracing", [TOPIC], run_dir=run_dir)
        self.exporter = Drops()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(self.exporter, max_queue_size=1 << 16))
        self._tracer = self.provider.get_tracer("by hand")
        self.span = self._span if mode == "sdk" else nullcontext
        """A span by hand, or nothing."""
        if "on" in mode:
            instrument(self.bus, tracer_provider=self.provider)

    @contextmanager
    def _span(self, is_consumer: bool) -> Iterator[None]:
        kind, links = SpanKind.PRODUCER, []
        if is_consumer:
            kind, links = SpanKind.CONSUMER, [Link(SpanContext(1, 2, True, TraceFlags(1)))]
        span = self._tracer.start_span("process measured", None, kind, {**ATTRIBUTES, "id": "1"}, links)
        yield
        if is_consumer:
            span.set_attribute("outcome", "completed")
        span.end()

    def handle(self, event: Event) -> None:
        """The handler."""
        with self.span(True):
            pass

    def produce(self, mode: str, count: int, rate: int) -> None:
        """Publish at a pace."""
        size = BATCH if "batch" in mode else 1
        began = time.monotonic()
        for first in range(0, count, size):
            time.sleep(max(0.0, began + first / rate - time.monotonic()))
            events = [Event(str(n), TOPIC, {"number": n, "text": "x" * 100}) for n in range(first, first + size)]
            if size > 1:
                self.bus.notify_many(events)
            else:
                with self.span(False):
                    self.bus.notify(events[0])
        self.bus.drain(TOPIC)


def consume(run_dir: str, mode: str, count: int, to_parent: Any) -> None:
    """The consumer's process."""
    side = Side(run_dir, mode)
    with side.bus:
        if "batch" in mode:
            side.bus.on(TOPIC, name="consumer", batch=BATCH)(lambda events: None)
        else:
            side.bus.on(TOPIC, name="consumer")(side.handle)
        to_parent.send("ready")
        assert to_parent.recv() == "go"
        began = time.process_time()
        assert to_parent.recv() == "sent"
        to_parent.send((time.process_time() - began) / count * 1e6)
    side.provider.shutdown()
    assert (side.exporter.count > 0) == (mode in ("sdk", "on", "batch, on"))


def run(mode: str, count: int, rate: int) -> tuple[float, float]:
    """CPU time in us an event, of all threads: of the producer, and of the consumer."""
    with tempfile.TemporaryDirectory() as run_dir:
        here, there = multiprocess.Pipe()
        child = multiprocess.get_context("fork").Process(target=consume, args=(run_dir, mode, count, there))
        child.start()
        assert here.recv() == "ready"
        side = Side(run_dir, mode)
        with side.bus:
            side.produce(mode, BATCH, rate)
            here.send("go")
            began = time.process_time()
            side.produce(mode, count, rate)
            producer = (time.process_time() - began) / count * 1e6
            here.send("sent")
            consumer = here.recv()
            child.join()
            side.bus.shutdown()
        side.provider.shutdown()
        return producer, consumer


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=5_000)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for _ in range(options.pairs):
        for mode in MODES:
            found[mode].append(run(mode, options.events, options.rate))
    print(
        f"{os.cpu_count()} cores, {options.events} events, medians of {options.pairs} alternating runs, CPU us an event"
    )
    for mode in MODES:
        producer, consumer = (statistics.median(column) for column in zip(*found[mode], strict=True))
        print(f"{mode:10} producer {producer:6.1f}  consumer {consumer:6.1f}")


if __name__ == "__main__":
    main()
