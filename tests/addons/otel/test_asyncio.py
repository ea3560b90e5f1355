"""The same in an event loop, whose tasks have contexts of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace

from eventbus_mp import Event, aio
from eventbus_mp.addons.otel import instrument, uninstrument
from tests.addons.otel.memory import Spans


def test_tasks_do_not_mix_their_spans(run_dir: Path, spans: Spans) -> None:
    seen: dict[Any, set[int]] = {}

    async def main() -> None:
        bus = aio.EventBus("test", ["a", "b"], run_dir=str(run_dir), manager_idle_s=0.5)
        instrument(bus, tracer_provider=spans.provider)
        both = asyncio.Event()

        @bus.on("a", name="worker", concurrency=2)
        async def work(event: Event) -> None:
            trace_ids = seen.setdefault(event.id, set())
            trace_ids.add(trace.get_current_span().get_span_context().trace_id)
            if len(seen) == 2:
                both.set()
            await both.wait()
            trace_ids.add(trace.get_current_span().get_span_context().trace_id)

        async with bus, await bus.inbox("box", ["b"], credit=9) as inbox:
            for name in "12":
                with spans.tracer.start_as_current_span(f"request {name}"):
                    await bus.notify(Event(name, "a", 1))
            await bus.notify(Event("3", "b", 1))
            await inbox.complete(await inbox.get())
            await bus.drain()
            uninstrument(bus)
            await bus.notify(Event("4", "a", 1))
            await bus.drain()
            await bus.shutdown()

    asyncio.run(main())
    found = spans.take()
    for name in "12":
        (request,) = [span for span in found if span.name == f"request {name}"]
        about = [span for span in found if (span.attributes or {}).get("messaging.message.id") == name]
        assert {span.name for span in about} == {"publish a", "process a"}
        assert {span.context.trace_id for span in about} == seen[name] == {request.context.trace_id}
    assert [span.name for span in found if (span.attributes or {}).get("messaging.message.id") == "3"] == [
        "publish b",
        "receive b",
    ]
    assert not [span for span in found if (span.attributes or {}).get("messaging.message.id") == "4"]
