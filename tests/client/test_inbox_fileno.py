"""An inbox in an event loop: how often its descriptor wakes a real one, while events wait and one is worked on."""

import asyncio
import select
import selectors
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventShadow, Inbox

ROUNDS = 50
"""How often a loop looks at its descriptors: one that spins finds something each time."""


@pytest.fixture
def inbox(bus: EventBus) -> Iterator[Inbox]:
    with bus.inbox("one", ["a"], credit=100) as inbox:
        inbox.fileno()
        yield inbox


def publish(bus: EventBus, inbox: Inbox, *ids: str) -> None:
    """Returns when they are in the inbox."""
    expected = len(inbox._endpoint.pending) + len(ids)
    bus.notify_many(Event(id, "a", id) for id in ids)
    assert inbox._transport.wait(lambda: len(inbox._endpoint.pending) >= expected, 20)
    bus.topics()  # Whoever reads the pipe has finished with what came before the answer.


def take(inbox: Inbox) -> EventShadow:
    shadow = inbox.get(timeout_s=0)
    assert shadow is not None
    return shadow


def poll(fd: int) -> Callable[[], bool]:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return lambda: bool(poller.poll(0))


def epoll(fd: int) -> Callable[[], bool]:
    poller = select.epoll()
    poller.register(fd, select.EPOLLIN)
    return lambda: bool(poller.poll(0))


LOOPS: dict[str, Callable[[int], Callable[[], bool]]] = {
    "select": lambda fd: lambda: bool(select.select([fd], [], [], 0)[0]),
    "poll": poll,
    "epoll": epoll,
}


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_sleeps_while_an_event_is_worked_on(bus: EventBus, inbox: Inbox, kind: str) -> None:
    """With others that had arrived before it was taken, and others that arrive meanwhile."""
    is_readable = LOOPS[kind](inbox.fileno())
    publish(bus, inbox, "1", "2")
    assert is_readable()
    shadow = take(inbox)
    assert not is_readable()
    publish(bus, inbox, "3", "4")
    assert not is_readable()
    inbox.complete(shadow)
    assert is_readable()
    assert [take(inbox).id for _ in range(3)] == ["2", "3", "4"]
    assert not is_readable()
    publish(bus, inbox, "5")
    assert not is_readable()


def test_who_takes_until_nothing_is_there_is_woken_whatever_is_unsettled(bus: EventBus, inbox: Inbox) -> None:
    is_readable = poll(inbox.fileno())
    publish(bus, inbox, "1", "2")
    assert len(inbox.get_many(100, timeout_s=0)) == 2
    assert inbox.get_many(100, timeout_s=0) == []
    assert not is_readable()
    for number in range(3, 6):
        publish(bus, inbox, str(number))
        assert is_readable()
        assert take(inbox).id == str(number)
        assert inbox.get(timeout_s=0) is None
        assert not is_readable()


ENDS: dict[str, Callable[[EventBus, Inbox, EventShadow], Any]] = {
    "complete": lambda bus, inbox, shadow: inbox.complete(shadow),
    "skip": lambda bus, inbox, shadow: inbox.skip(shadow, "a reason"),
    "complete_many": lambda bus, inbox, shadow: inbox.complete_many([shadow]),
    "release": lambda bus, inbox, shadow: inbox.release(shadow, 3600),
    "mark_as_completed": lambda bus, inbox, shadow: bus.mark_as_completed(inbox, shadow),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_last_one_taken_wakes_for_those_that_wait(bus: EventBus, inbox: Inbox, end: str) -> None:
    is_readable = poll(inbox.fileno())
    publish(bus, inbox, "1", "2", "3")
    first, second = take(inbox), take(inbox)
    ENDS[end](bus, inbox, first)
    assert not is_readable()
    ENDS[end](bus, inbox, second)
    assert is_readable()
    inbox.complete(take(inbox))


def test_asyncio_does_not_call_its_reader_while_an_event_is_awaited(bus: EventBus, inbox: Inbox) -> None:
    async def work() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        calls: list[None] = []
        arrived = asyncio.Event()

        def on_readable() -> None:
            calls.append(None)
            arrived.set()

        loop.add_reader(inbox.fileno(), on_readable)
        await loop.run_in_executor(None, publish, bus, inbox, "1", "2", "3")
        await arrived.wait()
        shadow = take(inbox)
        before = len(calls)
        await loop.run_in_executor(None, publish, bus, inbox, "4")
        for _ in range(ROUNDS):
            await asyncio.sleep(0)  # Let the loop look once.
        meanwhile = len(calls) - before
        inbox.complete(shadow)
        arrived.clear()
        await arrived.wait()
        loop.remove_reader(inbox.fileno())
        return meanwhile, len(inbox.get_many(100, timeout_s=0))

    meanwhile, rest = asyncio.run(work())
    assert meanwhile <= 1  # One look may have been under way.
    assert rest == 3


@pytest.mark.parametrize("at_once", [1, 7])
def test_a_loop_that_handles_one_after_the_other_wakes_about_once_for_each(
    bus: EventBus, inbox: Inbox, at_once: int
) -> None:
    """It takes up to `at_once`, settles them, and goes back to its selector: nothing is left behind."""
    events = 70
    with selectors.DefaultSelector() as selector:
        selector.register(inbox.fileno(), selectors.EVENT_READ)
        bus.notify_many(Event(str(number), "a", number) for number in range(events))
        handled = wakes = 0
        while handled < events:
            assert selector.select(20)
            wakes += 1
            for shadow in inbox.get_many(at_once, timeout_s=0):
                assert not selector.select(0)
                inbox.complete(shadow)
                handled += 1
    assert wakes <= events // at_once + events // 10
