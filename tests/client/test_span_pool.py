"""Spans for large events lie ready in a stream of them, and only then, and not too many."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.geometry import CHUNK_BYTES

Make = Callable[..., EventBus]
MIB = 1 << 20


def stream(bus: EventBus, inbox: Any, nbytes: int, count: int) -> None:
    for index in range(count):
        bus.notify(Event(str(index), "a", bytes(nbytes)))
        inbox.complete(inbox.get(10))
    bus.drain(timeout_s=10)


@pytest.fixture
def bus(make_bus: Make) -> EventBus:
    return make_bus(topics=["a"], memory_bytes_max=64 * MIB, check_invariants=True)


def test_one_large_event_orders_nothing_ahead(bus: EventBus) -> None:
    stream(bus, bus.inbox("one", ["a"]), 3 * MIB, 1)
    assert bus.statistics().memory_bytes_used == 0


def test_a_stream_finds_two_spans_ready(bus: EventBus) -> None:
    stream(bus, bus.inbox("one", ["a"]), 3 * MIB, 10)
    assert bus.statistics().memory_bytes_used == 2 * 13 * CHUNK_BYTES


def test_what_lies_ready_is_at_most_an_eighth_of_the_memory(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    stream(bus, inbox, 7 * MIB, 5)
    assert bus.statistics().memory_bytes_used == 30 * CHUNK_BYTES
    stream(bus, inbox, 9 * MIB, 5)
    assert bus.statistics().memory_bytes_used == 0


def test_another_size_gives_back_what_the_last_one_had_ready(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    stream(bus, inbox, 3 * MIB, 5)
    stream(bus, inbox, 300_000, 5)
    assert bus.statistics().memory_bytes_used % (2 * CHUNK_BYTES) == 0
    assert 0 < bus.statistics().memory_bytes_used <= 5 * 2 * CHUNK_BYTES
    stream(bus, inbox, 20 * MIB, 1)
    assert bus.statistics().memory_bytes_used == 0


def test_what_lies_ready_is_given_back_before_a_wait(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], notify_timeout_s=20)
    inbox = bus.inbox("one", ["a"])
    stream(bus, inbox, MIB + 1, 5)
    stream(bus, inbox, 15 * MIB, 1)  # all there is


def test_threads_with_streams_of_different_sizes(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], check_invariants=True)
    sizes = (100, 70_000, 300_000, MIB, 3 * MIB)

    @bus.on("a", name="all")
    def handle(event: Event) -> None:
        seen.append(len(event.data))

    def produce(nbytes: int) -> None:
        for index in range(30):
            bus.notify(Event(f"{nbytes}.{index}", "a", bytes(nbytes)))

    seen: list[int] = []
    threads = [threading.Thread(target=produce, args=(nbytes,)) for nbytes in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.drain(timeout_s=30)
    assert sorted(seen) == sorted(sizes * 30)


def test_no_patience_is_enough_while_there_is_memory(make_bus: Make) -> None:
    """`notify_timeout_s=0` means not to wait for others; the manager's answer still takes its moment."""
    bus = make_bus(topics=["a"], notify_timeout_s=0.0, memory_bytes_max=16 * MIB)
    inbox = bus.inbox("one", ["a"])
    for index in range(100):
        bus.notify(Event(str(index), "a", bytes(MIB << index % 2)))  # One that nothing lies ready for.
        inbox.complete(inbox.get(10))
