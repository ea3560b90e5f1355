"""Whatever headers hold and whatever of OpenTelemetry raises, events are published and handled."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanKind, set_span_in_context

from eventbus_mp import Event, EventBus, Instrument, UsageError
from eventbus_mp.addons.otel import context_of, instrument
from eventbus_mp.addons.otel.propagate import _complained, _getter
from eventbus_mp.testing.testbus import TestBus
from tests.addons.otel.memory import Spans

Traced = Callable[..., EventBus]
Make = Callable[..., EventBus]


@pytest.fixture(autouse=True)
def complains_anew() -> None:
    _complained.clear()


def run_one(test_bus: TestBus, bus: EventBus, event: Event) -> list[Any]:
    """Publish it, and have it handled: what its handler sees."""
    seen: list[Any] = []
    bus.on("a", name="worker")(lambda got: seen.append((got.data, trace.get_current_span().get_span_context())))
    bus.notify(event)
    test_bus.deliver_all()
    return seen


# --- headers ---


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
        "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
        "00-" + "1" * 32 + "-" + "1" * 16 + "-01-more",
        "1" * 7_000,
        "\x00\n\u2028",
    ],
)
def test_a_traceparent_that_is_none(traced: Traced, test_bus: TestBus, spans: Spans, traceparent: str) -> None:
    bus = EventBus("test")  # A publisher without tracing.
    seen = run_one(test_bus, traced(), Event("0", "a", 0))
    spans.take()
    bus.notify(Event("1", "a", 1, headers={"traceparent": traceparent, "tracestate": "," * 500, "baggage": ";=" * 40}))
    test_bus.deliver_all()
    (process,) = spans.take()
    assert (process.parent, list(process.links)) == (None, [])
    assert [data for data, _ in seen] == [0, 1]


@pytest.mark.parametrize("value", [b"00-%032x-%016x-01" % (1, 2), (f"00-{1:032x}-{2:016x}-01",), 3, None, [b"x"]])
def test_values_that_are_no_texts(value: Any) -> None:
    """Those of an event are texts. What reads them is ready for a program that writes envelopes of its own."""
    carrier: Mapping[str, Any] = {"traceparent": value, b"x": 1}  # type: ignore[dict-item]
    found = trace.get_current_span(propagate.extract(carrier, context.Context(), _getter)).get_span_context()
    assert found.is_valid == (value is not None and "-" in str(value))
    assert _getter.keys(carrier) == ["traceparent", "x"]


def test_headers_without_room(
    traced: Traced, test_bus: TestBus, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    bus = traced()
    full = {"mine": "x" * 8_180}
    for name in ("1", "2"):
        assert [data for data, _ in run_one(test_bus, bus, Event(name, "a", name, headers=full))] == [name]
    said = [record for record in caplog.records if "no room in its headers" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.ERROR, logging.DEBUG][: len(said)]
    assert [span.parent for span in spans.take()] == [None] * 4


# --- what is configured ---


class Raises(TextMapPropagator):
    """A propagator that is broken."""

    def extract(self, *arguments: Any, **named: Any) -> Any:
        raise RuntimeError("extract")

    def inject(self, *arguments: Any, **named: Any) -> None:
        raise RuntimeError("inject")

    @property
    def fields(self) -> set[str]:
        raise RuntimeError("fields")


def test_a_propagator_that_raises(
    traced: Traced,
    test_bus: TestBus,
    spans: Spans,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", Raises())
    bus = traced()
    assert run_one(test_bus, bus, Event("1", "a", 1, headers={"traceparent": "x"}))[0][0] == 1
    assert [span.name for span in spans.take()] == ["publish a", "process a"]
    assert "propagator raised" in caplog.text


class Broken(Sampler):
    """A sampler that raises."""

    def should_sample(self, *arguments: Any, **named: Any) -> Any:
        raise RuntimeError("no sample")

    def get_description(self) -> str:
        return "broken"


class BrokenEnd(SimpleSpanProcessor):
    """A processor that raises when a span ends."""

    def __init__(self) -> None:
        """Nothing is exported."""

    def on_start(self, *arguments: Any, **named: Any) -> None:
        """Nothing."""

    def on_end(self, span: Any) -> None:
        raise RuntimeError("no end")

    def shutdown(self) -> None:
        """Nothing."""


@pytest.mark.parametrize("part", ["sampler", "processor"])
def test_an_sdk_that_raises(test_bus: TestBus, part: str, caplog: pytest.LogCaptureFixture) -> None:
    provider = TracerProvider(sampler=Broken() if part == "sampler" else None, shutdown_on_exit=False)
    if part == "processor":
        provider.add_span_processor(BrokenEnd())
    bus = EventBus("test")
    instrument(bus, tracer_provider=provider, settle_spans=True, create_spans=True)
    inbox = bus.inbox("box", ["b"], credit=10)
    for name in "12":
        assert [data for data, _ in run_one(test_bus, bus, Event(name, "a", name))] == [name]
    bus.notify_many([Event("3", "b", 1), Event("4", "b", 1)])
    inbox.complete_many(inbox.get_many(2))
    assert "no span can be" in caplog.text
    assert "is removed" not in caplog.text  # No hook has raised.
    assert not trace.get_current_span().get_span_context().is_valid


def test_spans_that_are_not_sampled_still_carry_the_trace(test_bus: TestBus) -> None:
    bus = EventBus("test")
    instrument(bus, tracer_provider=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    ((_, inside),) = run_one(test_bus, bus, Event("1", "a", 1))
    assert inside.is_valid
    assert not inside.trace_flags.sampled


def test_without_an_sdk_contexts_are_passed_on(test_bus: TestBus) -> None:
    bus = EventBus("test")
    instrument(bus)
    seen: list[Any] = []

    @bus.on("a", name="first")
    def go_on(event: Event) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        bus.notify(Event(event.id, "b", 1))

    bus.on("b", name="second")(lambda event: seen.append(dict(event.headers or {}).get("traceparent")))
    given = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
    token = context.attach(set_span_in_context(trace.NonRecordingSpan(given)))
    bus.notify(Event("1", "a", 1))
    context.detach(token)
    test_bus.deliver_all()
    assert seen == [1, f"00-{1:032x}-{2:016x}-01"]


SET_LATER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from eventbus_mp import Event, EventBus
from eventbus_mp.addons.otel import instrument
from eventbus_mp.testing.testbus import TestBus

with TestBus("test", ["a"]) as test_bus:
    bus = EventBus("test")
    instrument(bus)
    bus.on("a", name="worker")(print)
    bus.notify(Event("1", "a", 1))
    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    bus.notify(Event("2", "a", 2))
    test_bus.deliver_all()
print([span.name for span in exporter.get_finished_spans()])
"""


