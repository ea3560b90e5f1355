"""Replays: from a store into a real bus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, ManagerLost, NoSubscriber, UsageError
from eventbus_mp.addons.journal.opening import open_store
from eventbus_mp.addons.journal.pace import AsRecorded, Steady
from eventbus_mp.addons.journal.replay import Plan, Replay, Replayed
from eventbus_mp.addons.journal.retention import Pruning, Retention
from eventbus_mp.addons.journal.store import Checkpoint, Run, Selection, Store
from tests.addons.journal.conftest import OpenStore
from tests.addons.journal.rows import SECOND_NS, row, rows


def collected(bus: EventBus, *patterns: str) -> list[Event]:
    """What a subscriber of this process gets from now on."""
    found: list[Event] = []
    bus.on(*patterns, name="collector")(lambda event: found.append(event.copy()))
    return found


def run_of(bus: str, time_unit: str = "microsecond") -> Run:
    return Run(
        bus=bus,
        incarnation="x",
        time_unit=time_unit,
        subscriber="journal",
        patterns=("",),
        continues=False,
        started_ns=1,
        notified_first={},
        noted_ns=1,
    )


def test_events_come_as_they_were_in_their_order_with_a_mark(store: Store, bus: EventBus) -> None:
    data = {"a": [1, memoryview(b"raw")], "b": b"x" * 5000}
    store.append([row(7, data=data, transaction_id=5, source="here", headers={"trace": "é"}), row("7", "other")])
    found = collected(bus, "")
    done = Replay(store, bus).run()
    bus.drain()
    assert (done.published, done.dropped, done.is_complete) == (2, 0, True)
    assert [(event.topic, event.id) for event in found] == [("order", 7), ("other", "7")]
    first = found[0]
    assert (first.transaction_id, first.source) == (5, "here")
    assert first.data["b"] == data["b"]
    assert bytes(first.data["a"][1]) == b"raw"
    positions = [entry.position for entry in store.page(Selection(), 2)]
    assert dict(first.headers or {}) == {"trace": "é", "eventbus-replay": f"journal:{positions[0]}"}
    assert dict(found[1].headers or {}) == {"eventbus-replay": f"journal:{positions[1]}"}


def test_thousands_of_events_keep_their_order(store: Store, bus: EventBus) -> None:
    store.append(rows(5_000))
    found = collected(bus, "order")
    assert Replay(store, bus).run().published == 5_000
    bus.drain()
    assert [event.id for event in found] == [str(number) for number in range(5_000)]


def test_only_what_is_selected(store: Store, bus: EventBus) -> None:
    store.append([*rows(10), row("x", "other"), row("late", at_s=9)])
    found = collected(bus, "")
    assert Replay(store, bus, Selection(topic="order", until_ns=5 * SECOND_NS), limit=3).run().published == 3
    bus.drain()
    assert [event.id for event in found] == ["0", "1", "2"]


def test_a_topic_without_subscriber_is_refused_before_anything_is_published(store: Store, bus: EventBus) -> None:
    store.append([row("1", "heard"), row("2", "unheard")])
    found = collected(bus, "heard")
    replay = Replay(store, bus)
    assert replay.plan() == Plan({"heard": 1, "unheard": 1}, ("unheard",))
    with pytest.raises(NoSubscriber, match="'unheard'"):
        replay.run()
    bus.drain()
    assert found == []
    done = Replay(store, bus, allow_drop=True).run()
    assert (done.published, done.dropped) == (1, 1)


def test_the_bus_of_the_journal_has_to_be_meant(store: Store, bus: EventBus) -> None:
    store.append(rows(1))
    store.begin_run(run_of(bus.name))
    collected(bus, "")
    with pytest.raises(UsageError, match="into-live"):
        Replay(store, bus)
    assert Replay(store, bus, into_live=True).run().published == 1


def test_another_time_unit_is_refused(store: Store, bus: EventBus) -> None:
    store.begin_run(run_of("elsewhere", "second"))
    with pytest.raises(UsageError, match="time_unit"):
        Replay(store, bus)


@pytest.mark.parametrize(("ttl", "published"), [("strip", 2), ("restart", 2), ("keep", 1)])
def test_what_becomes_of_a_ttl(ttl: Any, published: int, store: Store, bus: EventBus) -> None:
    now = time.time_ns() // 1_000
    store.append([row("over", occurred_at=5, ttl=10**9), row("not yet", occurred_at=now, ttl=10**10)])
    found = collected(bus, "")
    done = Replay(store, bus, ttl=ttl).run()
    bus.drain()
    assert (done.published, done.expired) == (published, 2 - published)
    assert len(found) == published
    if ttl == "strip":
        assert [(event.occurred_at, event.ttl) for event in found] == [(5, None), (now, None)]
    if ttl == "restart":
        assert [event.ttl for event in found] == [10**9, 10**10]
        assert all((event.occurred_at or 0) >= now for event in found)


def test_a_named_replay_goes_on_where_it_was_stopped(store: Store, bus: EventBus) -> None:
    store.append(rows(6))
    found = collected(bus, "")
    replay = Replay(store, bus, pace=Steady(20), name="again")
    at_the_third = threading.Event()

    @bus.on("order", name="stopper")
    def stop(event: Event) -> None:
        if event.id == "2":
            replay.stop()
            at_the_third.set()

    first = replay.run()
    assert not first.is_complete
    assert at_the_third.is_set()
    store.append(rows(2, begin=6))  # No part of it: it ends where it ended when it began.
    bus.drain()
    second = Replay(store, bus, name="again").run()
    bus.drain()
    assert second.is_complete
    assert [event.id for event in found] == [str(number) for number in range(6)]
    with pytest.raises(UsageError, match="has ended"):
        Replay(store, bus, name="again")


def test_a_target_that_is_killed_amid_a_replay(store: Store, bus: EventBus, kill_bus: Callable[[], None]) -> None:
    """What the bus had not delivered is gone with it; the replay goes on behind what it had published."""
    store.append(rows(300))
    found = collected(bus, "")
    replay = Replay(store, bus, pace=Steady(500), name="again")

    @bus.on("order", name="killer")
    def kill(event: Event) -> None:
        if event.id == "100":
            kill_bus()

    with pytest.raises(ManagerLost):
        replay.run()
    (checkpoint,) = store.checkpoints()
    assert (checkpoint.next_position, checkpoint.ended) == (replay.done.next_position, False)
    assert replay.done.published == replay.done.next_position - 1
    bus.topics()
    while not bus.subscribers():
        bus.drain()
    begun = len(found)
    done = Replay(store, bus, name="again").run()
    bus.drain(timeout_s=60)
    assert done.is_complete
    assert [event.id for event in found[begun:]] == [str(number) for number in range(checkpoint.next_position - 1, 300)]
    assert store.checkpoints()[0].ended


def test_pruned_amid_a_replay(store: Store, store_url: str, bus: EventBus) -> None:
    """What a named replay still needs stays; to one without a name, what was deleted was never there."""
    store.append([one._replace(recorded_ns=1) for one in rows(100)])
    found = collected(bus, "")

    @bus.on("order", name="pruner")
    def prune(event: Event) -> None:
        if event.id == "10":
            Pruning(store, Retention("1s")).step(time.time_ns())

    with open_store(store_url) as reader:
        done = Replay(reader, bus, pace=Steady(500), name="again").run()
        bus.drain(timeout_s=60)
        assert (done.published, len(found)) == (100, 100)
        assert store.count(Selection()) > 0
        Pruning(store, Retention("1s")).step(time.time_ns())
        assert store.count(Selection()) == 0
        assert Replay(reader, bus).run() == Replayed(next_position=1, is_complete=True)


def test_a_replay_has_one_target(store: Store, bus: EventBus) -> None:
    store.save_checkpoint(Checkpoint("mine", "elsewhere", 1))
    with pytest.raises(UsageError, match="'elsewhere'"):
        Replay(store, bus, name="mine")


def test_a_full_bus_is_waited_for(open_one: OpenStore, run_dir: Path) -> None:
    """The memory holds a tenth of what is replayed, and its consumer begins late."""
    store = open_one(writes=True)
    store.append([row(number, data=b"x" * 100_000) for number in range(200)])
    with EventBus("small", run_dir=str(run_dir), memory_bytes_max=2 << 20) as target:
        with target.inbox("slow", ["order"]) as inbox:
            replay = Replay(open_one(), target)
            done: list[Replayed] = []
            thread = threading.Thread(target=lambda: done.append(replay.run()))
            thread.start()
            ids: list[Any] = []
            while len(ids) < 200:
                for shadow in inbox.get_many(50, timeout_s=30):
                    ids.append(shadow.id)
                    inbox.complete(shadow)
            thread.join()
        assert (done[0].published, ids) == (200, list(range(200)))
        target.shutdown()


def test_what_the_target_cannot_take_is_left_out_and_said(
    store: Store, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.append([row("1"), row("large", data=b"x" * 5_000), row("3")])
    with EventBus("strict", run_dir=str(run_dir), event_bytes_max=2_000) as target:
        found = collected(target, "")
        done = Replay(store, target).run()
        target.drain()
        assert (done.published, done.refused, done.is_complete) == (2, 1, True)
        assert [event.id for event in found] == ["1", "3"]
        target.shutdown()
    assert "'large'" in caplog.text


def test_the_pace_of_the_recording(store: Store, bus: EventBus) -> None:
    """0.3 s lie between the first and the last one, at ten times the speed of the recording."""
    store.append([row("1", at_s=100), row("2", at_s=101), row("3", at_s=103)])
    collected(bus, "")
    began = time.monotonic()
    assert Replay(store, bus, pace=AsRecorded(10)).run().published == 3
    assert time.monotonic() - began >= 0.3


def test_a_store_that_is_only_read_is_enough(store: Store, store_url: str, bus: EventBus) -> None:
    store.append(rows(3))
    collected(bus, "")
    with open_store(store_url) as reader:
        assert Replay(reader, bus, name="by a reader").run().published == 3
        assert [item.ended for item in reader.checkpoints()] == [True]


@pytest.mark.parametrize("arguments", [{"ttl": "later"}, {"limit": -1}])
def test_arguments_that_are_wrong(arguments: dict[str, Any], store: Store, bus: EventBus) -> None:
    with pytest.raises(UsageError):
        Replay(store, bus, **arguments)
