"""Where a process's spans go: to a collector if the environment names one, else into a file, a line for each span."""

import json
import os

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

from examples.shop.settings import TRACES

provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))


def configure():
    provider.add_span_processor(to_collector() if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ else to_file())
    trace.set_tracer_provider(provider)


def flush():
    provider.shutdown()


def to_collector():
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter())


def to_file():
    # Buffered by line: each span is one write at the end of the file, so lines of several processes do not mix, and a
    # process that is killed loses none that has ended.
    lines = open(TRACES, "a", buffering=1)  # noqa: SIM115 - open as long as the process runs
    return SimpleSpanProcessor(ConsoleSpanExporter(out=lines, formatter=line_of))


def line_of(span):
    context, attributes = span.get_span_context(), span.attributes
    facts = {
        "trace": trace.format_trace_id(context.trace_id),
        "span": trace.format_span_id(context.span_id),
        "parent": trace.format_span_id(span.parent.span_id) if span.parent else None,
        "name": span.name,
        "order": attributes.get("order") or attributes.get("messaging.message.id"),
        "outcome": attributes.get("eventbus_mp.outcome"),
        "pid": os.getpid(),
        "start_ns": span.start_time,
        "ms": round((span.end_time - span.start_time) / 1e6, 1),
    }
    return json.dumps(facts) + "\n"