def test_an_sdk_that_is_set_up_later() -> None:
    """In a process of its own: there is one global provider, and it is set once."""
    done = subprocess.run([sys.executable, "-c", SET_LATER], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1:] == ["['publish a', 'process a', 'process a']"], done.stderr


NOT_INSTALLED = """
import sys
sys.modules["opentelemetry"] = None
import eventbus_mp.addons
import eventbus_mp.addons.otel
"""


def test_without_opentelemetry_one_sentence_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED], capture_output=True, text=True, timeout=60, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last == (
        "eventbus_mp.errors.UsageError: tracing needs the package opentelemetry-api, which is not installed; "
        "type: pip install 'eventbus-mp[otel]'"
    )


# --- exporters that use the bus ---


class OnTheBus(SpanExporter):
    """Publishes what it exports."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.exported: list[str] = []

    def export(self, spans: Any) -> SpanExportResult:
        for span in spans:
            self.exported.append(span.name)
            self.bus.notify(Event(str(len(self.exported)), "telemetry", span.name))
        return SpanExportResult.SUCCESS


@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_an_exporter_that_publishes_on_the_same_bus(make_bus: Make, processor: Any) -> None:
    bus = make_bus(topics=["a", "telemetry"])
    exporter = OnTheBus(bus)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor(exporter))
    instrument(bus, tracer_provider=provider, exclude=["telemetry"])
    kept: list[str] = []
    bus.on("telemetry", name="keeper")(lambda event: kept.append(event.data))
    bus.on("a", name="worker")(lambda event: None)
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=20)
    provider.force_flush()
    bus.drain(timeout_s=20)
    provider.shutdown()
    assert sorted(exporter.exported) == sorted(kept) == ["process a", "publish a"]  # Two threads end them.


def test_what_an_exporter_publishes_has_no_span_even_if_its_topic_is_not_excluded(make_bus: Make, spans: Spans) -> None:
    """There is a span for each time that it is handled; see the how-to."""
    bus = make_bus(topics=["a", "telemetry"])
    exporter = OnTheBus(bus)
    instrument(bus, tracer_provider=spans.provider)
    inbox = bus.inbox("box", ["telemetry"])
    processor = BatchSpanProcessor(exporter)
    spans.provider.add_span_processor(processor)
    bus.notify(Event("1", "a", 1))
    processor.force_flush()
    assert bus.fetch_event(inbox.get(10)).headers is None  # type: ignore[arg-type]
    assert [span.name for span in spans.take()] == ["publish a", "receive telemetry"]
    processor.shutdown()
    spans.provider.shutdown()


# --- threads, and what is refused ---


def test_threads_have_contexts_of_their_own(make_bus: Make, spans: Spans) -> None:
    bus = make_bus(topics=["a"])
    instrument(bus, tracer_provider=spans.provider)
    both = threading.Barrier(2, timeout=20)
    seen: dict[Any, int] = {}

    @bus.on("a", name="worker", threads=2)
    def work(event: Event) -> None:
        both.wait()
        seen[event.id] = trace.get_current_span().get_span_context().trace_id
        both.wait()

    for n in range(4):
        bus.notify(Event(n, "a", n))
    bus.drain(timeout_s=20)
    wanted = {
        span.attributes["messaging.message.id"]: span.context.trace_id
        for span in spans.take()
        if span.kind is SpanKind.PRODUCER
    }
    assert {str(name): trace_id for name, trace_id in seen.items()} == wanted
    assert len(set(seen.values())) == 4


def test_another_instrument_beside_it(test_bus: TestBus, spans: Spans) -> None:
    class Replaces(Instrument):
        def before_notify(self, events: Any) -> Any:
            return [event.with_headers({**(event.headers or {}), "mine": "x"}) for event in events]

    bus = EventBus("test", instruments=[Replaces()])
    instrument(bus, tracer_provider=spans.provider)
    bus.add_instrument(Replaces())
    run_one(test_bus, bus, Event("1", "a", 1))
    publish, process = spans.take()
    assert process.parent.span_id == publish.context.span_id


def test_what_is_refused(test_bus: TestBus) -> None:
    bus = EventBus("test")
    with pytest.raises(UsageError, match="give 'auto' or 'link'"):
        instrument(bus, parent="both")
    with pytest.raises(UsageError, match="is not a regular expression"):
        instrument(bus, exclude=["("])
    with pytest.raises(UsageError, match="give a list"):
        instrument(bus, exclude="abc")
    with pytest.raises(UsageError, match="give an EventBus"):
        instrument("test")  # type: ignore[arg-type]
    assert bus.instruments == ()
    instrument(bus)
    instrument(bus)
    assert len(bus.instruments) == 2  # For spans, and for metrics.
    with pytest.raises(UsageError, match="is connected"):
        instrument(test_bus)


def test_the_context_of_an_event_that_has_none() -> None:
    assert context_of(Event("1", "a", 1)) == {}
    assert context_of(Event("1", "a", 1, headers={"traceparent": "x"})) == {}


def test_without_instrument_nothing_of_it_is_there(make_bus: Make) -> None:
    code = (
        "import sys; from eventbus_mp import Event, EventBus, WorkerPool; bus = EventBus('never-used'); "
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'eventbus_mp.addons'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
