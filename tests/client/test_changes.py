"""Following topics and subscribers: with a bus in this thread, and with processes that are killed."""

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, Change, Changes, Event, EventBus, ManagerLost, SubscriberKey, UsageError
from eventbus_mp.testing.inprocess import InProcessBus
from tests.helpers import until

Make = Callable[..., EventBus]
WAIT_S = 30


def said(changes: list[Change]) -> list[tuple[str, Any]]:
    return [(change.kind, change.topic or (change.subscriber and change.subscriber.name)) for change in changes]


def heard(changes: Changes, *wanted: tuple[str, Any]) -> list[Change]:
    """What comes until all of these have come, which is exactly these."""
    got: list[Change] = []
    while len(got) < len(wanted):
        more = changes.get(WAIT_S)
        assert more, f"only {said(got)} came"
        got += more
    assert said(got) == list(wanted)
    return got


def is_readable(changes: Changes) -> bool:
    return bool(select.select([changes.fileno()], [], [], 0)[0])


# --- in this thread ---


def test_first_comes_all_that_there_is(handle: Make) -> None:
    bus, other = handle(), handle()
    other.inbox("one", ["a"])
    changes = bus.changes()
    *_, subscribed, _ = heard(
        changes, ("topic_registered", "a"), ("topic_registered", "b"), ("subscribed", "one"), ("complete", None)
    )
    assert subscribed.subscriber == other.subscribers()[0]
    assert changes.get(0) == []


def test_then_each_change(handle: Make) -> None:
    bus, other = handle(), handle()
    changes = bus.changes()
    changes.get()
    other.register_topic("c")
    inbox = other.inbox("one", ["a"])
    bus.on("b", name="one")(print)  # Other patterns, and one process more.
    other.unregister_topic("c")
    inbox.close()  # The other one hosts it still.
    bus.unsubscribe("one")
    got = heard(
        changes,
        ("topic_registered", "c"),
        ("subscribed", "one"),
        ("subscribed", "one"),
        ("topic_unregistered", "c"),
        ("unsubscribed", "one"),
    )
    patterns = [change.subscriber.patterns for change in got if change.subscriber]
    assert patterns == [("a",), ("b",), ("b",)]
    assert got[1].subscriber
    assert got[1].subscriber.key == SubscriberKey("one")


def test_the_last_process_of_a_subscriber_and_the_next_one(world: InProcessBus, handle: Make) -> None:
    bus = handle()
    changes = bus.changes()
    worker = world.handle(("a",))
    worker.inbox("one", ["a"])
    changes.get()
    changes.get(0)
    worker.close()
    (change,) = heard(changes, ("subscribed", "one"))
    assert change.subscriber
    assert change.subscriber.pids == ()
    handle().inbox("one", ["a"])
    (change,) = heard(changes, ("subscribed", "one"))
    assert change.subscriber
    assert len(change.subscriber.pids) == 1


def test_who_is_too_far_behind_begins_anew(world: InProcessBus, handle: Make) -> None:
    world.core.state.changes.kept_max = 3
    bus = handle()
    changes = bus.changes()
    heard(changes, ("topic_registered", "a"), ("topic_registered", "b"), ("complete", None))
    bus.topics()
    for name in "cdefgh":
        bus.register_topic(name)
    heard(changes, ("topic_registered", "c"))  # It had asked already.
    anew = [("reset", None), *(("topic_registered", name) for name in "abcdefgh"), ("complete", None)]
    heard(changes, *anew)


def test_two_that_follow_each_hear_everything(handle: Make) -> None:
    bus = handle()
    first, second = bus.changes(), bus.changes()
    first.get(), second.get()
    bus.register_topic("c")
    heard(first, ("topic_registered", "c"))
    bus.register_topic("d")
    heard(first, ("topic_registered", "d"))
    heard(second, ("topic_registered", "c"), ("topic_registered", "d"))


def test_nothing_is_kept_when_nobody_follows(world: InProcessBus, handle: Make) -> None:
    bus = handle()
    with bus.changes() as changes:
        changes.get()
    bus.register_topic("c")
    assert not world.core.state.changes.followers
    assert not world.core.state.changes.recent
    with pytest.raises(BusClosed, match="these changes were closed"):
        changes.get()
    with pytest.raises(BusClosed):
        changes.fileno()
    changes.close()


def test_a_handle_that_is_closed_ends_it(world: InProcessBus, handle: Make) -> None:
    bus = handle()
    changes = bus.changes()
    bus.close()
    with pytest.raises(BusClosed):
        changes.get()
    assert list(changes) == []
    changes.close()


