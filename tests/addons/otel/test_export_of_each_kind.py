"""What each kind of consumer does is exported by a real SDK to a real receiver, in one trace or linked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.sdk.trace import TracerProvider

from eventbus_mp import Event, EventBus, aio
from eventbus_mp.addons.otel import instrument
from tests.addons.otel.programs import provider_to
from tests.addons.otel.receiver import Received, Receiver

Make = Callable[..., EventBus]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def provider(receiver: Receiver) -> TracerProvider:
    return provider_to(receiver.url, "test")


def named(spans: list[Received], name: str) -> list[Received]:
    return [span for span in spans if span.name == name]


def test_a_batch_handler_and_an_inbox(make_bus: Make, receiver: Receiver, provider: TracerProvider) -> None:
    bus = make_bus(topics=["a"])
    instrument(bus, tracer_provider=provider, create_spans=True, settle_spans=True)
    bus.on("a", name="worker", batch=3)(lambda events: None)
    inbox = bus.inbox("box", ["a"], credit=10)
    bus.notify_many([Event(name, "a", 1) for name in "123"])
    taken: list[Any] = []
    while len(taken) < 3:
        taken += inbox.get_many(3, 20)
    inbox.complete_many(taken)
    bus.drain(timeout_s=20)
    provider.shutdown()
    spans = receiver.wait_for(7)
    created = {span.span_id for span in named(spans, "create a")}
    assert len(created) == 3
    (publish,), (ack,) = named(spans, "publish a"), named(spans, "ack a")
    assert set(publish.links) == created
    assert {link for span in named(spans, "receive a") for link in span.links} == created
    assert {link for span in named(spans, "process a") for link in span.links} == created
    assert all(not span.parent_id for span in named(spans, "process a"))
    assert ack.attributes["messaging.consumer.group.name"] == "box"


def test_retries_and_a_dead_letter(make_bus: Make, receiver: Receiver, provider: TracerProvider) -> None:
    """A retry, a dead letter and what is sent again after it are all in the trace of the event."""
    bus = make_bus(topics=["a", "dead"], dead_letter_topic="dead")
    instrument(bus, tracer_provider=provider)
    graves = bus.inbox("graves", ["dead"], credit=1)
    failing = [True]

    @bus.on("a", name="worker", retries=1)
    def work(event: Event) -> None:
        if failing:
            raise ValueError("no")

    bus.notify(Event("1", "a", 1))
    assert graves.get(20) is not None
    failing.clear()
    assert bus.redeliver() == 1
    bus.drain("a", timeout_s=20)
    provider.shutdown()
    spans = receiver.wait_for(5)
    (taken,) = named(spans, "receive a")  # A dead letter is the event, which keeps its topic.
    (publish,), processed = named(spans, "publish a"), named(spans, "process a")
    assert [span.attributes["eventbus_mp.outcome"] for span in processed] == ["failed", "failed", "completed"]
    assert {span.parent_id for span in processed} == {publish.span_id}
    assert {span.trace_id for span in processed} == {publish.trace_id}
    assert taken.links == (publish.span_id,)


def test_a_handle_of_asyncio(run_dir: Path, receiver: Receiver, provider: TracerProvider) -> None:
    async def main() -> None:
        bus = aio.EventBus("test", ["a", "b"], run_dir=str(run_dir), manager_idle_s=0.5)
        instrument(bus, tracer_provider=provider)

        @bus.on("a", name="worker")
        async def work(event: Event) -> None:
            await bus.notify(Event(event.id, "b", 1))

        async with bus, await bus.inbox("box", ["b"]) as inbox:
            await bus.notify(Event("1", "a", 1))
            await inbox.complete(await inbox.get())
            await bus.drain()
            await bus.shutdown()

    asyncio.run(main())
    provider.shutdown()
    by_name = {span.name: span for span in receiver.wait_for(4)}
    path = [by_name[name] for name in ("publish a", "process a", "publish b")]
    assert [span.parent_id for span in path] == ["", path[0].span_id, path[1].span_id]
    assert by_name["receive b"].links == (path[2].span_id,)
