"""What the page asks of a journal: lists by position, one event, what was set aside, and stores that fail."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Checkpoint, Heading, Journal, Rejected, Selection, Store, open_store
from eventbus_mp.addons.web import WebApp, journal_api, journal_view
from tests.addons.journal.rows import row, rows
from tests.addons.web.serving import Answer, Events, ask, served

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """The store with its lock, as if a journal wrote."""
    with open_store(f"sqlite:///{path}", writes=True) as made:
        assert made.take_lock()
        yield made


@pytest.fixture
def port(bus: EventBus, path: Path) -> Iterator[int]:
    """That of the page of a bus and of a journal."""
    app = WebApp(bus, journal=f"sqlite:///{path}")
    with served(app, app) as made:
        yield made


def get(port: int, path: str = "", **parameters: Any) -> Any:
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())
    answer = ask(port, f"/api/journal{path}?{query}")
    assert answer.status == 200, answer
    return answer.json


def ids(page: Any) -> list[str]:
    return [event["id"] for event in page["events"]]


def test_how_a_journal_is(bus: EventBus, port: int, path: Path) -> None:
    assert "there is no journal" in get(port)["journal"]["error"]
    with Journal(bus, f"sqlite:///{path}"):
        bus.notify_many(Event(number, "a", number) for number in range(10))
        bus.notify(Event("bad", "a", None, occurred_at=1 << 70))
        bus.drain()
        while (now := get(port)["journal"])["store"] is None or now["writer"]["stored"] < 10:
            assert "writer" in now
        assert now["error"] is None
        assert (now["store"]["events"], now["store"]["is_exact"], now["store"]["url"]) == (
            10,
            True,
            f"sqlite:///{path}",
        )
        assert 0 < now["store"]["oldest_s"] <= now["store"]["newest_s"]
        assert now["store"]["bytes"] > 4_096
        writer = now["writer"]
        assert (writer["bus"], writer["subscriber"], writer["is_running"]) == ("test", "journal", True)
        assert writer["error"] is None
        [one] = get(port, "/rejected")["rejected"]
        assert (one["topic"], one["id"], "more than 64 bits" in one["reason"]) == ("a", "bad", True)
        assert b"eventbus_journal_stored_total" in ask(port, "/metrics").body


def test_pages_of_what_is_stored_the_newest_first(store: Store, port: int) -> None:
    store.append(rows(10))
    first = get(port, "/events", limit=4)
    assert ids(first) == ["9", "8", "7", "6"]
    second = get(port, "/events", limit=4, before=first["next"])
    store.append(rows(5, begin=10))  # What comes meanwhile moves nothing.
    third = get(port, "/events", limit=4, before=second["next"])
    assert (ids(second), ids(third), third["next"]) == (["5", "4", "3", "2"], ["1", "0"], None)


def test_filters(store: Store, port: int) -> None:
    store.append([row(number, "abc"[number % 3], at_s=100 + number, transaction_id=number % 2) for number in range(12)])
    store.append([row("12", "a.c", at_s=200, transaction_id="0"), row("13", HOSTILE, at_s=201)])
    assert ids(get(port, "/events", topic="a")) == ["9", "6", "3", "0"]
    assert ids(get(port, "/events", match="A")) == ["13", "12", "9", "6", "3", "0"], "as a text, and not as a pattern"
    assert ids(get(port, "/events", match=".")) == ["12"]
    assert ids(get(port, "/events", topic=HOSTILE)) == ["13"]
    assert ids(get(port, "/events", transaction="0")) == ["12"]
    assert ids(get(port, "/events", transaction=0, int=1, topic="b")) == ["10", "4"]
    assert ids(get(port, "/events", since_s=105, until_s=107.5)) == ["7", "6", "5"]
    assert ids(get(port, "/events", since_s=105, before=8)) == ["6", "5"]
    assert ids(get(port, "/events", until_s=0)) == []
    for wrong in ("limit=501", "before=x", "since_s=now", "until_s=nan", "transaction=x&int=1"):
        assert ask(port, f"/api/journal/events?{wrong}").status == 400, wrong


def test_a_search_that_finds_little_stops_and_says_where(
    store: Store, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_api, "SEARCH_S", 0.0)
    monkeypatch.setattr(journal_api, "WINDOW", 10)
    store.append([row("first", "rare", at_s=1), *rows(100, at_s=2), row("last", "rare", at_s=3)])
    found: list[str] = []
    page, steps = get(port, "/events", match="rare"), 0
    while page["next"] is not None:
        found, steps = found + ids(page), steps + 1
        assert page["searched_to_s"] >= 1
        page = get(port, "/events", match="rare", before=page["next"])
    assert (found + ids(page), steps > 2) == (["last", "first"], True)


def test_no_list_reads_data(store: Store, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(rows(3))

    def page(*_: object, **__: object) -> None:
        raise AssertionError("a list reads data")

    monkeypatch.setattr("eventbus_mp.addons.journal.sqlite.reading.ReadingStore.page", page)
    assert len(get(port, "/events")["events"]) == 3
    assert get(port)["journal"]["store"]["events"] == 3


def test_one_event(store: Store, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(
        [
            row(7, "a/b", at_s=5, data={"n": 1 << 60}, source="here", headers={"trace": "1"}),
            row("7", "a/b", data=HOSTILE),
        ]
    )
    event = get(port, "/event", position=1)["event"]
    assert (event["topic"], event["id"], event["int"], event["recorded_s"]) == ("a/b", "7", True, 5)
    assert (event["fields"], event["headers"]) == ({"source": "here"}, {"trace": "1"})
    assert event["data"]["n"]["text"] == str(1 << 60)
    assert get(port, "/event", topic="a/b", id=7, int=1)["event"] == event
    assert get(port, "/event", topic="a/b", id=7)["event"]["data"] == HOSTILE
    for nowhere in ("position=3", "position=0", "topic=a&id=7"):
        assert ask(port, f"/api/journal/event?{nowhere}").json["not_found"] == "event"
    assert ask(port, "/api/journal/event").status == 400
    monkeypatch.setattr(journal_api, "PREVIEWED_BYTES_MAX", 10)
    large = get(port, "/event", position=2)["event"]
    assert (large["data"], large["error"]) == (None, "it is too large to be shown")


def test_data_of_another_version_is_said_to_be(store: Store, port: int) -> None:
    store.append([row("1")._replace(format=99)])
    assert "format" in get(port, "/event", position=1)["event"]["error"]


def test_what_is_set_aside_and_replays(store: Store, port: int) -> None:
    one = Rejected("a", 0, "", b"data", b"buffer", 1, 5_000_000_000)
    store.append([], [one._replace(id=number, reason=f"reason {number}") for number in range(3)])
    store.save_checkpoint(Checkpoint("friday", "staging", 5, 10, 7_000_000_000))
    first = get(port, "/rejected", limit=2)
    assert [(one["id"], one["int"], one["bytes"], one["recorded_s"]) for one in first["rejected"]] == [
        ("0", True, 10, 5),
        ("1", True, 10, 5),
    ]
    assert [one["reason"] for one in get(port, "/rejected", limit=2, after=first["next"])["rejected"]] == ["reason 2"]
    [checkpoint] = get(port)["journal"]["checkpoints"]
    assert checkpoint == {
        "name": "friday",
        "target": "staging",
        "next_position": "5",
        "until_position": "10",
        "updated_s": 7,
        "has_ended": False,
    }


def test_more_than_are_counted(store: Store, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_api, "COUNTED_MAX", 5)
    store.append(rows(10))
    store.delete("order", "4")
    assert [get(port)["journal"]["store"][name] for name in ("events", "is_exact")] == [10, False]


def test_a_journal_in_postgresql(bus: EventBus, postgresql_url: str) -> None:
    app = WebApp(bus, journal=postgresql_url)
    with served(app, app) as port, Journal(bus, postgresql_url):
        bus.notify_many(Event(n, "ab"[n % 2], n, transaction_id=f"tx-{n % 3}") for n in range(9))
        bus.notify(Event("bad", "a", None, occurred_at=1 << 70))
        bus.drain()
        first = get(port, "/events", limit=5)
        assert ids(first) == ["8", "7", "6", "5", "4"]
        assert ids(get(port, "/events", limit=5, before=first["next"])) == ["3", "2", "1", "0"]
        assert ids(get(port, "/events", match="A", transaction="tx-0", since_s=1)) == ["6", "0"]
        assert get(port, "/event", position=first["events"][0]["position"])["event"]["data"] == 8
        assert [one["id"] for one in get(port, "/rejected")["rejected"]] == ["bad"]
        while (now := get(port)["journal"])["writer"]["stored"] < 9:
            assert now["error"] is None
        assert (now["store"]["events"], now["store"]["bytes"] > 0, now["writer"]["error"]) == (9, True, None)
        assert b'eventbus_journal_stored_total{bus="test",journal="journal"} 9.0' in ask(port, "/metrics").body
    app = WebApp(bus, journal="postgresql://shop:secret@127.0.0.1:1/nothing")
    with served(app, app) as port:
        error = failed(port).json["error"]
        assert ask(port, "/api/bus").status == 200
    assert "secret" not in error


# --- what goes wrong ---


def failed(port: int) -> Answer:
    answer = ask(port, "/api/journal/events")
    assert answer.status == 503, answer
    return answer


def test_a_page_that_is_told_of_no_journal(bus: EventBus) -> None:
    app = WebApp(bus)
    with served(app, app) as port:
        assert ask(port, "/api/journal").status == 404
        stream = Events(port)
        assert stream.next()[1]["has_journal"] is False
        stream.close()


def test_a_store_that_is_damaged_or_gone_leaves_the_rest_of_the_page(port: int, path: Path, bus: EventBus) -> None:
    bus.topics()
    assert "there is no journal" in failed(port).json["error"]
    path.write_bytes(b"no database at all, but of some length" * 100)
    assert "damaged" in failed(port).json["error"]
    assert "damaged" in get(port)["journal"]["error"]
    assert ask(port, "/api/bus").status == 200
    stream = Events(port)
    assert stream.next()[1]["has_journal"] is True
    stream.close()


def test_a_store_that_is_replaced_is_seen_as_it_is_now(port: int, path: Path) -> None:
    for number in range(2):
        with open_store(f"sqlite:///{path}", writes=True) as store:
            store.take_lock()
            store.append([row(number)])
        assert ids(get(port, "/events")) == [str(number)]
        for file in path.parent.glob("shop.db*"):
            file.unlink()


def test_a_store_that_hangs_holds_up_nobody(
    store: Store, port: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(rows(1))
    monkeypatch.setattr(journal_view, "ANSWER_S", 0.2)
    with sqlite3.connect(f"file:{path}.replays", uri=True, isolation_level=None) as other:
        store.save_checkpoint(Checkpoint("friday", "staging", 1))
        other.execute("BEGIN EXCLUSIVE")  # Who lists checkpoints waits for this.
        assert "has not answered within" in get(port)["journal"]["error"]
        for _ in range(3):
            assert "has not answered within" in failed(port).json["error"]
        assert ask(port, "/app.js").status == 200
        assert ask(port, "/metrics").status == 200
        other.execute("ROLLBACK")
    other.close()
    while ask(port, "/api/journal/events").status == 503:
        assert ask(port, "/healthz").status == 200
    assert ids(get(port, "/events")) == ["0"]


def test_a_journal_is_shown_without_its_bus(make_bus: Callable[..., EventBus], path: Path, store: Store) -> None:
    store.append(rows(1))
    app = WebApp("nobody", journal=f"sqlite:///{path}", config=make_bus().config)
    with served(app, app) as port:
        assert ask(port, "/healthz").status == 503
        assert ids(get(port, "/events")) == ["0"]


def test_a_search_costs_the_same_wherever_it_is(store: Store) -> None:
    """As the number of entries that are looked at."""
    for begin in range(0, 20_000, 1_000):
        store.append(rows(1_000, begin=begin))
    looked: list[int] = []

    class Counted:
        position_at, last_position = store.position_at, store.last_position

        def headings(self, selection: Selection, limit: int, *, newest_first: bool) -> list[Heading]:
            found = store.headings(selection, limit, newest_first=newest_first)
            looked.append(len(found))
            return found

    for before in (20_000, 10_000, 500):
        looked.clear()
        found, following = journal_api._newest(Counted(), Selection(before=before), 50)  # type: ignore[arg-type]
        assert (len(found), following, looked) == (50, before - 50, [50])
