"""What tracing costs: CPU time for each event, in the producer and in the consumer, with and without it.

    python -m benchmarks.tracing [--events 5000] [--rate 1000] [--burst 1] [--pairs 5]
    python -m benchmarks.tracing --loop [--events 5000] [--pairs 5]

Runs with and without tracing alternate, and each one has processes of its own. All have the same pace: as fast as they
can, the slower one would also pay for waking the others up at each event. Events come alone, or so many at once: after
a pause, the processor has to load the interpreter's code again, which doubles the time of whatever is called. Every
event is sampled, or one in a hundred ("1 %"); the SDK's batch processor hands the spans to an exporter that drops
them, and its thread's time counts.

"sdk" is the SDK without the addon: producer and handler make a span by hand, with as many attributes and links, and
carry the context in headers. So what the addon takes is "on" without "sdk".

With --loop all is in one thread, the bus as well, which publishes 25 events, or a batch, and then handles them. These
are the figures that other programs on the machine disturb least: the smallest of all rounds, without "off".
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import multiprocess
from opentelemetry import propagate
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, ParentBasedTraceIdRatio
from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context, use_span

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.otel import instrument
from eventbus_mp.testing.testbus import TestBus

TOPIC = "measured"
MODES = ("off", "sdk", "on", "on, 1 %", "on, metrics", "batch, off", "batch, on")
BATCH = 200
"""How many events `notify_many` gets, and the handler of a batch."""
AT_ONCE = 25
"""How many are published one by one in a loop, before they are handled."""
ATTRIBUTES = {f"messaging.attribute.{n}": "value" for n in range(6)}


class Drops(SpanExporter):
    """An exporter that drops all it gets, and counts it."""

    count = 0

    def export(self, spans: Any) -> SpanExportResult:
        """Count them."""
        self.count += len(spans)
        return SpanExportResult.SUCCESS


class Side:
    """A handle of this process, traced or not."""

    def __init__(self, run_dir: str | None, mode: str) -> None:
        self.bus = EventBus("tracing", [TOPIC], run_dir=run_dir)
        self.exporter = Drops()
        sampler = ParentBasedTraceIdRatio(0.01) if "1 %" in mode else DEFAULT_ON
        self.provider = TracerProvider(sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(self.exporter, max_queue_size=1 << 16))
        self._tracer = self.provider.get_tracer("by hand")
        self._by_hand = mode == "sdk"
        if "on" in mode:
            measured = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False) if "metrics" in mode else None
            instrument(self.bus, tracer_provider=self.provider, meter_provider=measured)

    def notify(self, event: Event) -> None:
        """Publish it."""
        if not self._by_hand:
            self.bus.notify(event)
            return
        span = self._tracer.start_span("publish measured", None, SpanKind.PRODUCER, {**ATTRIBUTES, "id": event.id})
        carrier: dict[str, str] = {}
        propagate.inject(carrier, set_span_in_context(span))
        self.bus.notify(event.with_headers(carrier))
        span.end()

    def handle(self, event: Event) -> None:
        """The handler."""
        if not self._by_hand:
            return
        parent = propagate.extract(event.headers or {})
        links = [Link(get_current_span(parent).get_span_context())]
        attributes = {**ATTRIBUTES, "id": event.id, "group": "consumer"}
        span = self._tracer.start_span("process measured", parent, SpanKind.CONSUMER, attributes, links)
        with use_span(span, end_on_exit=True):
            span.set_attribute("outcome", "completed")

    def produce(self, mode: str, count: int, rate: int, burst: int) -> None:
        """Publish at a pace."""
        size = BATCH if "batch" in mode else burst
        began = time.monotonic()
        for first in range(0, count, size):
            time.sleep(max(0.0, began + first / rate - time.monotonic()))
            events = [Event(str(n), TOPIC, {"number": n, "text": "x" * 100}) for n in range(first, first + size)]
            if "batch" in mode:
                self.bus.notify_many(events)
            else:
                for event in events:
                    self.notify(event)
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
    assert (side.exporter.count > 0) == (mode == "sdk" or "on" in mode)


def run(mode: str, count: int, rate: int, burst: int) -> tuple[float, float]:
    """CPU time in us an event, of all threads: of the producer, and of the consumer."""
    with tempfile.TemporaryDirectory() as run_dir:
        here, there = multiprocess.Pipe()
        child = multiprocess.get_context("fork").Process(target=consume, args=(run_dir, mode, count, there))
        child.start()
        assert here.recv() == "ready"
        side = Side(run_dir, mode)
        with side.bus:
            side.produce(mode, BATCH, rate, burst)
            here.send("go")
            began = time.process_time()
            side.produce(mode, count, rate, burst)
            producer = (time.process_time() - began) / count * 1e6
            here.send("sent")
            consumer = here.recv()
            child.join()
            side.bus.shutdown()
        side.provider.shutdown()
        return producer, consumer


def in_a_loop(mode: str, count: int) -> tuple[float, float]:
    """CPU time in us an event, of publishing and of handling, the smallest of all rounds."""
    rounds = []
    size = BATCH if "batch" in mode else AT_ONCE
    with TestBus("tracing", [TOPIC]) as test_bus:
        side = Side(None, mode)
        if "batch" in mode:
            side.bus.on(TOPIC, name="consumer", batch=size, credit=size)(lambda events: None)
        else:
            side.bus.on(TOPIC, name="consumer", credit=size)(side.handle)
        for _ in range(max(1, count // size)):
            events = [Event(str(n), TOPIC, {"number": n, "text": "x" * 100}) for n in range(size)]
            began = time.process_time()
            if "batch" in mode:
                side.bus.notify_many(events)
            else:
                for event in events:
                    side.notify(event)
            published = time.process_time()
            test_bus.deliver_all()
            rounds.append((published - began, time.process_time() - published))
        side.bus.close()
        side.provider.shutdown()
    producer, consumer = map(min, zip(*rounds, strict=True))
    return producer / size * 1e6, consumer / size * 1e6


def compare_in_a_loop(count: int, pairs: int) -> None:
    """Measure, and print a table."""
    found = {mode: [in_a_loop(mode, count) for _ in range(pairs)] for mode in MODES}
    least = {mode: tuple(map(min, zip(*rounds, strict=True))) for mode, rounds in found.items()}
    print("in one thread, the smallest of all rounds, CPU us an event beyond those without tracing")
    for mode in MODES:
        off = least["batch, off" if "batch" in mode else "off"]
        if "off" not in mode:
            producer, consumer = (taken - untraced for taken, untraced in zip(least[mode], off, strict=True))
            print(f"{mode:11} producer {producer:6.1f}  consumer {consumer:6.1f}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=5_000)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--burst", type=int, default=1, help="how many events come at once")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--loop", action="store_true", help="in one thread, without a pause")
    options = parser.parse_args()
    if options.loop:
        compare_in_a_loop(options.events, options.pairs)
        return
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for _ in range(options.pairs):
        for mode in MODES:
            found[mode].append(run(mode, options.events, options.rate, options.burst))
    print(
        f"{os.cpu_count()} cores, {options.events} events, medians of {options.pairs} alternating runs, CPU us an event"
    )
    for mode in MODES:
        producer, consumer = (statistics.median(column) for column in zip(*found[mode], strict=True))
        print(f"{mode:11} producer {producer:6.1f}  consumer {consumer:6.1f}")


if __name__ == "__main__":
    main()
