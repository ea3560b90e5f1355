"""A handle comes back when its bus was lost: with its topics, its subscribers and its inboxes."""

import ctypes
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, Instrument, LostBus, ManagerLost, SubscriberKey, WorkerPool
from eventbus_mp.runtime.rundir import RunDir
from tests.helpers import until

Make = Callable[..., EventBus]
KillBus = Callable[[], None]


def test_listeners_come_back_by_themselves(make_bus: Make, kill_bus: KillBus, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody calls the bus in their process: the thread that ran them notices, and starts the bus again."""
    bus = make_bus(topics=["a", "b"])
    got: SimpleQueue[tuple[str, str]] = SimpleQueue()
    lost: list[LostBus] = []
    bus.on_lost(lost.append)
    bus.on("a", name="one")(lambda event: got.put(("one", event.id)))
    bus.on("a", name="all", broadcast=True)(lambda event: got.put(("all", event.id)))
    key = bus.subscribe(lambda shadow: got.put(("listener", shadow.id)), ["b"])
    inbox = bus.inbox("box", ["b"])
    before = bus.statistics().manager_pid
    bus.notify(Event("held", "b", 1))
    assert got.get(timeout=10) == ("listener", "held")
    kill_bus()
    other = make_bus(topics=["a"])
    until(lambda: len(other.subscribers()) == 4)
    assert other.statistics().manager_pid != before
    assert other.topics() == ["a", "b"]
    other.notify(Event("1", "a", 1))
    assert sorted(got.get(timeout=10) for _ in range(2)) == [("all", "1"), ("one", "1")]
    shadow = other.notify(Event("2", "b", 2))
    assert got.get(timeout=10) == ("listener", "2")
    bus.mark_as_completed(key, shadow)
    taken = inbox.get(10)
    assert taken == ("b", "2")
    inbox.complete(taken)
    other.drain(timeout_s=10)
    assert [(what.name, what.was_shut_down, what.held, len(what.subscribers)) for what in lost] == [
        ("test", False, 2, 4)
    ]
    assert "is gone" in lost[0].reason
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message.split(":")[0] for record in said if "lost" in record.message] == [
        "bus 'test' was lost, with 2 deliveries that this process had and all that waited"
    ]


def test_a_process_that_only_publishes_comes_back_with_its_next_event(make_bus: Make, kill_bus: KillBus) -> None:
    bus = make_bus(topics=["a"])
    bus.inbox("one", ["a"]).close()
    bus.notify(Event("1", "a", 1))
    assert bus.connected
    kill_bus()
    other = make_bus()
    inbox = other.inbox("one", ["a"])
    bus.notify(Event("2", "a", 2))
    assert bus.connected
    assert inbox.get(10) == ("a", "2")
    assert inbox.get(0) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.topics(),
        lambda bus: bus.notify_many([Event("1", "a", 1)]),
        lambda bus: bus.fetch_event(("a", "1")),
        lambda bus: bus.statistics(),
        lambda bus: bus.snapshot(),
        lambda bus: bus.register_topic("c"),
        lambda bus: bus.on("a")(print),
        lambda bus: bus.inbox("two", ["a"]),
        lambda bus: bus.drain(),
        lambda bus: bus.notify_and_wait(Event("1", "a", 1)),
        lambda bus: bus.unsubscribe("two"),
        lambda bus: bus.watchers("a"),
        lambda bus: bus.stuck(),
        lambda bus: bus.dead_letters(),
    ],
)
def test_the_first_call_after_a_loss(make_bus: Make, kill_bus: KillBus, call: Callable[[EventBus], object]) -> None:
    """It works, or raises for what it waits for; the next one works."""
    bus = make_bus(topics=["a"])
    bus.topics()
    kill_bus()
    try:
        call(bus)
    except ManagerLost:
        call(bus)
    assert "a" in bus.topics()


def test_a_loop_over_an_inbox_goes_on(make_bus: Make, kill_bus: KillBus) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"])
    got: SimpleQueue[str] = SimpleQueue()

    def work() -> None:
        for shadow in inbox:
            got.put(shadow.id)
            inbox.complete(shadow)

    thread = threading.Thread(target=work)
    thread.start()
    bus.notify(Event("1", "a", 1))
    assert got.get(timeout=10) == "1"
    for number in range(2, 5):
        kill_bus()
        other = make_bus()
        until(other.subscribers)
        other.notify(Event(str(number), "a", number))
        assert got.get(timeout=10) == str(number)
    inbox.close()
    thread.join()


def test_what_was_taken_from_a_lost_bus_can_be_settled(make_bus: Make, kill_bus: KillBus) -> None:
    """It changes nothing, and does not end the loop that does it."""
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([Event(str(n), "a", n) for n in range(5)])
    first, second, third, fourth, fifth = inbox.get_many(5, 10)
    data = bus.fetch_event(fourth)
    kill_bus()
    inbox.complete(first)
    inbox.skip(second, "why")
    inbox.release(third)
    inbox.complete_many([fourth])
    bus.mark_as_completed(inbox, fifth)
    assert bus.fetch_event(fifth) is None
    assert data is not None
    assert data.data == 3
    bus.notify(Event("6", "a", 6))
    assert inbox.get(10) == ("a", "6")


def test_a_descriptor_of_an_inbox_stays(make_bus: Make, kill_bus: KillBus) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"])
    fd = inbox.fileno()
    kill_bus()
    other = make_bus()
    until(other.subscribers)
    until(lambda: inbox.get(0) is None and not select.select([fd], [], [], 0)[0])  # It was readable at the loss.
    other.notify(Event("1", "a", 1))
    assert select.select([fd], [], [], 10)[0] == [fd]
    assert inbox.fileno() == fd
    assert inbox.get(10) == ("a", "1")


def test_the_hook_may_publish_again_what_was_lost(
    make_bus: Make, kill_bus: KillBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(topics=["a"])
    got: SimpleQueue[str] = SimpleQueue()
    bus.on("a", name="one")(lambda event: got.put(event.id))

    @bus.on_lost
    def fails(lost: LostBus) -> None:
        raise ValueError("of the user's")

    @bus.on_lost
    def publish(lost: LostBus) -> None:
        bus.notify(Event("again", "a", lost.held))

    kill_bus()
    assert got.get(timeout=20) == "again"
    assert [record.exc_text for record in caplog.records if "fails" in record.message]


class Gate(Instrument):
    """Runs something when the first subscriber is subscribed again."""

    def __init__(self) -> None:
        self.then: Callable[[], object] | None = None

    def before_subscribe(self, subscriber: SubscriberKey, patterns: Sequence[str]) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()


def test_another_thread_publishes_when_all_is_subscribed_again(make_bus: Make, kill_bus: KillBus) -> None:
    """What it publishes reaches the handlers of its own handle, which are subscribed again just then."""
    gate = Gate()
    bus = make_bus(topics=["a"], instruments=[gate])
    got: SimpleQueue[Any] = SimpleQueue()
    bus.on("a", name="one")(lambda event: got.put(event.id))
    bus.on("a", name="two")(lambda event: got.put(event.id))
    threads: list[threading.Thread] = []

    def publish_elsewhere() -> None:
        threads.append(threading.Thread(target=bus.notify, args=(Event("1", "a", 1),)))
        threads[0].start()
        threads[0].join(0.2)  # As it was, it was done by then.
        assert threads[0].is_alive()

    gate.then = publish_elsewhere
    kill_bus()
    assert sorted(got.get(timeout=30) for _ in range(2)) == ["1", "1"]
    threads[0].join()
    bus.drain(timeout_s=30)


def test_a_handle_that_does_not_come_back(make_bus: Make, kill_bus: KillBus) -> None:
    bus = make_bus(topics=["a"], reconnect=False)
    lost: SimpleQueue[LostBus] = SimpleQueue()
    bus.on_lost(lost.put)
    bus.on("a")(print)
    kill_bus()
    assert not lost.get(timeout=10).was_shut_down
    for _ in range(2):
        with pytest.raises(ManagerLost, match="is gone"):
            bus.notify(Event("1", "a", 1))
    assert not bus.connected
    assert lost.empty()


def test_after_a_shutdown_it_waits_until_somebody_starts_the_bus(make_bus: Make, run_dir: Any) -> None:
    bus = make_bus(topics=["a"])
    got: SimpleQueue[str] = SimpleQueue()
    lost: SimpleQueue[LostBus] = SimpleQueue()
    bus.on("a", name="one")(lambda event: got.put(event.id))
    bus.on_lost(lost.put)
    make_bus().shutdown()
    assert lost.get(timeout=10).was_shut_down
    with pytest.raises(ManagerLost, match=r"shuts the bus down|is gone"):
        bus.topics()
    assert not RunDir(run_dir, "test").path.exists()
    other = make_bus(topics=["a"])
    until(other.subscribers)
    other.notify(Event("1", "a", 1))
    assert got.get(timeout=10) == "1"


def test_a_handle_that_is_closed_while_it_is_away(make_bus: Make) -> None:
    bus = make_bus(topics=["a"])
    bus.on("a")(print)
    make_bus().shutdown()
    until(lambda: not bus.connected)
    bus.close()
    with pytest.raises(BusClosed):
        bus.topics()
    assert not [thread for thread in threading.enumerate() if thread.name == "eventbus_mp-test"]


def test_a_handler_that_runs_while_the_bus_is_lost_is_not_joined_by_another(make_bus: Make, kill_bus: KillBus) -> None:
    """The next listener thread waits for the one before, in which a handler still runs."""
    bus = make_bus(topics=["a"])
    go_on, steps = threading.Event(), SimpleQueue()  # type: ignore[var-annotated]

    @bus.on("a", name="one")
    def work(event: Event) -> None:
        steps.put(("begins", event.id))
        if event.id == "1":
            go_on.wait(30)
        steps.put(("ends", event.id))

    bus.notify(Event("1", "a", 1))
    assert steps.get(timeout=10) == ("begins", "1")
    kill_bus()
    bus.notify(Event("2", "a", 2))
    bus.topics()
    assert steps.empty()
    go_on.set()
    assert [steps.get(timeout=10) for _ in range(3)] == [("ends", "1"), ("begins", "2"), ("ends", "2")]


def test_a_pools_workers_bring_the_topics_along(make_bus: Make, kill_bus: KillBus) -> None:
    bus = make_bus(topics=["a"])
    pool = WorkerPool(bus, processes=1)
    pool.on("a", name="abs")(str)
    with pool:
        bus.close()
        kill_bus()
        other = make_bus()
        until(lambda: other.topics() == ["a"] and other.subscribers("a"), 60)
        assert other.notify_and_wait(Event("1", "a", 1), timeout_s=20).waiting == ()


def test_a_child_that_was_forked_behind_pythons_back(make_bus: Make) -> None:
    """As uWSGI forks its workers: no hook runs in them, and parent and child would share one connection."""
    bus = make_bus(topics=["a"])
    handled: SimpleQueue[int] = SimpleQueue()
    inbox = bus.inbox("box", ["a"])
    shadow = bus.notify(Event("1", "a", bytes(100_000)))
    from_child, to_parent = os.pipe()
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        said = b"failed"
        try:
            with pytest.raises(BusClosed, match="belongs to the parent process"):
                inbox.get(0)
            bus.notify(Event("2", "a", os.getpid()))
            said = str(bus.statistics().links).encode()
            bus.close()
        finally:
            os.write(to_parent, said)
            os._exit(0)
    os.close(to_parent)
    with open(from_child, "rb") as pipe:
        assert pipe.read() == b"2"
    os.waitpid(pid, 0)
    assert inbox.get(10) == shadow
    second = inbox.get(10)
    assert second is not None
    assert bus.fetch_event_data(second) == pid
    assert handled.empty()
    assert bus.connected


def test_such_a_child_that_never_uses_the_bus_ends_without_a_word(make_bus: Make) -> None:
    bus = make_bus(topics=["a"])
    bus.on("a", name="one")(lambda event: None)
    bus.topics()
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        from eventbus_mp import lifecycle

        lifecycle._EXIT_RUNNERS[lifecycle.ExitStage.SESSIONS]()  # What the end of the process calls.
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    assert bus.notify_and_wait(Event("1", "a", 1), timeout_s=20).waiting == ()
