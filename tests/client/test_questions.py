"""What a handle asks about the bus: stories, the history, snapshots; with real processes."""

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, SubscriberKey, UsageError, WorkerPool
from eventbus_mp.runtime.stacks import ANSWERS

Make = Callable[..., EventBus]


def test_the_story_of_an_event(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    shadow = bus.notify(Event("1", "a", 1))
    taken = inbox.get(10)
    assert taken is not None
    inbox.complete(taken)
    bus.drain(timeout_s=10)
    story = [line.split(" ", 1)[1] for line in bus.story(shadow)]
    assert story[0] == f"notified by process {os.getpid()}"
    assert story[1] == f"sent to one, process {os.getpid()}"
    assert story[2:] == ["completed by one", "settled"]
    # Settled, and known by its id all the same.
    assert bus.story(("a", "1")) == bus.story(shadow)
    assert bus.story(("a", "2")) == bus.story(("b", "1")) == []


def test_the_history_of_the_bus(bus: EventBus) -> None:
    with bus.inbox("one", ["a"], credit=10) as inbox:
        bus.notify_many(Event(str(number), "a", number) for number in range(5))
        while (shadow := inbox.get(10)) is not None and shadow.id != "4":
            inbox.complete(shadow)
        assert shadow is not None
        inbox.skip(shadow, "no need")
    bus.drain(timeout_s=10)
    page = bus.history(topic="a", limit=2)
    assert page.counts == {"notified": 5, "sent": 5, "completed": 4, "skipped": 1, "settled": 5}
    assert [entry.kind for entry in page.entries] == ["settled", "skipped"]
    assert page.entries[1].subscriber == SubscriberKey("one")
    assert page.entries[1].topics == ("a",)
    older = [page]
    while older[-1].before is not None:
        older.append(bus.history(topic="a", limit=2, before=older[-1].before))
    entries = [entry for found in older for entry in found.entries]
    assert sorted(entries, key=lambda entry: -entry.at_ns) == entries
    assert (entries[-1].kind, entries[-1].pid) == ("notified", os.getpid())
    assert sum(entry.events for entry in entries) == sum(page.counts.values())
    assert bus.history(subscriber="one", kind="skipped").counts == {"skipped": 1}
    assert bus.history(shadow=("a", "4")).counts == {"notified": 1, "sent": 1, "skipped": 1, "settled": 1}
    assert bus.history(shadow=("a", "5")).entries == bus.history(topic="b").entries == ()
    assert len(bus.history(since_s=1000).entries) >= 5
    assert json.loads(json.dumps(page.as_dict()))["entries"][0]["kind"] == "settled"


def test_a_snapshot(bus: EventBus) -> None:
    with WorkerPool(bus, processes=1, start_method="fork") as pool:
        bus.on("a", name="quick")(lambda event: None)
        inbox = bus.inbox("slow", ["a"], credit=2)
        (worker,) = pool.pids
        bus.notify_many(Event(str(number), "a", number) for number in range(5))
        bus.notify(Event("0", "b", 0))
        assert len(inbox.get_many(2, timeout_s=10)) == 2
        while (now := bus.snapshot()).subscribers[0].completed < 5:
            bus.topics()
        roles = {process.role: process for process in now.processes}
        assert set(roles) == {"manager", "standby", "client", "worker"}
        assert (roles["worker"].pid, roles["client"].pid) == (worker, os.getpid())
        assert roles["client"].in_flight == 2
        assert all(process.command for process in now.processes)
    quick, slow = now.subscribers
    assert (quick.queued, quick.in_flight, slow.queued, slow.in_flight) == (0, 0, 3, 2)
    assert sum(quick.handling_log2_ns) == 5
    assert quick.handling_p50_s is not None
    assert quick.handling_p99_s is not None
    assert 0 < quick.handling_p50_s <= quick.handling_p99_s
    assert slow.handling_p50_s is None
    topics = {topic.name: topic for topic in now.topics}
    assert (topics["a"].notified, topics["a"].delivered, topics["a"].unsettled) == (5, 10, 5)
    assert topics["a"].bytes_unsettled == 5 * 64
    assert topics["a"].oldest_age_s is not None
    assert topics["b"].dropped == 1
    assert topics["b"].oldest_age_s is None
    assert now.manager.pid == bus.statistics().manager_pid
    assert now.manager.standby_pid
    assert now.manager.takeovers == 0
    assert 0 < now.manager.journal_bytes < now.manager.journal_bytes_max
    plain = json.loads(json.dumps(now.as_dict()))
    assert plain["version"] == 1
    assert plain["subscribers"][1]["handling_p50_s"] is None
    os.kill(now.manager.pid, signal.SIGKILL)
    after = bus.snapshot()
    assert after.manager.takeovers == 1
    assert after.manager.incarnation == now.manager.incarnation
    assert after.manager.uptime_s > now.manager.uptime_s
    assert after.topics[0].notified == 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"kind": "eaten"}, "the kinds are notified"), ({"limit": 0}, "1 to 1000"), ({"since_s": -1}, "seconds to look")],
)
def test_questions_about_history_that_have_no_answer(bus: EventBus, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        bus.history(**arguments)


def waits_for_ever(event: Event) -> None:
    import threading

    threading.Event().wait()


def test_why_an_event_is_still_here(bus: EventBus) -> None:
    with WorkerPool(bus, processes=1, start_method="fork") as pool:
        (worker,) = pool.pids
        bus.on("a", name="quick")(lambda event: None)
        bus.inbox("slow", ["a"], credit=1)
        first, second = bus.notify_many([Event("1", "a", 1), Event("2", "a", 2)])
        while not (found := bus.explain(second)) or len(found.deliveries) != 1:
            bus.topics()
        (waiting,) = found.deliveries
        assert (waiting.subscriber.name, waiting.state, waiting.position) == ("slow", "queued", 0)
        assert waiting.why == "its processes hold 1 deliveries, which is all that they may"
        assert waiting.hosts == (os.getpid(),)
        explained = bus.explain(("a", "1"))
        assert explained is not None
        (held,) = explained.deliveries
        assert (held.state, held.pid, held.attempt) == ("in_flight", os.getpid(), 1)
        assert held.held_s is not None
        assert held.command
        if ANSWERS:
            assert held.stack is not None
            assert "test_why_an_event_is_still_here" in held.stack
            assert "test_why_an_event_is_still_here" in str(explained)
        assert json.loads(json.dumps(explained.as_dict()))["deliveries"][0]["state"] == "in_flight"
        assert [(item.id, item.subscriber.name) for item in bus.stuck(0)] == [("1", "slow"), ("2", "slow")]
        assert bus.stuck(1000) == []
        assert [item.id for item in bus.stuck(0, limit=1)] == ["1"]
        assert worker not in {item.pid for item in bus.stuck(0)}
        bus.mark_as_completed("slow", first)
        settled = bus.explain(first)
        assert settled is not None
        assert settled.is_settled
        assert settled.age_s is None
        assert bus.explain(("a", "3")) is None


@pytest.mark.skipif(not ANSWERS, reason="a process of CPython 3.10 does not show its stack")
def test_a_worker_that_hangs_is_explained_by_its_stack(bus: EventBus) -> None:
    pool = WorkerPool(bus, processes=1, start_method="fork")
    pool.on("a", name="hangs")(waits_for_ever)
    with pool:
        (worker,) = pool.pids
        shadow = bus.notify(Event("1", "a", 1))
        while not (found := bus.explain(shadow)) or found.deliveries[0].state != "in_flight":
            bus.topics()
        while "waits_for_ever" not in (found.deliveries[0].stack or ""):
            found = bus.explain(shadow)
            assert found is not None
        assert found.deliveries[0].pid == worker
        os.kill(worker, signal.SIGKILL)


def test_a_process_need_not_show_its_stack(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], show_stacks=False)
    inbox = bus.inbox("one", ["a"])
    shadow = bus.notify(Event("1", "a", bytearray(100_000)))
    event = bus.fetch_event(shadow)
    assert event is not None
    view = event.data
    explained = bus.explain(shadow)
    assert explained is not None
    assert explained.deliveries[0].stack is None
    assert "its stack is unknown" in str(explained)
    taken = inbox.get(10)
    assert taken is not None
    inbox.complete(taken)
    settled = bus.explain(shadow)
    assert settled is not None
    assert [found.pid for found in settled.views] == [os.getpid()]
    assert "has had a view of its 100" in str(settled)
    del event, view


def test_what_is_stuck_of_one_topic(bus: EventBus) -> None:
    bus.inbox("all", ["a", "b"])
    bus.notify_many([Event("1", "a", 1), Event("2", "b", 2), Event(3, "a", 3)])
    assert [item.id for item in bus.stuck(0, topic="a")] == ["1", 3]
    assert [item.id for item in bus.stuck(0, topic="a", limit=1)] == ["1"]
    assert [(item.id, item.topic) for item in bus.stuck(0, topic="b")] == [("2", "b")]
    assert bus.stuck(0, topic="nowhere") == []
    assert len(bus.stuck(0)) == 3
    with pytest.raises(UsageError, match="topic"):
        bus.stuck(0, topic="")


@pytest.mark.parametrize("arguments", [{"older_than_s": -1}, {"older_than_s": "1"}, {"limit": 0}, {"limit": 1001}])
def test_what_cannot_be_stuck(bus: EventBus, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="stuck"):
        bus.stuck(**arguments)
