"""Each call of the bus has the span that the conventions want: its name, kind, attributes, parent and links."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode

from eventbus_mp import Event, EventBus, EventTooLarge
from eventbus_mp.addons.otel import instrument, uninstrument
from eventbus_mp.testing.testbus import TestBus
from tests.addons.otel.memory import Spans, attributes, id_of, links_of, parent_of, short

Traced = Callable[..., EventBus]


# --- publishing and handling ---


def test_one_event(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    bus.on("a", name="worker")(lambda event: None)
    bus.notify(Event("1", "a", 1, transaction_id="tx"))
    test_bus.deliver_all()
    publish, process = spans.take()
    assert short(publish) == ("publish a", SpanKind.PRODUCER)
    assert attributes(publish) == {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "a",
        "messaging.message.id": "1",
        "messaging.message.conversation_id": "tx",
    }
    assert short(process) == ("process a", SpanKind.CONSUMER)
    assert attributes(process) == {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "a",
        "messaging.message.id": "1",
        "messaging.message.conversation_id": "tx",
        "messaging.consumer.group.name": "worker",
        "eventbus_mp.outcome": "completed",
    }
    assert parent_of(process) == id_of(publish)
    assert links_of(process) == [id_of(publish)]
    assert (parent_of(publish), links_of(publish)) == (None, [])
    scope = publish.instrumentation_scope
    assert (scope.name, scope.schema_url) == ("eventbus_mp", "https://opentelemetry.io/schemas/1.44.0")


def test_only_links(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced(parent="link")
    found: list[Any] = []
    bus.on("a", name="worker")(lambda event: found.append(baggage.get_baggage("who")))
    token = context.attach(baggage.set_baggage("who", "me"))
    bus.notify(Event("1", "a", 1))
    context.detach(token)
    test_bus.deliver_all()
    publish, process = spans.take()
    assert (parent_of(process), links_of(process)) == (None, [id_of(publish)])
    assert process.context.trace_id != publish.context.trace_id
    assert found == ["me"]  # What is no trace goes along.


def test_a_span_that_is_current_is_the_parent(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    bus.on("a", name="worker")(lambda event: None)
    with spans.tracer.start_as_current_span("request") as request:
        bus.notify(Event("1", "a", 1))
    with spans.tracer.start_as_current_span("test") as test:
        test_bus.deliver_all()
    publish, _, process, _ = spans.take()
    assert parent_of(publish) == id_of(request)  # type: ignore[arg-type]
    assert parent_of(process) == id_of(test)  # type: ignore[arg-type]
    assert links_of(process) == [id_of(publish)]


def test_what_a_handler_does_is_in_its_span(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()

    @bus.on("a", name="first")
    def go_on(event: Event) -> None:
        with spans.tracer.start_as_current_span("work"):
            bus.notify(Event(event.id, "b", 1))

    bus.on("b", name="second")(lambda event: None)
    bus.notify(Event("1", "a", 1))
    test_bus.deliver_all()
    by_name = {span.name: span for span in spans.take()}
    path = ["publish a", "process a", "work", "publish b", "process b"]
    for before, after in pairwise(path):
        assert parent_of(by_name[after]) == id_of(by_name[before]), after
    assert len({span.context.trace_id for span in by_name.values()}) == 1
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_batch(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    bus.on("a", name="worker", batch=3)(lambda events: None)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 1)])
    bus.notify(Event("3", "a", 1))
    test_bus.deliver_all()
    many, one, process = spans.take()
    assert short(many) == ("publish a", SpanKind.PRODUCER)
    assert attributes(many) == {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "a",
        "messaging.batch.message_count": 2,
    }
    assert attributes(process) == {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "a",
        "messaging.consumer.group.name": "worker",
        "messaging.batch.message_count": 3,
        "eventbus_mp.outcome": "completed",
    }
    assert parent_of(process) is None
    assert links_of(process) == [id_of(many), id_of(many), id_of(one)]
    assert [dict(link.attributes or {}) for link in process.links] == [{"messaging.message.id": name} for name in "123"]


def test_a_batch_of_several_topics(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    bus.on("[ab]", name="worker", batch=2)(lambda events: None)
    bus.notify_many(Event("1", topic, 1) for topic in "ab")
    test_bus.deliver_all()
    publish, process = spans.take()
    assert [span.name for span in (publish, process)] == ["publish", "process"]
    assert "messaging.destination.name" not in {**attributes(publish), **attributes(process)}


def test_a_span_for_each_event_of_a_batch(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced(create_spans=True)
    bus.on("a", name="worker")(lambda event: None)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 1)])
    test_bus.deliver_all()
    first, second, publish, *processes = spans.take()
    assert [short(span) for span in (first, second)] == [("create a", SpanKind.PRODUCER)] * 2
    assert attributes(first)["messaging.operation.type"] == "create"
    assert short(publish) == ("publish a", SpanKind.CLIENT)
    assert links_of(publish) == [id_of(first), id_of(second)]
    assert [parent_of(span) for span in processes] == [id_of(first), id_of(second)]


def test_a_batch_of_more_than_a_span_has_links(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced(create_spans=True)
    bus.on("a", name="worker", batch=200, credit=200)(lambda events: None)
    inbox = bus.inbox("box", ["a"], credit=200)
    bus.notify_many([Event(str(n), "a", n) for n in range(200)])
    test_bus.deliver_all()
    assert len(inbox.get_many(200)) == 200
    *_, publish, process, receive = spans.take()
    for span in (publish, process, receive):
        assert len(span.links) == 128
        assert span.attributes["messaging.batch.message_count"] == 200
        assert span.dropped_links == 0
    assert process.links[0].attributes["messaging.message.id"] == "0"


def test_a_loan(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    bus.on("a", name="worker")(lambda event: None)
    with bus.loan("a", 5, id="1"), bus.loan("a", 5, id="2"):
        pass
    with pytest.raises(KeyError), bus.loan("a", 5, id="3"):
        raise KeyError
    test_bus.deliver_all()
    second, first, third, *processes = spans.take()
    assert [span.attributes["messaging.message.id"] for span in (first, second, third)] == ["1", "2", "3"]
    assert [parent_of(span) for span in processes] == [id_of(second), id_of(first)]
    assert third.attributes["error.type"] == "KeyError"


def test_publishing_that_fails(test_bus: TestBus, spans: Spans) -> None:
    bus = EventBus("test", event_bytes_max=64)
    instrument(bus, tracer_provider=spans.provider)
    with pytest.raises(EventTooLarge):
        bus.notify(Event("1", "a", "x" * 100))
    (span,) = spans.take()
    assert span.attributes["error.type"] == "eventbus_mp.errors.EventTooLarge"
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_a_context_of_the_users_own_is_kept(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced(create_spans=True)
    seen: list[Any] = []
    bus.on("a", name="worker")(lambda event: seen.append(event.headers))
    own = {"traceparent": f"00-{1:032x}-{2:016x}-01", "mine": "x"}
    bus.notify(Event("1", "a", 1, headers=own))
    bus.notify_many([Event(name, "a", 1, headers=own) for name in "23"])
    test_bus.deliver_all()
    one, many, *processes = spans.take()
    assert seen == [own, own, own]
    assert short(one) == short(many) == ("publish a", SpanKind.CLIENT)
    assert links_of(one) == [(1, 2)]
    assert links_of(many) == [(1, 2), (1, 2)]
    assert [parent_of(span) for span in processes] == [(1, 2)] * 3


def test_headers_that_carry_no_context_stay_beside_it(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced()
    seen: list[Any] = []
    bus.on("a", name="worker")(lambda event: seen.append(dict(event.headers or {})))
    bus.notify(Event("1", "a", 1, headers={"mine": "x", "traceparent": "nonsense"}))
    test_bus.deliver_all()
    publish, process = spans.take()
    made_in = publish.context
    assert seen == [
        {
            "mine": "x",
            "traceparent": f"00-{made_in.trace_id:032x}-{made_in.span_id:016x}-{made_in.trace_flags:02x}",
        }
    ]
    assert parent_of(process) == id_of(publish)


# --- topics that are left out, and the end ---


def test_excluded_topics_have_nothing(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced(exclude=["a$"])
    seen: list[Any] = []
    bus.on("[ab]", name="worker")(lambda event: seen.append(event.headers is None))
    inbox = bus.inbox("box", ["a"], credit=10)
    bus.notify(Event("1", "a", 1))
    bus.notify_many([Event("2", "a", 1), Event("3", "b", 1)])
    test_bus.deliver_all()
    assert len(inbox.get_many(5)) == 2
    assert seen == [True, True, False]
    publish, process = spans.take()
    assert publish.attributes["messaging.batch.message_count"] == 1
    assert process.attributes["messaging.message.id"] == "3"


def test_uninstrument(traced: Traced, test_bus: TestBus, spans: Spans) -> None:
    bus = traced(settle_spans=True)
    inbox = bus.inbox("box", ["a"])

    @bus.on("a", name="worker")
    def stop(event: Event) -> None:
        uninstrument(bus)

    bus.notify(Event("1", "a", 1))
    test_bus.deliver_all()
    inbox.complete(inbox.get())  # type: ignore[arg-type]
    bus.notify(Event("2", "a", 1))
    test_bus.deliver_all()
    assert [span.name for span in spans.take()] == ["publish a", "process a"]  # What had begun has ended.
    assert bus.instruments == ()
    uninstrument(bus)
