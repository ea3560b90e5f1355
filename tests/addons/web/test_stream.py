"""The live stream over real sockets: one look for all, the latest wins, and who takes nothing is cut off."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventbus_mp import BusConfig, Event, EventBus, Snapshot
from eventbus_mp.addons.web import WebApp, stream
from eventbus_mp.addons.web.api import Api
from tests.addons.web.serving import Events, ask, served

VIEWERS = 100
LARGE = b'"' + b"x" * (1 << 20) + b'"'


@pytest.fixture
def app(bus: EventBus) -> WebApp:
    bus.inbox("audit", ["a"])
    bus.notify(Event("one", "a", 1))
    return WebApp(bus)


@pytest.fixture
def port(app: WebApp) -> Iterator[int]:
    with served(app, app) as number:
        yield number


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other as fast as they can."""
    monkeypatch.setattr(stream, "INTERVAL_S", 0.01)
    monkeypatch.setattr(stream, "SHARE", 0)
    monkeypatch.setattr("eventbus_mp.addons.web.view.FRESH_S", 0)


def test_init_and_then_snapshots(port: int) -> None:
    events = Events(port)
    assert b"200 OK" in events.head
    assert b"text/event-stream" in events.head
    assert b"cache-control: no-store" in events.head
    assert b"x-accel-buffering: no" in events.head
    name, data = events.next()
    assert (name, data["is_up"], data["snapshot"]["events"]["unsettled"]) == ("init", True, 1)
    name, data = events.next()
    assert (name, data["rate"], data["snapshot"]["topics"][0]["rate"]) == ("snapshot", 0.0, 0.0)
    events.close()


@pytest.mark.usefixtures("quick")
def test_all_viewers_cost_the_manager_what_one_does(
    app: WebApp, port: int, bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    snapshot = EventBus.snapshot

    def look(bus: EventBus, **options: int) -> Snapshot:
        looks.append(1)
        return snapshot(bus, **options)

    monkeypatch.setattr(EventBus, "snapshot", look)
    viewers = [Events(port) for _ in range(VIEWERS)]
    for viewer in viewers:
        viewer.next()
    before = len(looks)
    for viewer in viewers:
        viewer.next()
    first = [viewer.next()[1] for viewer in viewers]
    assert len(looks) - before < 3 * VIEWERS  # Had each of them asked, there would be more for two messages.
    assert len(first) == VIEWERS == app.viewers
    for viewer in viewers:
        viewer.close()
    ask(port, "/healthz")


@pytest.mark.usefixtures("quick")
def test_nobody_looks_when_nobody_watches(app: WebApp, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(port)
    events.next()
    task = app._stream._task
    assert task is not None
    events.close()
    other = Events(port)  # It comes before or after the other one has been noticed to be gone.
    other.next()
    other.close()
    with socket.create_connection(("127.0.0.1", port)):
        while app.viewers:
            ask(port, "/healthz")
    assert app._stream._task is None


@pytest.mark.usefixtures("quick")
def test_who_is_slow_gets_the_latest(app: WebApp, port: int, bus: EventBus) -> None:
    slow, fast = Events(port), Events(port)
    slow.next()
    for number in range(20):
        bus.notify(Event(number, "b", number))
        bus.notify(Event(number, "a", number))
        fast.next()
    for viewer in (fast, slow):
        viewer.until(lambda data: data["snapshot"]["events"]["unsettled"] == 21)
    slow.close()
    fast.close()


@pytest.mark.usefixtures("quick")
def test_who_takes_nothing_is_cut_off_and_the_others_go_on(
    app: WebApp, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def large(api: Api) -> bytes:
        return LARGE

    monkeypatch.setattr(stream, "CUT_S", 3)
    monkeypatch.setattr(app._stream, "_look", lambda: large(app._api))
    stopped, lively = Events(port), Events(port)
    for viewer in (stopped, lively):
        viewer.next()
    while app.viewers == 2:
        assert lively.next()[0] == "snapshot"
    assert app.viewers == 1
    assert lively.next()[0] == "snapshot"
    stopped.close()
    lively.close()


def test_who_vanishes_is_forgotten(app: WebApp, port: int) -> None:
    events = Events(port)
    events.next()
    # A reset, as of a machine that was switched off and on.
    events.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    events.close()
    while app.viewers:
        ask(port, "/healthz")


def test_a_silent_stream_has_comments(port: int, app: WebApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "QUIET_S", 0.05)
    monkeypatch.setattr(stream, "INTERVAL_S", 60)
    events = Events(port)
    events.next()
    assert [events.line() for _ in range(4)] == [b":", b"", b":", b""]
    events.close()


def test_stop_ends_all_streams_and_those_that_come(app: WebApp) -> None:
    with served(app, app) as port:
        viewers = [Events(port) for _ in range(3)]
        for viewer in viewers:
            viewer.next()
        loop = app._stream._task.get_loop()
        loop.call_soon_threadsafe(app.stop)
        for viewer in viewers:
            viewer.wait_for_end()
        late = Events(port)
        late.wait_for_end()
        for viewer in [*viewers, late]:
            viewer.close()


def test_a_server_that_cancels_an_open_stream_logs_no_traceback(app: WebApp, caplog: pytest.LogCaptureFixture) -> None:
    """Mounted in another app, whose server knows nothing of `stop`."""
    with served(Starlette(routes=[Mount("/bus", app)]), app, timeout_graceful_shutdown=1) as port:
        events = Events(port, "/bus/sse")
        events.next()
    events.wait_for_end()
    events.close()
    assert [record.getMessage() for record in caplog.records if record.exc_info or "ASGI" in record.msg] == []


@pytest.mark.usefixtures("quick")
def test_a_bus_that_comes_and_goes(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    app = WebApp("test", config=BusConfig(run_dir=str(run_dir)))
    with served(app, app) as port:
        events = Events(port)
        name, data = events.next()
        assert (name, data["is_up"]) == ("init", False)
        assert "test" in data["error"]
        for number in range(2):
            bus = make_bus(topics=["a"])
            bus.register_topic(f"topic_{number}")
            events.until(lambda data: data["is_up"])
            if number:
                os.kill(bus.snapshot().manager.pid, signal.SIGKILL)
                events.until(lambda data: data["is_up"] and data["snapshot"]["manager"]["takeovers"] == 1)
            bus.shutdown()
            events.until(lambda data: not data["is_up"])
        events.close()


def test_a_stream_ends_in_time_for_a_server_that_waits_for_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LIFE_S", 0.5)
    events = Events(port)
    assert events.next()[0] == "init"
    while (name := events.next()[0]) != "over":
        assert name == "snapshot"
    with pytest.raises(EOFError):
        events.next()
    events.close()


def test_a_mounted_page_does_not_hold_a_server_up(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is told of no end, and waits without a bound for what is open."""
    monkeypatch.setattr(stream, "LIFE_S", 0.5)
    bus.topics()
    page = WebApp(bus)
    app = Starlette(routes=[Mount("/bus", page)])
    with served(app, page, timeout_graceful_shutdown=None) as port:
        events = Events(port, "/bus/sse")
        events.next()
    events.close()
