"""The app on a real server over a real bus: the paths of the original, their envelopes, ids, pages, absence."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventbus_mp import BusConfig, Event, EventBus
from eventbus_mp.addons.web import WebApp
from tests.addons.web.serving import Answer, ask, served

HOSTILE = "<img src=x onerror=alert(1)>"
MANY_TOPICS = 300


@contextlib.contextmanager
def shown(bus: EventBus | str, **options: Any) -> Iterator[int]:
    """The port of the page of a bus."""
    app = WebApp(bus, **options)
    with served(app, app) as port:
        yield port


def get(port: int, path: str) -> Any:
    answer = ask(port, path)
    assert answer.status == 200, answer
    return answer.json


def not_found(port: int, path: str) -> str:
    answer = ask(port, path)
    assert answer.status == 404, answer
    return str(answer.json["not_found"])


def act(port: int, body: Any, **headers: str) -> Answer:
    actions = get(port, "/api/bus")["actions"]
    given = {"Content_Type": "application/json", actions["header"]: actions["token"]} | headers
    return ask(port, "/api/actions", "POST", body=body if type(body) is bytes else json.dumps(body).encode(), **given)


def test_the_six_paths_and_their_envelopes(bus: EventBus) -> None:
    inbox = bus.inbox("audit", ["a"])
    bus.notify(Event("one", "a", {"n": 1}, transaction_id="tx", source="test"))
    inbox.get(10)
    with shown(bus) as port:
        topics = get(port, "/topics")
        assert [row["name"] for row in topics["topics"]] == ["a", "b"]
        topic = get(port, "/topics/a")["topic"]
        assert (topic["name"], topic["unsettled"], topic["notified"]) == ("a", 1, 1)
        [event] = get(port, "/topics/a/events")["events"]
        audit = {"name": "audit", "config": None, "host": None}
        assert (event["id"], event["int"], event["waiting"]) == ("one", False, [audit])
        whole = get(port, "/topics/a/events/one")["event"]
        assert (whole["data"], whole["fields"]) == ({"n": 1}, {"transaction_id": "tx", "source": "test"})
        [subscriber] = get(port, "/subscribers")["subscribers"]
        assert (subscriber["name"], subscriber["pids"], subscriber["in_flight"]) == ("audit", [os.getpid()], 1)
        assert not_found(port, "/topics/c") == "topic"
        assert not_found(port, "/topics/c/events") == "topic"
        assert not_found(port, "/topics/a/events/two") == "event"
        assert not_found(port, "/nothing") == "path"
        assert not_found(port, "/../../etc/passwd") == "path"
        assert not_found(port, "/app.py") == "path"


def test_what_else_there_is_to_ask(bus: EventBus) -> None:
    bus.inbox("audit", ["a"], credit=1)
    bus.notify_many([Event("one", "a", 1), Event("two", "a", 2)])
    with shown(bus) as port:
        now = get(port, "/api/bus")
        assert (now["bus"], now["events"]["unsettled"], now["totals"]["topics"], now["actions"]) == ("test", 2, 2, None)
        pids = {row["pid"] for row in get(port, "/api/processes")["processes"]}
        assert {os.getpid(), now["manager"]["pid"]} <= pids
        why = get(port, "/api/explain?topic=a&id=two")["deliveries"][0]
        assert (why["state"], why["position"], why["subscriber"]["name"]) == ("queued", 0, "audit")
        story = get(port, "/api/story?topic=a&id=one")["story"]
        assert [entry["kind"] for entry in story] == ["notified", "sent"]
        assert story[0]["text"] == f"notified by process {os.getpid()}"
        stuck = get(port, "/api/stuck?older_s=0&limit=1")["stuck"]
        assert [(row["id"], row["pid"]) for row in stuck] == [("one", os.getpid())]
        assert get(port, "/healthz") == {"ok": True}
        metrics = ask(port, "/metrics")
        assert b'eventbus_events_unsettled{bus="test",topic="a"} 2.0' in metrics.body
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        for wrong in ("explain?topic=a", "event?id=one", "stuck?older_s=x", "stuck?limit=501", "story?id=1"):
            assert ask(port, f"/api/{wrong}").status == 400, wrong
        assert ask(port, "/sse", "HEAD").status == 200


def test_a_text_and_an_integer_are_two_events(bus: EventBus) -> None:
    bus.inbox("audit", ["a"])
    bus.notify_many([Event(7, "a", "the integer"), Event("7", "a", "the text"), Event(1 << 60, "a", 1 << 60)])
    with shown(bus) as port:
        rows = get(port, "/topics/a/events")["events"]
        assert [(row["id"], row["int"]) for row in rows] == [("7", True), ("7", False), (str(1 << 60), True)]
        assert get(port, "/topics/a/events/7")["event"]["data"] == "the text"
        assert get(port, "/topics/a/events/7?int=1")["event"]["data"] == "the integer"
        assert get(port, f"/api/event?topic=a&id={1 << 60}&int=1")["event"]["data"]["text"] == str(1 << 60)
        for wrong in ("x", "1.5", str(1 << 63), "9" * 5_000):
            assert ask(port, f"/topics/a/events/{wrong}?int=1").status == 400


def test_topics_and_ids_of_any_text(make_bus: Callable[..., EventBus]) -> None:
    ids = ["a/b", "../../x", "%2F", "a b?c#d", HOSTILE, "größe", "7"]
    bus = make_bus(topics=[f"t/{event_id}" for event_id in ids])
    bus.inbox("audit", ["t"])
    with shown(bus) as port:
        for event_id in ids:
            topic = f"t/{event_id}"
            bus.notify(Event(event_id, topic, float("nan")))
            path = f"/topics/{quote(topic, safe='')}/events"
            assert get(port, path)["events"][0]["id"] == event_id
            event = get(port, f"{path}/{quote(event_id, safe='')}")["event"]
            assert (event["topic"], event["id"], event["data"]["text"]) == (topic, event_id, "nan")
            answer = ask(port, f"/api/event?topic={quote(topic)}&id={quote(event_id)}")
            assert answer.json["event"]["id"] == event_id
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_of_events_and_of_topics(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=[f"topic_{number:03}" for number in range(MANY_TOPICS)])
    bus.inbox("audit", ["topic_"])
    bus.notify_many(Event(number, "topic_007", number) for number in range(250))
    bus.notify_many(Event(number, "topic_299", number) for number in range(3))
    with shown(bus) as port:
        found, after = [], ""
        while after is not None:
            page = get(port, f"/topics/topic_007/events?limit=100&after={after or 0}")
            found += [int(row["id"]) for row in page["events"]]
            after = page["next"]
        assert found == list(range(250))
        page = get(port, "/topics?sort=unsettled&limit=2")
        assert [row["name"] for row in page["topics"]] == ["topic_007", "topic_299"]
        assert (page["total"], page["next"]) == (MANY_TOPICS, "2")
        assert [row["name"] for row in get(port, "/topics?match=TOPIC_29&sort=name&limit=500")["topics"]] == [
            f"topic_{number}" for number in range(290, 300)
        ]
        assert get(port, "/topics?after=299&sort=name")["topics"][0]["name"] == "topic_299"
        assert get(port, "/topics/topic_123")["topic"]["name"] == "topic_123"
        assert b'topic="topic_123"' in ask(port, "/metrics").body
        for wrong in ("limit=501", "limit=-1", "after=x", "sort=size", f"after={1 << 70}"):
            assert ask(port, f"/topics?{wrong}").status == 400, wrong


def test_a_payload_is_shown_in_part_or_not_at_all(bus: EventBus) -> None:
    bus.inbox("audit", ["a"])
    bus.notify(Event("long", "a", ["x" * 1_000] * 1_000))
    bus.notify(Event("huge", "a", "x" * (2 << 20)))
    with shown(bus) as port:
        event = get(port, "/topics/a/events/long")["event"]
        assert event["is_cut"]
        assert len(json.dumps(event)) < 20_000
        huge = get(port, "/topics/a/events/huge")["event"]
        assert (huge["data"], huge["error"]) == (None, "it is too large to be shown")
    assert bus.statistics().memory_bytes_leased == 0


def test_every_answer_has_its_headers_and_a_hostile_request_none_of_the_bus(bus: EventBus) -> None:
    bus.topics()
    with shown(bus) as port:
        for path in ("/", "/app.js", "/topics", "/nothing", "/metrics"):
            headers = ask(port, path).headers
            assert "default-src 'self'" in headers["content-security-policy"], path
            assert headers["cache-control"] == "no-store"
            assert not [name for name in headers if name.startswith("access-control")]
        refused = [
            ask(port, "/topics", host="evil.example"),
            ask(port, "/topics", host=""),
            ask(port, "/sse", host="evil.example"),
            ask(port, "/topics", Origin="http://evil.example"),
            ask(port, "/topics", Sec_Fetch_Site="cross-site"),
            ask(port, "/api/actions", "POST", body=b"{}", Content_Type="application/json"),
            ask(port, "/topics", "OPTIONS", Origin="http://127.0.0.1", Access_Control_Request_Method="POST"),
        ]
        assert [answer.status for answer in refused] == [421, 421, 421, 403, 403, 405, 405]
        assert not [answer for answer in refused if b'"a"' in answer.body]


def test_a_token_guards_everything_but_whether_it_lives(bus: EventBus) -> None:
    bus.topics()
    with shown(bus, token="s3cret") as port:
        assert [ask(port, path).status for path in ("/", "/topics", "/sse", "/metrics")] == [401] * 4
        assert ask(port, "/topics", Authorization="Bearer s3cret").status == 200
        assert ask(port, "/healthz").status == 200


def test_actions(make_bus: Callable[..., EventBus], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "eventbus_mp.web")
    bus = make_bus(topics=["a", "dead"], dead_letter_topic="dead")
    letters = bus.inbox("letters", ["dead"])
    failed = bus.inbox("worker", ["a"])
    bus.notify_many([Event(number, "a", number) for number in range(3)])
    for _ in range(3):
        failed.get(10)
    one = {"topic": "a", "id": "0", "int": True, "subscriber": "worker", "config": None}
    with shown(bus, allow_actions=True) as port:
        assert act(port, {"action": "complete", **one}).json == {"done": 1}
        assert act(port, {"action": "skip", **one, "id": "1"}).json == {"done": 1}
        [now] = [item for item in bus.snapshot().subscribers if item.name == "worker"]
        assert (now.completed, now.skip_reasons) == (1, {"settled on the page": 1})
        assert act(port, {"action": "complete", **one, "subscriber": "nobody"}).status == 409
        assert act(port, {"action": "explode", **one}).status == 400
        assert act(port, [1]).status == 400
        assert act(port, b"{").status == 400
        assert act(port, b"[" * 10_000).status == 400
        assert act(port, b" " * 20_000).status == 400
        assert act(port, {"action": "complete", **one}, Content_Type="text/plain").status == 415
        assert act(port, {"action": "complete", **one}, Sec_Fetch_Site="cross-site").status == 403
    assert [record.message for record in caplog.records if "complete" in record.message] == [
        "127.0.0.1: complete event 0 of topic 'a' for 'worker' (1)"
    ]
    letters.close()


def test_a_dead_letter_is_sent_again(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a", "dead"], dead_letter_topic="dead")
    letters = bus.inbox("letters", ["dead"])
    tries = []

    @bus.on("a", name="worker")
    def work(event: Event) -> None:
        tries.append(event.id)
        if len(tries) == 1:
            raise ValueError("once")

    bus.notify(Event("x", "a", 1))
    assert letters.get(10) is not None
    with shown(bus, allow_actions=True) as port:
        assert act(port, {"action": "redeliver", "topic": "a", "id": "x", "int": False}).json == {"done": 1}
    bus.drain("a", timeout_s=10)
    assert tries == ["x", "x"]


@pytest.mark.usefixtures("every_look_is_new")
def test_a_bus_that_is_not_there_comes_and_goes(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    with shown("test", config=BusConfig(run_dir=str(run_dir))) as port:
        assert ask(port, "/").status == 200
        absent = ask(port, "/topics")
        assert (absent.status, "no bus" in absent.json["error"] or "not running" in absent.json["error"]) == (503, True)
        assert ask(port, "/healthz").status == 503
        assert b'eventbus_up{bus="test"} 0.0' in ask(port, "/metrics").body
        for number in range(2):
            bus = make_bus(topics=[f"topic_{number}"])
            bus.topics()
            manager = bus.snapshot().manager
            assert get(port, "/api/processes")["processes"][0]["pid"] == manager.pid
            assert [row["name"] for row in get(port, "/topics")["topics"]] == [f"topic_{number}"]
            bus.shutdown()
            assert ask(port, "/healthz").status == 503


@pytest.fixture
def every_look_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_mp.addons.web.view.FRESH_S", 0)


@pytest.mark.usefixtures("every_look_is_new")
def test_a_takeover_goes_unnoticed(bus: EventBus, wait_for_end: Callable[..., None]) -> None:
    bus.inbox("audit", ["a"])
    bus.notify(Event("one", "a", 1))
    with shown(bus) as port:
        before = get(port, "/api/bus")["manager"]
        os.kill(before["pid"], signal.SIGKILL)
        wait_for_end(before["pid"])
        assert [row["id"] for row in get(port, "/topics/a/events")["events"]] == ["one"]
        now = get(port, "/api/bus")["manager"]
        assert (now["takeovers"], now["incarnation"]) == (1, before["incarnation"])


@pytest.mark.parametrize("prefix", ["/bus", "/deep/er"])
def test_under_a_prefix(bus: EventBus, prefix: str) -> None:
    bus.inbox("audit", ["a"])
    bus.notify(Event("x/y", "a", 1))
    app = WebApp(bus)
    with served(Starlette(routes=[Mount(prefix, app)]), app) as port:
        page = ask(port, f"{prefix}/")
        assert (page.status, b'src="app.js"' in page.body) == (200, True)
        assert ask(port, f"{prefix}/app.js").status == 200
        assert get(port, f"{prefix}/topics/a/events/x%2Fy")["event"]["id"] == "x/y"
        assert ask(port, prefix).headers["location"].endswith(f"{prefix}/")
    # Something in front takes the prefix off, and uvicorn is told of it or not.
    app = WebApp(bus)
    with served(app, app, root_path=prefix) as port:
        assert get(port, "/topics/a/events/x%2Fy")["event"]["id"] == "x/y"


ODD_REQUESTS = [
    ("GET /topics HTTP/1.1", "Host: localhost\r\nHost: evil.example", 400),
    ("GET http://localhost/topics HTTP/1.1", "Host: evil.example", 421),
    ("GET http://evil.example/topics HTTP/1.1", "Host: localhost", 404),
    ("GET //evil.example/topics HTTP/1.1", "Host: localhost", 404),
    ("GET /topics HTTP/1.0", "Accept: */*", 421),
    ("GET /topics HTTP/1.1", "Host: localhost\xff", 421),
    ("GET /topics HTTP/1.1", "Host: evil.example\r\nX-Forwarded-Host: localhost", 421),
    ("GET /topics HTTP/1.1", "Host: localhost\r\nOrigin: \xff", 403),
    ("GET /topics/%00/events HTTP/1.1", "Host: localhost", 400),
    ("GET /topics/%ed%a0%80 HTTP/1.1", "Host: localhost", 404),
    ("GET /api/event?topic=%ed%a0%80&id=%00 HTTP/1.1", "Host: localhost", 404),
    ("GET /..%2f..%2fapp.py HTTP/1.1", "Host: localhost", 404),
    (f"GET /topics?match={'(' * 5_000} HTTP/1.1", "Host: localhost", 200),
    ("GET * HTTP/1.1", "Host: localhost", 404),
    ("OPTIONS * HTTP/1.1", "Host: localhost", 405),
]


def test_requests_that_no_library_sends(bus: EventBus) -> None:
    bus.topics()
    with shown(bus) as port:
        for line, headers, status in ODD_REQUESTS:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(f"{line}\r\n{headers}\r\n\r\n".encode("latin-1"))
                assert int(connection.recv(1 << 16).split()[1]) == status, (line, headers)
        assert ask(port, "/healthz").status == 200


def test_bytes_that_are_no_request(bus: EventBus) -> None:
    bus.topics()
    with shown(bus) as port:
        for data in (b"\0\xff\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: \xff\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                assert b" 200 " not in connection.recv(1 << 16)
        assert ask(port, "/healthz").status == 200
