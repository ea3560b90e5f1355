"""Spans as lines of text: to see traces without a collector. `eventbus-mp demo --trace console` shows them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from opentelemetry import trace

from eventbus_mp import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["show_spans"]


def show_spans() -> None:
    """Set the SDK up in this process, once: each span that ends is a line on standard error. Never blocks.

    Raises:
        UsageError: There is no SDK.
    """
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
    except ImportError as cause:
        raise UsageError(
            "showing spans needs the package opentelemetry-sdk, which is not installed; "
            "type: pip install opentelemetry-sdk"
        ) from cause
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr, formatter=_line)))
    trace.set_tracer_provider(provider)


def _line(span: ReadableSpan) -> str:
    """trace span parent, the process, how long it took, the name, and whether it failed."""
    took_ms = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    parent = trace.format_span_id(span.parent.span_id) if span.parent is not None else "-" * 16
    context = span.get_span_context()
    assert context is not None
    ids = f"{trace.format_trace_id(context.trace_id)} {trace.format_span_id(context.span_id)} {parent}"
    failed = " failed" if span.status.status_code is trace.StatusCode.ERROR else ""
    return f"{ids} pid={os.getpid()} ms={took_ms:.3f} {span.name!r}{failed}{os.linesep}"
