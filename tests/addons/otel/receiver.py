"""A receiver of OTLP over HTTP, as a collector is one: it keeps the spans that it gets, and counts of metrics."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["Received", "Receiver"]


class Received(NamedTuple):
    """A span, as it came over the wire."""

    name: str
    service: str
    pid: int
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it has none."""
    links: tuple[str, ...]
    """The ids of spans."""
    kind: int
    attributes: dict[str, Any]
    has_failed: bool


class Receiver:
    """Runs in threads of this process between entering and leaving."""

    def __init__(self) -> None:
        self._spans: list[Received] = []
        self.counts: dict[tuple[str, int | str], int] = {}
        """(name of a metric, process or its id) -> the last value of a counter, or how many values a histogram has."""
        self._more = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            """One connection of an exporter."""

            def do_POST(self) -> None:
                """An export."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path.endswith("/metrics"):
                    receiver._keep_metrics(ExportMetricsServiceRequest.FromString(body))
                    answer = ExportMetricsServiceResponse().SerializeToString()
                else:
                    receiver._keep(ExportTraceServiceRequest.FromString(body))
                    answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: Any) -> None:
                """Not shown."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def _keep(self, request: ExportTraceServiceRequest) -> None:
        found = [
            _received(span, _values(resource.resource.attributes))
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._more:
            self._spans += found
            self._more.notify_all()

    def _keep_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for resource in request.resource_metrics:
            found = _values(resource.resource.attributes)
            process = found["process.pid"] if "process.pid" in found else found["service.instance.id"]
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self.counts[metric.name, process] = sum(
                        [point.as_int for point in metric.sum.data_points]
                        + [point.count for point in metric.histogram.data_points]
                    )

    def wait_for(self, count: int, timeout_s: float = 60.0) -> list[Received]:
        """All spans, when there are `count`."""
        with self._more:
            assert self._more.wait_for(lambda: len(self._spans) >= count, timeout_s), self._spans
            return list(self._spans)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        resource.get("service.name", ""),
        resource.get("process.pid", 0),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple(link.span_id.hex() for link in span.links),
        span.kind,
        _values(span.attributes),
        span.status.code == 2,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
