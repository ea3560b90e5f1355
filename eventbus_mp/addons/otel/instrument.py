"""`instrument(bus)`: have a handle make spans and metrics. Their rules are in tracing.py and measuring.py."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from eventbus_mp import EventBus, UsageError, aio
from eventbus_mp.addons.checks import checked_texts, compiled
from eventbus_mp.addons.otel.measuring import MeasuringMaker
from eventbus_mp.addons.otel.tracing import Options, SettleTracing, Tracing

__all__ = ["instrument", "uninstrument"]


def instrument(
    bus: EventBus | aio.EventBus,
    *,
    parent: str = "auto",
    create_spans: bool = False,
    settle_spans: bool = False,
    exclude: Iterable[str] = (),
    metrics: bool = True,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Have spans for what this handle does, contexts in the headers of its events, and metrics. Never blocks.

    Call it before the first use of the handle, which may be an `on`. What spans go to may be set up later, in each
    process: until then they go nowhere, and contexts are passed on. There are metrics if what they go to is set up
    before the handle connects. A `WorkerPool` of this bus takes it along to its workers. Repeated, it changes nothing.
    No error of the SDK, or of what is configured in it, makes an event fail; it is logged.

    Args:
        bus: The handle.
        parent: What is the parent of a handler's span. "auto": the span in whose context the event was made, unless
            another one is current already; there is a link to it as well. "link": there is only the link, and each
            handler's call begins a trace.
        create_spans: Whether each event of `notify_many` has a span, and a context, of its own.
        settle_spans: Whether settling by hand has spans.
        exclude: Patterns of topics whose events have neither spans nor contexts, and are not measured, such as those
            that an exporter publishes. As in `EventBus.on`, they match from the beginning.
        metrics: Whether there are metrics, where there is a meter provider.
        tracer_provider: Where the spans of this process go; None, and in workers that are not forked: to the global
            one.
        meter_provider: Where its metrics go; as `tracer_provider`.

    Raises:
        UsageError: The handle is connected, or an argument is not valid.
    """
    if parent not in ("auto", "link"):
        raise UsageError(f"instrument(parent={parent!r}): give 'auto' or 'link'")
    patterns = tuple(checked_texts("exclude", exclude))
    for pattern in patterns:
        compiled(pattern)
    if not _own(bus):
        kind = SettleTracing if settle_spans else Tracing
        bus.add_instrument(kind(bus.address, Options(parent, create_spans, patterns), tracer_provider))
        if metrics:
            bus.add_instrument(MeasuringMaker(bus.address, patterns, meter_provider))


def uninstrument(bus: EventBus | aio.EventBus) -> None:
    """Have no spans and metrics any more: nothing new begins from now on, and what has begun ends. Never blocks.

    A handle that is connected stays as it is until it connects anew, with hooks that do nothing.
    """
    for source in _own(bus):
        source.is_off = True
        bus.remove_instrument(source)


def _own(bus: EventBus | aio.EventBus) -> list[Tracing | MeasuringMaker]:
    """What `instrument` has added."""
    if not isinstance(bus, (EventBus, aio.EventBus)):
        raise UsageError(f"bus={bus!r:.80} is a {type(bus).__name__}; give an EventBus")
    return [found for found in bus.instruments if isinstance(found, (Tracing, MeasuringMaker))]
