"""Signal handlers that call the bus: it works, or it is refused; it never waits for itself."""

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, UsageError
from eventbus_mp.client import publisher
from eventbus_mp.client.session import Session
from eventbus_mp.client.transport import PipeTransport
from eventbus_mp.locking import LeaderFollowers

Make = Callable[..., EventBus]
Fork = Callable[..., Any]
EVENTS = 10_000


def transport_of(bus: EventBus) -> PipeTransport:
    """The pipes of a handle that is connected."""
    transport = bus._live().connection.transport
    assert isinstance(transport, PipeTransport)
    return transport


@pytest.mark.parametrize("batch", [1, 5])
def test_a_handler_that_publishes_in_the_middle_of_publishing(bus: EventBus, fork: Fork, batch: int) -> None:
    got: list[str] = []
    bus.on("a|b", name="counter")(lambda event: got.append(event.topic))

    def work(to_parent: Any) -> None:
        sent, refusals = [], []

        def publish(*_: Any) -> None:
            try:
                bus.notify(Event("1", "b", 1))
                sent.append(1)
            except UsageError as error:
                refusals.append(str(error))

        bus.notify(Event("0", "b", 0))  # Its number is known from now on.
        signal.signal(signal.SIGALRM, publish)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for number in range(0, EVENTS, batch):
            if batch == 1:
                bus.notify(Event(str(number), "a", number))
            else:
                bus.notify_many(Event(str(number + n), "a", number + n) for n in range(batch))
        signal.setitimer(signal.ITIMER_REAL, 0)
        bus.drain(timeout_s=30)
        to_parent.send((len(sent), refusals))

    child = fork(work)
    sent, refusals = child.hear(60)
    assert child.wait() == 0
    bus.drain(timeout_s=20)
    assert got.count("a") == EVENTS
    assert got.count("b") == sent + 1
    assert sent
    assert sent + len(refusals) > 10
    assert all("in the middle of another of its calls in this thread" in text for text in refusals)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(") ")[2][0]


def test_a_handler_closes_the_bus_that_its_thread_waits_for(bus: EventBus, fork: Fork) -> None:
    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"])
        signal.signal(signal.SIGUSR1, lambda *_: bus.close())
        taken = []
        for shadow in inbox:
            inbox.complete(shadow)
            taken.append(shadow.id)
            to_parent.send(taken)
        with pytest.raises(BusClosed):
            bus.topics()
        to_parent.send("ended")

    child = fork(work)
    while not bus.subscribers():
        bus.topics()
    bus.notify(Event("1", "a", 1))
    assert child.hear() == ["1"]
    os.kill(child.pid, signal.SIGUSR1)
    assert child.hear() == "ended"
    assert child.wait() == 0


def test_what_a_handler_may_do_while_its_thread_waits(bus: EventBus, fork: Fork) -> None:
    """It may publish what needs no answer; what does would wait for the thread that it interrupts."""
    listener = bus.inbox("listener", ["b"])

    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"])
        bus.notify(Event("0", "b", 0))
        refused = []

        def publish(*_: Any) -> None:
            with pytest.raises(UsageError, match="would wait for itself") as caught:
                bus.topics()
            refused.append(str(caught.value))
            bus.notify(Event("1", "b", 1))

        signal.signal(signal.SIGUSR1, publish)
        to_parent.send("waiting")
        shadow = inbox.get(30)
        assert shadow is not None
        to_parent.send((shadow.id, len(refused)))

    child = fork(work)
    assert child.hear() == "waiting"
    shadow = listener.get(20)
    assert shadow is not None
    listener.complete(shadow)
    while _state(child.pid) != "S":
        bus.topics()
    os.kill(child.pid, signal.SIGUSR1)
    second = listener.get(20)
    assert second is not None
    assert second.id == "1"
    listener.complete(second)
    bus.notify(Event("9", "a", 9))
    assert child.hear() == ("9", 1)
    assert child.wait() == 0


