"""How handlers and listeners end, and what is taken from inboxes: their spans."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from eventbus_mp import Event, EventBus, EventShadow, Retry, Skip
from eventbus_mp.addons.otel import context_of
from eventbus_mp.addons.otel.names import error_type
from eventbus_mp.testing.testbus import TestBus
from tests.addons.otel.memory import Spans, attributes, id_of, links_of, parent_of, short

Traced = Callable[..., EventBus]


# --- outcomes ---


def test_how_a_handler_ends(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()

    @bus.on("a", name="worker", retries=1)
    def judge(event: Event) -> None:
        if event.data == "skip":
            raise Skip("not today")
        if event.data == "fail":
            raise ValueError("no")
        if event.data == "retry" and len(seen) == 0:
            seen.append(event.id)
            raise Retry

    seen: list[Any] = []
    for data in ("skip", "fail", "retry"):
        bus.notify(Event(data, "a", data))
    test_bus.deliver_all(raise_errors=False)
    found = [span for span in spans.take() if span.name == "process a"]
    ends = [
        (span.attributes["eventbus_mp.outcome"], span.attributes.get("eventbus_mp.delivery.attempt", 1))
        for span in found
    ]
    assert ends == [("skipped", 1), ("failed", 1), ("failed", 2), ("retried", 1), ("completed", 2)]
    skipped, failed, again, retried, _ = found
    assert skipped.attributes["eventbus_mp.skip.reason"] == "not today"
    assert failed.attributes["error.type"] == again.attributes["error.type"] == "ValueError"
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.events[0].attributes["exception.message"] == "no"
    for span in (skipped, retried):
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in span.attributes
    assert not trace.get_current_span().get_span_context().is_valid  # After a handler that raised as well.


def test_how_the_events_of_a_batch_end(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    bus.on("a", name="worker", batch=2)(lambda events: [Skip("no"), ValueError("bad")])
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 1)])
    test_bus.deliver_all(raise_errors=False)
    _, process = spans.take()
    assert process.attributes["eventbus_mp.outcome"] == "failed"
    assert process.attributes["error.type"] == "_OTHER"
    assert process.status.status_code is StatusCode.ERROR


def test_an_error_of_a_class_of_ones_own() -> None:
    class Odd(Exception):
        pass

    assert error_type(Odd()) == f"{__name__}.test_an_error_of_a_class_of_ones_own.<locals>.Odd"


# --- listeners and inboxes ---


def test_a_listener(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced(settle_spans=True)

    def complete(shadow: EventShadow) -> None:
        bus.mark_as_completed(complete, shadow)

    bus.subscribe(complete, ["a"])
    bus.notify(Event("1", "a", 1, transaction_id=7))
    test_bus.deliver_all()
    publish, ack, process = spans.take()
    assert parent_of(process) == id_of(publish)
    assert process.attributes["eventbus_mp.outcome"] == "open"
    assert process.attributes["messaging.message.conversation_id"] == "7"
    assert short(ack) == ("ack a", SpanKind.CLIENT)
    assert parent_of(ack) == id_of(process)
    assert attributes(ack) == {
        "messaging.operation.name": "ack",
        "messaging.operation.type": "settle",
        "messaging.destination.name": "a",
        "messaging.message.id": "1",
        "messaging.consumer.group.name": attributes(process)["messaging.consumer.group.name"],
        "eventbus_mp.outcome": "completed",
    }


def test_an_inbox(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    inbox = bus.inbox("box", ["[ab]"], credit=10)
    bus.notify(Event("1", "a", 1))
    inbox.release(inbox.get())  # type: ignore[arg-type]
    shadow = inbox.get()
    assert shadow == ("a", "1")
    bus.notify_many([Event("2", "a", 1), Event("3", "b", 1)])
    assert len(inbox.events(9)) == 2
    assert inbox.get(0) is None
    one, first, again, many, both = spans.take()
    assert short(first) == ("receive a", SpanKind.CLIENT)
    assert attributes(first) == {
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "a",
        "messaging.message.id": "1",
        "messaging.consumer.group.name": "box",
    }
    assert links_of(first) == links_of(again) == [id_of(one)]
    assert again.attributes["eventbus_mp.delivery.attempt"] == 2
    assert again.links[0].attributes == {"messaging.message.id": "1", "eventbus_mp.delivery.attempt": 2}
    assert short(both) == ("receive", SpanKind.CLIENT)
    assert both.attributes["messaging.batch.message_count"] == 2
    assert links_of(both) == [id_of(many), id_of(many)]
    event = bus.fetch_event(shadow)
    with spans.tracer.start_as_current_span("work", context=context_of(event)) as work:  # type: ignore[arg-type]
        inbox.skip(shadow, "no")
    assert parent_of(work) == id_of(one)  # type: ignore[arg-type]
    assert [span.name for span in spans.take()] == ["work"]  # No span for settling, unless it is asked for.


def test_settling_several_by_hand(traced: Traced, spans: Spans) -> None:
    bus = traced(settle_spans=True)
    inbox = bus.inbox("box", ["a"], credit=10)
    bus.notify_many([Event(name, "a", 1) for name in "123"])
    shadows = inbox.get_many(3)
    inbox.complete_many(shadows[:2])
    inbox.skip(shadows[2], "no")
    _, _, ack, skip = spans.take()
    assert short(ack) == ("ack a", SpanKind.CLIENT)
    assert ack.attributes["messaging.batch.message_count"] == 2
    assert short(skip) == ("skip a", SpanKind.CLIENT)
    assert skip.attributes["eventbus_mp.outcome"] == "skipped"


def test_an_inbox_that_was_closed(traced: Traced, spans: Spans) -> None:
    inbox = traced().inbox("box", ["a"])
    inbox.close()
    with pytest.raises(Exception, match="closed"):
        inbox.get(0)
    (span,) = spans.take()
    assert (span.name, span.attributes["error.type"]) == ("receive", "eventbus_mp.errors.BusClosed")
