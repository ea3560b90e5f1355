"""Views into events, and others who fill the memory below them as soon as they may."""

from collections.abc import Callable
from typing import Any

import numpy as np

from eventbus_mp import Event, EventBus

__all__ = ["SHOWN", "SIZE", "Make", "Others", "Show", "content_of", "event_of", "taken"]

Make = Callable[..., EventBus]
Show = Callable[[Event], Any]

SIZE = 300_000
SHOWN: dict[str, Show] = {
    "array": lambda event: event.data["array"],
    "part of an array": lambda event: event.data["array"][::2][1:],
    "memoryview": lambda event: event.data["buffer"],
    "through another library": lambda event: np.frombuffer(event.data["buffer"], "u2"),
    "not decoded": lambda event: event,
    "encoded": lambda event: event.encoded.buffers[0][:SIZE],
}


def content_of(value: Any) -> bytes:
    """What it shows, whatever it is."""
    if isinstance(value, Event):
        return f"{value.id} {value.source}".encode() + bytes(value.data["array"]) + bytes(value.data["buffer"])
    return memoryview(value).tobytes()


def event_of(number: int, size: int = SIZE) -> Event:
    fill = (np.arange(size) * (number + 3) % 251).astype("u1")
    return Event(f"event {number}", "a", {"array": fill, "buffer": bytearray(fill)}, source=f"source {number}")


class Others:
    """Everybody else on the bus: `overwrite` fills all of its memory, whose readers settle at once."""

    def __init__(self, make_bus: Make) -> None:
        self.bus = make_bus(topics=["a", "b"], memory_bytes_max=8 << 20, manager_idle_s=5)
        self.sink = self.bus.inbox("sink", ["b"], credit=10)

    def overwrite(self) -> None:
        leased = self.bus.statistics().memory_bytes_leased
        while leased:  # Each question waits for its answer; a child may not have closed its copies of the pipes yet.
            leased = self.bus.statistics().memory_bytes_leased
        for number in range(40):
            self.bus.notify(Event(f"other {number}", "b", np.full(2 * SIZE, 255, "u1")))
            shadow = self.sink.get(20)
            assert shadow is not None
            self.sink.complete(shadow)


def taken(others: Others, bus: EventBus, number: int = 1, *, settled: bool = True) -> Event:
    """An event that `bus` has fetched, and settled."""
    inbox = bus.inbox("viewer", ["a"], credit=10)
    others.bus.notify(event_of(number))
    shadow = inbox.get(20)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert event is not None
    if settled:
        inbox.complete(shadow)
    return event
