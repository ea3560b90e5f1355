"""What is counted and measured, with which names, units and attributes."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.sdk.metrics import MeterProvider

from eventbus_mp import Event, EventBus, EventTooLarge, Retry, Skip
from eventbus_mp.addons.otel import instrument, names, uninstrument
from eventbus_mp.addons.otel.measuring import Measuring, MeasuringMaker
from eventbus_mp.addons.otel.meters import Subject, meters_of
from eventbus_mp.addons.otel.propagate import _complained
from eventbus_mp.testing.testbus import TestBus
from tests.addons.otel.memory import Metrics, Spans

SENT, CONSUMED = "messaging.client.sent.messages", "messaging.client.consumed.messages"
OPERATION, PROCESS = "messaging.client.operation.duration", "messaging.process.duration"
Measured = Callable[..., EventBus]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def measured(test_bus: TestBus, metrics: Metrics, spans: Spans) -> Measured:
    """Makes an instrumented handle."""

    def make(*, config: dict[str, Any] | None = None, **options: Any) -> EventBus:
        bus = EventBus("test", **(config or {}))
        instrument(bus, tracer_provider=spans.provider, meter_provider=metrics.provider, **options)
        return bus

    return make


def test_publishing_and_handling(measured: Measured, test_bus: TestBus, metrics: Metrics) -> None:
    bus = measured()
    bus.on("[ab]", name="worker")(lambda event: None)
    bus.notify(Event("1", "a", 1))
    bus.notify_many([Event("2", "a", 1), Event("3", "a", 1), Event("4", "b", 1)])
    test_bus.deliver_all()
    assert metrics.counts(SENT) == {("publish", "a", None, None): 3, ("publish", "b", None, None): 1}
    assert metrics.counts(OPERATION) == {("publish", "a", None, None): 1, ("publish", None, None, None): 1}
    handled = {("process", "a", "worker", None): 3, ("process", "b", "worker", None): 1}
    assert metrics.counts(CONSUMED) == metrics.counts(PROCESS) == handled
    assert dict(metrics.points(SENT)["publish", "a", None, None].attributes or {}) == {
        "messaging.system": "eventbus_mp",
        "server.address": bus.address,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "a",
    }


def test_names_units_and_buckets(measured: Measured, test_bus: TestBus, metrics: Metrics) -> None:
    bus = measured()
    bus.on("a", name="worker")(lambda event: None)
    bus.notify(Event("1", "a", 1))
    test_bus.deliver_all()
    (scope,) = metrics.reader.get_metrics_data().resource_metrics[0].scope_metrics
    assert scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    units = {metric.name: metric.unit for metric in scope.metrics}
    assert units == {SENT: "{message}", CONSUMED: "{message}", OPERATION: "s", PROCESS: "s"}
    seconds = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
    for name in (OPERATION, PROCESS):
        (point,) = metrics.points(name).values()
        assert tuple(point.explicit_bounds) == seconds
        assert 0 < point.sum < 60


def test_the_conventions_have_the_same_names_units_and_descriptions() -> None:
    theirs = pytest.importorskip("opentelemetry.semconv._incubating.metrics.messaging_metrics")
    meter = Metrics().provider.get_meter("theirs")
    for ours, make in (
        (names.SENT, theirs.create_messaging_client_sent_messages),
        (names.CONSUMED, theirs.create_messaging_client_consumed_messages),
        (names.OPERATION_DURATION, theirs.create_messaging_client_operation_duration),
        (names.PROCESS_DURATION, theirs.create_messaging_process_duration),
    ):
        made = make(meter)
        assert (made.name, made.unit, made.description) == ours


def test_a_delivery_is_counted_once_and_each_call_of_its_handler_is_measured(
    measured: Measured, test_bus: TestBus, metrics: Metrics
) -> None:
    bus = measured()

    @bus.on("a", name="worker", retries=1)
    def judge(event: Event) -> None:
        if event.data == "fail":
            raise ValueError("no")
        if event.data == "skip":
            raise Skip("no")
        if not seen:
            seen.append(event.id)
            raise Retry

    seen: list[Any] = []
    for data in ("fail", "skip", "retry"):
        bus.notify(Event(data, "a", data))
    test_bus.deliver_all(raise_errors=False)
    good, bad = ("process", "a", "worker", None), ("process", "a", "worker", "ValueError")
    assert metrics.counts(CONSUMED) == {good: 2, bad: 1}
    assert metrics.counts(PROCESS) == {good: 3, bad: 2}


def test_a_batch_is_one_call(measured: Measured, test_bus: TestBus, metrics: Metrics) -> None:
    bus = measured()
    bus.on("[ab]", name="worker", batch=3)(lambda events: [None, None, ValueError("bad")])
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 1), Event("3", "b", 1)])
    test_bus.deliver_all(raise_errors=False)
    assert metrics.counts(PROCESS) == {("process", None, "worker", "_OTHER"): 1}
    assert sum(metrics.counts(CONSUMED).values()) == 3


def test_what_is_taken_from_an_inbox(measured: Measured, metrics: Metrics) -> None:
    bus = measured()
    inbox = bus.inbox("box", ["a"], credit=10)
    bus.notify_many([Event(name, "a", 1) for name in "123"])
    inbox.release(inbox.get())  # type: ignore[arg-type]
    assert len(inbox.get_many(5)) == 3
    assert inbox.get(0) is None
    inbox.close()
    with pytest.raises(Exception, match="closed"):
        inbox.get(0)
    taken = ("receive", "a", "box", None)
    assert metrics.counts(CONSUMED) == {taken: 3}
    received = {key: count for key, count in metrics.counts(OPERATION).items() if key[0] == "receive"}
    assert received == {taken: 2, ("receive", None, "box", "eventbus_mp.errors.BusClosed"): 1}
    assert metrics.counts(PROCESS) == {}


def test_publishing_that_fails(measured: Measured, metrics: Metrics) -> None:
    bus = measured(config={"event_bytes_max": 64})
    with pytest.raises(EventTooLarge):
        bus.notify(Event("1", "a", "x" * 100))
    failed = {("publish", "a", None, "eventbus_mp.errors.EventTooLarge"): 1}
    assert metrics.counts(SENT) == metrics.counts(OPERATION) == failed


def test_two_handles_that_come_and_go_have_one_count(measured: Measured, test_bus: TestBus, metrics: Metrics) -> None:
    test_bus.inbox("box", ["a"])
    for name in "12":
        with measured() as bus:
            bus.notify(Event(name, "a", 1))
    assert metrics.counts(SENT) == {("publish", "a", None, None): 2}


def test_threads_count_all(metrics: Metrics) -> None:
    meters = meters_of(metrics.provider)
    subject = Subject("address", names.PUBLISH, "a")

    def count() -> None:
        for _ in range(5_000):
            meters.sent.add(subject, 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.counts(SENT) == {("publish", "a", None, None): 40_000}


def test_loans(measured: Measured, metrics: Metrics) -> None:
    bus = measured()
    bus.inbox("box", ["a"])
    with bus.loan("a", 5, id="1"), bus.loan("a", 5, id="2"):
        pass
    with pytest.raises(KeyError), bus.loan("a", 5, id="3"):
        raise KeyError
    assert metrics.counts(OPERATION) == {("publish", "a", None, None): 2, ("publish", "a", None, "KeyError"): 1}


def test_what_is_left_out(measured: Measured, test_bus: TestBus, metrics: Metrics) -> None:
    bus = measured(exclude=["a"])
    bus.on("[ab]", name="worker")(lambda event: None)
    inbox = bus.inbox("box", ["a"], credit=5)
    bus.notify_many([Event("1", "a", 1), Event("2", "b", 1)])
    bus.notify(Event("3", "a", 1))
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # As an exporter does.
    bus.notify(Event("4", "b", 1))
    detach(token)
    test_bus.deliver_all()
    assert len(inbox.get_many(5)) == 2
    assert metrics.counts(SENT) == {("publish", "b", None, None): 1}
    assert metrics.counts(CONSUMED) == {("process", "b", "worker", None): 2}
    assert set(metrics.counts(OPERATION)) == {("publish", None, None, None)}


def test_uninstrument_and_spans_alone(measured: Measured, test_bus: TestBus, metrics: Metrics) -> None:
    bus = measured()
    other = measured(metrics=False)

    @bus.on("a", name="worker")
    def stop(event: Event) -> None:
        uninstrument(bus)

    other.notify(Event("1", "a", 1))
    test_bus.deliver_all()
    bus.notify(Event("2", "a", 1))
    assert metrics.counts(SENT) == metrics.counts(CONSUMED) == {}
    assert bus.instruments == ()
    assert len(other.instruments) == 1


def test_exemplars_are_the_spans_of_handlers(
    measured: Measured, test_bus: TestBus, metrics: Metrics, spans: Spans
) -> None:
    bus = measured()
    bus.on("a", name="worker")(lambda event: None)
    bus.notify(Event("1", "a", 1))
    test_bus.deliver_all()
    (point,) = metrics.points(PROCESS).values()
    _, process = spans.take()
    assert [each.span_id for each in point.exemplars] == [process.context.span_id]


def test_an_sdk_that_raises(
    measured: Measured, test_bus: TestBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("no measurement")

    _complained.clear()
    monkeypatch.setattr("opentelemetry.sdk.metrics.Histogram.record", fail)
    bus = measured()
    done: list[Any] = []
    bus.on("a", name="worker")(lambda event: done.append(event.id))
    for name in "12":
        bus.notify(Event(name, "a", 1))
    test_bus.deliver_all()
    assert done == ["1", "2"]
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said.startswith("OpenTelemetry: a duration cannot be recorded;")
    assert "is removed" not in caplog.text


def test_a_meter_provider_that_raises(test_bus: TestBus, caplog: pytest.LogCaptureFixture) -> None:
    class NoMeter(MeterProvider):
        def get_meter(self, *arguments: Any, **named: Any) -> Any:
            raise RuntimeError("no meter")

    _complained.clear()
    bus = EventBus("test")
    instrument(bus, meter_provider=NoMeter(shutdown_on_exit=False))
    bus.notify(Event("1", "a", 1))
    assert "the meter provider raised, and nothing is measured" in caplog.text


def test_without_a_meter_provider_nothing_is_measured(test_bus: TestBus) -> None:
    maker = MeasuringMaker("address", ("x",))
    assert not isinstance(maker(), Measuring)
    again = pickle.loads(pickle.dumps(maker))
    assert (again._address, again._exclude, again._provider) == ("address", ("x",), None)


SET_GLOBALLY = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from eventbus_mp import Event, EventBus
from eventbus_mp.addons.otel import instrument
from eventbus_mp.testing.testbus import TestBus

with TestBus("test", ["a"]) as test_bus:
    bus = EventBus("test")
    instrument(bus)
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    bus.notify(Event("1", "a", 1))
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
print(sorted(metric.name for metric in scope.metrics))
"""


def test_a_global_meter_provider_that_is_set_before_the_handle_connects() -> None:
    """In a process of its own: there is one, and it is set once."""
    done = subprocess.run([sys.executable, "-c", SET_GLOBALLY], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "['messaging.client.operation.duration', 'messaging.client.sent.messages']\n", done.stderr
