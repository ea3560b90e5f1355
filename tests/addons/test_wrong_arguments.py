"""What the public names of the addons say of arguments of any kind: nothing, or an error of the bus's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus, EventBusError, UsageError
from eventbus_mp.addons.journal import (
    AsRecorded,
    Journal,
    Replay,
    Selection,
    Steady,
    Store,
    default_url,
    open_store,
)
from eventbus_mp.addons.logger import DeliveryLogger, EventLogger
from eventbus_mp.addons.metrics import BusCollector, Hits
from eventbus_mp.addons.otel import context_of, instrument, uninstrument
from eventbus_mp.addons.web import WebApp

BAD: list[Any] = [
    *(None, True, 5, -1, 10**30, -(10**30), 1.5, math.nan, math.inf, object(), len),
    *("", "x", "(", "a{99999999999}", "\0", "\ud800", "9" * 400, b"x"),
    *([], [5], [None], ["("], {}, {"a": 5}, {"(": 1}, {5: 5}, (("a", "b"),)),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", writes=True) as store:
        store.take_lock()
        yield store


def called(kind: Any, given: dict[str, Any], name: str, bad: Any) -> object:
    return kind(**{**given, name: bad})


def counted(store: Store, name: str, bad: Any) -> int:
    return store.count(Selection(**{name: bad}))


def calls(bus: EventBus, store: Store) -> Iterator[tuple[str, Callable[[Any], object]]]:
    """(what is called with a bad value, that call)."""
    kinds: list[tuple[Any, dict[str, Any], str]] = [
        (Journal, {"bus": bus, "url": store.url}, "bus url patterns name keep keep_topics own_ttl batch_events"),
        (Journal, {"bus": bus, "on_outage": "spool"}, "batch_bytes batch_within_s on_outage spool"),
        (Replay, {"store": store, "bus": bus}, "store bus selection limit pace ttl name into_live allow_drop"),
        (Selection, {}, "topic transaction_id after before since_ns until_ns"),
        (store.page, {"selection": Selection(), "limit": 1}, "limit"),
        (store.find, {"topic": "a", "id": 1}, "topic id"),
        (store.delete, {"topic": "a", "id": 1}, "topic id"),
        (store.rejected, {}, "limit"),
        (store.drop_checkpoint, {}, "name"),
        (open_store, {}, "url"),
        (default_url, {}, "bus"),
        (AsRecorded, {}, "speed"),
        (Steady, {}, "rate"),
        (EventLogger, {"bus": bus}, "bus topics level light enabled levels logger json redact sample per_second"),
        (EventLogger, {"bus": bus}, "bytes_max name broadcast patience_s"),
        (DeliveryLogger, {}, "level topics logger json patience_s"),
        (WebApp, {"bus": "test"}, "bus hosts token allow_actions journal config"),
        (instrument, {"bus": EventBus("another")}, "bus parent create_spans settle_spans exclude"),
        (uninstrument, {}, "bus"),
        (context_of, {}, "event"),
        (Hits, {}, "bus"),
        (Hits(bus).of, {}, "topic"),
        (Hits(bus).reset, {}, "topic"),
    ]
    for kind, given, names in kinds:
        for name in names.split():
            yield f"{kind.__name__}({name}=", partial(called, kind, given, name)
    yield "BusCollector(", BusCollector
    yield "BusCollector(config=", lambda bad: BusCollector("test", config=bad)
    yield "BusCollector(journals=", lambda bad: list(BusCollector("test", journals=bad).collect())
    for name in ("topic", "transaction_id", "after", "before", "since_ns", "until_ns"):
        yield f"count(Selection({name}=", partial(counted, store, name)


def test_no_argument_raises_what_is_not_ours(bus: EventBus, store: Store) -> None:
    bus.topics()
    wrong = []
    for what, call in calls(bus, store):
        for bad in BAD:
            try:
                call(bad)
            except EventBusError:
                pass
            except Exception as error:
                wrong.append(f"{what}{bad!r:.40}) raises {error!r}")
    assert wrong == []


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (partial(Journal, None), "bus=None is a NoneType; give an EventBus"),
        (partial(open_store, 5), "url=5 is not a text of one character or more"),
        (partial(Steady, 0), "rate=0 is not a number above 0"),
        (partial(Selection, after="1"), "after='1' is not a whole number of 64 bits, 0 or more"),
        (partial(BusCollector, 5), "bus=5 is a int; give the name of a bus, or a handle of it"),
        (partial(WebApp, "test", hosts="localhost"), r"hosts='localhost': give a list of texts; \[text\] for one"),
        (partial(DeliveryLogger, topics=["("]), r"topics: pattern '\(' is not a regular expression"),
    ],
)
def test_the_text_says_what_is_wrong(call: Callable[[], object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        call()


def test_a_path_with_a_percent_sign_is_that_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "100%41"))
    with open_store(default_url("shop"), writes=True) as store:
        assert store.take_lock()
        assert (tmp_path / "100%41" / "eventbus-mp" / "shop.db").is_file()
        with open_store(store.url) as again:
            assert again.url == store.url