class Alarm(Exception):
    """What a handler raises."""


def alarm(*_: Any) -> None:
    raise Alarm


@pytest.mark.parametrize("refused", [True, False], ids=["refused by us", "raised by the user"])
def test_a_long_write_that_is_interrupted_goes_on(bus: EventBus, fork: Fork, refused: bool) -> None:
    """The manager is stopped and the pipe full; the handler's error leaves the write with half a record written."""

    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"], credit=1_000)
        bus.notify(Event("first", "a", 0))  # The topic's number is known from now on, and there is memory.
        shadow = inbox.get(20)
        assert shadow is not None
        inbox.complete(shadow)
        events = [Event(str(number), "a", number) for number in range(9_000)]
        manager, pipe = bus.statistics().manager_pid, select.poll()
        pipe.register(transport_of(bus)._outgoing, select.POLLOUT)

        def interrupt(*_: Any) -> None:
            try:
                if refused:
                    bus.notify(Event("h", "a", 0))
                raise Alarm
            finally:
                os.kill(manager, signal.SIGCONT)

        def interrupt_when_the_pipe_is_full() -> None:
            while pipe.poll(0) or _state(os.getpid()) != "S":
                os.sched_yield()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)  # type: ignore[arg-type]

        signal.signal(signal.SIGALRM, interrupt)
        os.kill(manager, signal.SIGSTOP)
        threading.Thread(target=interrupt_when_the_pipe_is_full).start()
        with pytest.raises(UsageError if refused else Alarm):
            bus.notify_many(events)
        bus.notify(Event("last", "a", 0))
        found = []
        while "last" not in found:
            shadow = inbox.get(20)
            assert shadow is not None
            found.append(shadow.id)
            inbox.complete(shadow)
        to_parent.send(found)

    child = fork(work)
    assert child.hear(60) == [*map(str, range(9_000)), "last"]
    assert child.wait() == 0


def test_handlers_that_raise_at_any_moment(bus: EventBus, fork: Fork) -> None:
    """The interrupted process can go on, and close, which gives what was just arriving back to the bus."""

    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"], credit=50)
        to_parent.send("ready")
        signal.signal(signal.SIGALRM, alarm)
        alarms, taken = 0, set()

        def take() -> None:  # From CPython 3.12 on, a loop's jump back is outside the `try` that it stands in.
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
            while (shadow := inbox.get(20)) is not None:
                inbox.complete(shadow)
                taken.add(shadow.id)

        while alarms < 100:
            try:
                take()
            except Alarm:
                alarms += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        bus.close()
        to_parent.send(taken)

    child = fork(work)
    assert child.hear() == "ready"
    for number in range(3_000):
        bus.notify(Event(str(number), "a", number))
    taken = child.hear(60)
    assert child.wait() == 0
    with bus.inbox("one", ["a"]) as inbox:
        while bus.statistics().events_unsettled:
            shadow = inbox.get(20)
            assert shadow is not None
            inbox.complete(shadow)
            taken.add(shadow.id)
        found = bus.statistics().subscribers[0]
    assert (found.completed, found.skipped) == (3_000, 0)
    # One may have been completed when the handler raised, before this test had noted it.
    assert len(set(map(str, range(3_000))) - taken) <= 100


def test_a_handler_that_raises_just_as_a_turn_to_read_ends(bus: EventBus, fork: Fork) -> None:
    """The waiting thread is not woken then. Closing the handle finds it."""

    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"])
        turns, hand_over = transport_of(bus)._turns, LeaderFollowers.hand_over
        main = threading.get_ident()

        def interrupted(self: LeaderFollowers, *arguments: Any) -> None:
            if self.followers and threading.get_ident() == main:
                LeaderFollowers.hand_over = hand_over  # type: ignore[method-assign]
                raise Alarm
            hand_over(self, *arguments)

        def listen() -> None:
            while turns.leader != main:
                os.sched_yield()
            bus.on("b", name="listener")(print)
            while not turns.followers:
                os.sched_yield()
            LeaderFollowers.hand_over = interrupted  # type: ignore[method-assign, assignment]
            bus.notify(Event("1", "a", 1))

        threading.Thread(target=listen).start()
        with pytest.raises(Alarm):
            inbox.get(20)
        bus.close()
        to_parent.send("closed")

    child = fork(work)
    assert child.hear() == "closed"
    assert child.wait() == 0


