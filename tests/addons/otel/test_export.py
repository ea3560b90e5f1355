"""A real SDK in each process of a pool, and in a worker of gunicorn, exports to a real receiver."""

from __future__ import annotations

import os
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from eventbus_mp import Event, EventBus, WorkerPool
from eventbus_mp.addons.otel import instrument
from tests.addons.otel.gunicorn import Gunicorn
from tests.addons.otel.programs import configure, flush, go_on, last, provider_to
from tests.addons.otel.receiver import Received, Receiver

ROOT = Path(__file__).resolve().parents[3]
PRODUCER, CONSUMER = 4, 5
Make = Callable[..., EventBus]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def chain(spans: list[Received], *names: str) -> list[Received]:
    """The spans of these names, each of which is the parent of the next one."""
    by_name = {span.name: span for span in spans}
    found = [by_name[name] for name in names]
    for parent, child in pairwise(found):
        assert (child.parent_id, child.trace_id) == (parent.span_id, parent.trace_id), child
    return found


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_workers_of_a_pool(make_bus: Make, receiver: Receiver, method: str) -> None:
    bus = make_bus(topics=["order", "paid"])
    provider = provider_to(receiver.url, "parent")
    instrument(bus, tracer_provider=provider)
    is_forked = method == "fork"  # Its workers go on with the parent's SDK.
    pool = WorkerPool(
        bus,
        2,
        start_method=method,
        initializer=None if is_forked else partial(configure, receiver.url, "worker"),
        finalizer=provider.shutdown if is_forked else flush,
    )
    pool.on("order", name="biller")(partial(go_on, bus))
    pool.on("paid", name="archive")(last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # From 3.12 on, of a fork beside threads.
        pool.start()
    try:
        bus.notify(Event("1", "order", 1))
        bus.drain(timeout_s=60)
    finally:
        pool.stop()
    provider.shutdown()
    found = chain(receiver.wait_for(4), "publish order", "process order", "publish paid", "process paid")
    assert [span.kind for span in found] == [PRODUCER, CONSUMER, PRODUCER, CONSUMER]
    assert [span.service for span in found] == ["parent", *["parent" if is_forked else "worker"] * 3]
    pids = [int(span.attributes["messaging.client.id"].partition("@")[0]) for span in found]
    assert pids[0] == os.getpid()
    assert pids[1] == pids[2] != pids[0]
    assert found[3].has_failed
    assert found[3].attributes["error.type"] == "ValueError"
    if is_forked:
        assert receiver.counts == {}
    else:
        counted: Counter[str] = Counter()
        for (name, _), count in receiver.counts.items():
            counted[name] += count
        assert counted == {
            "messaging.client.sent.messages": 1,
            "messaging.client.consumed.messages": 2,
            "messaging.client.operation.duration": 1,
            "messaging.process.duration": 2,
        }
        assert {pid for _, pid in receiver.counts} == set(pids[1:])


def test_a_trace_from_a_web_request_to_the_second_handler(make_bus: Make, receiver: Receiver, run_dir: Path) -> None:
    pytest.importorskip("gunicorn")
    bus = make_bus(topics=["order", "paid"])
    instrument(bus)
    pool = WorkerPool(bus, 1, initializer=partial(configure, receiver.url, "worker"), finalizer=flush)
    pool.on("order", name="biller")(partial(go_on, bus))
    pool.on("paid", name="archive")(last)
    trace_id, caller = f"{0xABC:032x}", f"{0xDEF:016x}"
    variables = {
        **os.environ,
        "TEST_RUN_DIR": str(run_dir),
        "TEST_OTLP_URL": receiver.url,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    settings = ["--preload", "--config", "python:tests.addons.otel.gunicorn_hooks", "tests.addons.otel.programs:app"]
    with pool, Gunicorn(settings, ROOT, variables) as port:
        headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            web_pid = int(answer.read())
        bus.drain(timeout_s=60)
    names = "GET /", "publish order", "process order", "publish paid", "process paid"
    found = chain(receiver.wait_for(5), *names)
    assert (found[0].trace_id, found[0].parent_id) == (trace_id, caller)
    assert [span.service for span in found] == ["web", "web", "worker", "worker", "worker"]
    assert found[1].pid == web_pid != found[2].pid