def test_the_time_to_wait_is_checked(handle: Make) -> None:
    with pytest.raises(UsageError, match="soon"):
        handle().changes().get("soon")  # type: ignore[arg-type]


def test_the_life_of_a_bus_is_that_of_its_snapshot(handle: Make) -> None:
    bus, other = handle(), handle()
    assert bus.life == other.life == bus.snapshot().manager.incarnation


# --- processes ---


def test_a_process_that_is_killed_is_a_change(make_bus: Make, fork: Any) -> None:
    bus = make_bus(topics=["a"])
    changes = bus.changes()
    heard(changes, ("topic_registered", "a"), ("complete", None))

    def host(child: Any) -> None:
        make_bus().inbox("one", ["a"])
        child.send("ready")
        signal.pause()

    child = fork(host)
    assert child.hear() == "ready"
    (change,) = heard(changes, ("subscribed", "one"))
    assert change.subscriber
    assert change.subscriber.pids == (child.pid,)
    os.kill(child.pid, signal.SIGKILL)
    (change,) = heard(changes, ("subscribed", "one"))
    assert change.subscriber
    assert change.subscriber.pids == ()


def test_the_descriptor_is_readable_when_there_is_something(make_bus: Make) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    changes = bus.changes()
    assert select.select([changes.fileno()], [], [], WAIT_S)[0]
    changes.get()
    assert not is_readable(changes)
    other.register_topic("b")
    assert select.select([changes.fileno()], [], [], WAIT_S)[0]
    heard(changes, ("topic_registered", "b"))
    assert not is_readable(changes)
    bus.close()
    assert select.select([changes.fileno()], [], [], WAIT_S)[0]
    with pytest.raises(BusClosed):
        changes.get()
    changes.close()


def test_a_thread_that_waits_hears_of_a_close(make_bus: Make) -> None:
    bus = make_bus()
    changes = bus.changes()
    got: list[list[Change]] = []
    waiting = threading.Thread(target=lambda: got.append(list(changes)))
    waiting.start()
    bus.register_topic("a")
    until(lambda: bus.topic_exists("a"))
    changes.close()
    waiting.join(WAIT_S)
    assert len(got) == 1


@pytest.mark.parametrize("watches", [False, True])
def test_after_the_loss_of_the_bus_it_begins_anew(make_bus: Make, kill_bus: Callable[[], None], watches: bool) -> None:
    bus = make_bus(topics=["a"])
    changes, life = bus.changes(), bus.life
    inbox = bus.inbox("one", ["a"])
    changes.get(WAIT_S)
    if watches:
        changes.fileno()
    kill_bus()
    if watches:
        assert select.select([changes.fileno()], [], [], WAIT_S)[0]
    got: list[Change] = []
    while ("complete", None) not in said(got):
        got += changes.get(WAIT_S)
    assert got[-1].kind == "complete" or got[-1].subscriber
    first = said(got).index(("reset", None))
    assert ("topic_registered", "a") in said(got[first:])
    assert bus.life != life
    inbox.close()
    while ("unsubscribed", "one") not in said(got):
        got += changes.get(WAIT_S)


def test_who_does_not_come_back_hears_of_the_loss(make_bus: Make, kill_bus: Callable[[], None]) -> None:
    bus = make_bus(topics=["a"], reconnect=False)
    changes = bus.changes()
    changes.fileno()
    changes.get(WAIT_S)
    kill_bus()
    assert select.select([changes.fileno()], [], [], WAIT_S)[0]
    with pytest.raises(ManagerLost):
        changes.get(WAIT_S)
    changes.close()


def test_a_takeover_changes_neither_the_life_nor_what_is_heard(make_bus: Make) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    changes, life = bus.changes(), bus.life
    changes.get(WAIT_S)
    os.kill(bus.statistics().manager_pid, signal.SIGKILL)
    other.register_topic("b")
    heard(changes, ("topic_registered", "b"))
    assert bus.life == other.life == life == bus.snapshot().manager.incarnation
    assert bus.snapshot().manager.takeovers == 1


def test_a_handle_that_only_looks_follows_as_well(make_bus: Make, run_dir: Any) -> None:
    bus = make_bus(topics=["a"])
    bus.topics()
    with EventBus.attach("test", run_dir=str(run_dir)) as observer:
        changes = observer.changes()
        heard(changes, ("topic_registered", "a"), ("complete", None))
        bus.inbox("one", ["a"])
        heard(changes, ("subscribed", "one"))
        assert observer.life == bus.life
        bus.notify(Event("1", "a", 1))