@pytest.mark.parametrize("call", ["close", "notify"])
def test_a_handler_that_comes_while_the_bus_connects(make_bus: Make, fork: Fork, call: str) -> None:
    make_bus().topics()
    bus = make_bus()

    def work(to_parent: Any) -> None:
        refusals = []

        def handle(*_: Any) -> None:
            try:
                bus.close() if call == "close" else bus.notify(Event("1", "a", 1))
            except UsageError as error:
                refusals.append(str(error))

        signal.signal(signal.SIGALRM, handle)
        connect = Session.__init__

        def connect_interrupted(*arguments: Any, **settings: Any) -> None:
            signal.raise_signal(signal.SIGALRM)
            connect(*arguments, **settings)

        Session.__init__ = connect_interrupted  # type: ignore[method-assign]
        to_parent.send((bus.topics(), refusals))

    child = fork(work)
    topics, refusals = child.hear(30)
    assert topics == []
    assert len(refusals) == 1
    assert child.wait() == 0


def test_a_handler_that_fetches_in_the_middle_of_fetching(bus: EventBus, fork: Fork) -> None:
    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"], credit=10)
        bus.notify_many([Event("1", "a", bytes(30_000)), Event("2", "a", bytes(30_000))])
        first, second = inbox.get(20), inbox.get(20)
        assert first is not None
        assert second is not None
        counts = [0, 0]

        def fetch(*_: Any) -> None:
            try:
                assert bus.fetch_event(first) is not None
                counts[0] += 1
            except UsageError:
                counts[1] += 1

        signal.signal(signal.SIGALRM, fetch)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for _ in range(20_000):
            assert bus.fetch_event(second) is not None
        signal.setitimer(signal.ITIMER_REAL, 0)
        to_parent.send(counts)

    child = fork(work)
    served, refused = child.hear(60)
    assert served
    assert served + refused > 10
    assert child.wait() == 0


def test_a_loan_that_ends_in_the_middle_of_publishing(bus: EventBus, fork: Fork) -> None:
    """Its number would come before that of the event which it interrupts. It may end afterwards."""

    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"], credit=10)
        bus.topics()
        loan = bus.loan("a", 10, id="loaned")
        loan.__enter__()
        refusals = []

        def end_loan(*_: Any) -> None:
            try:
                loan.__exit__(None, None, None)
            except UsageError as error:
                refusals.append(str(error))

        signal.signal(signal.SIGUSR1, end_loan)
        write: Callable[..., None] = vars(publisher)["write_payload"]

        def interrupted_write(*arguments: Any) -> None:
            write(*arguments)
            vars(publisher)["write_payload"] = write
            signal.raise_signal(signal.SIGUSR1)

        vars(publisher)["write_payload"] = interrupted_write
        bus.notify(Event("interrupted", "a", 1))
        loan.__exit__(None, None, None)
        shadows = [inbox.get(20), inbox.get(20)]
        to_parent.send(([shadow.id for shadow in shadows if shadow is not None], len(refusals)))

    child = fork(work)
    assert child.hear() == (["interrupted", "loaned"], 1)
    assert child.wait() == 0


def test_other_threads_are_not_refused(bus: EventBus) -> None:
    bus.inbox("one", ["a"], credit=100_000)

    def publish() -> None:
        for number in range(500):
            bus.notify(Event(str(number), "a", number))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert bus.statistics().events_notified == 2000
