"""Leases against a model: views are kept, derived and dropped in any order, while the spans under them recycle."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from eventbus_mp import Event, EventBus

Make = Callable[..., EventBus]

IN_HAND_MAX = 6
VIEWS_MAX = 6
SIZES = st.sampled_from([0, 100, 16_000, 17_000, 60_000, 70_000, 300_000, 700_000])
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda content: content,
    "loan": lambda content: content,
    "nested": lambda content: {"parts": [(content[::2], memoryview(content[1::2].tobytes()))]},
    "buffer": bytearray,
}
DERIVED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "slice": lambda view: view[len(view) // 3 :],
    "steps": lambda view: view[::3],
    "turned": lambda view: view[::-1],
    "reshaped": lambda view: view[: len(view) // 4 * 4].reshape(4, -1).T.reshape(-1),
    "through a buffer": lambda view: np.frombuffer(np.ascontiguousarray(view).data, "u1"),
    "sub-view of a buffer": lambda view: np.asarray(view.data[2:]) if len(view) > 2 else view,
}


class Leases(RuleBasedStateMachine):
    """One process publishes, reads and settles; the manager is another one, and the memory holds some ten events."""

    def __init__(self, bus: EventBus, inbox: Any) -> None:
        super().__init__()
        self.bus, self.inbox = bus, inbox
        self.serial = 0
        self.in_flight: list[tuple[Any, np.ndarray]] = []
        self.views: list[tuple[np.ndarray, np.ndarray]] = []
        """(what is kept, what it must hold)"""

    @precondition(lambda self: len(self.in_flight) < IN_HAND_MAX)
    @rule(size=SIZES, kind=st.sampled_from(sorted(KINDS)))
    def publish(self, size: int, kind: str) -> None:
        self.serial += 1
        content = ((np.arange(size) + self.serial * 7) % 251).astype("u1")
        if kind == "loan":
            with self.bus.loan("a", shape=size, dtype="u1") as loan:
                loan.array[:] = content
        else:
            self.bus.notify(Event(str(self.serial), "a", KINDS[kind](content)))
        shadow = self.inbox.get(20)
        assert shadow is not None
        self.in_flight.append((shadow, content))

    @precondition(lambda self: self.in_flight and len(self.views) < VIEWS_MAX)
    @rule(data=st.data(), detached=st.booleans(), keeps_raw=st.booleans())
    def read(self, data: st.DataObject, detached: bool, keeps_raw: bool) -> None:
        shadow, content = data.draw(st.sampled_from(self.in_flight))
        event = self.bus.fetch_event(shadow)
        assert event is not None
        value = (event.copy() if detached else event).data
        if isinstance(value, dict):
            even, odd = value["parts"][0]
            self.views += [(even, content[::2]), (np.frombuffer(odd, "u1"), content[1::2])]
        else:
            self.views.append((np.asarray(value), content))
        if keeps_raw:
            raw = np.frombuffer(event.encoded.data, "u1")
            self.views.append((raw, raw.copy()))

    @precondition(lambda self: self.views)
    @rule(data=st.data(), how=st.sampled_from(sorted(DERIVED)))
    def derive(self, data: st.DataObject, how: str) -> None:
        index = data.draw(st.integers(0, len(self.views) - 1))
        view, wanted = self.views[index]
        self.views[index] = DERIVED[how](view), DERIVED[how](wanted)

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.views[data.draw(st.integers(0, len(self.views) - 1))]

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        shadow, _ = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        self.inbox.complete(shadow)

    @invariant()
    def every_byte_is_what_was_written(self) -> None:
        for view, wanted in self.views:
            assert np.array_equal(view, wanted)

    def teardown(self) -> None:
        self.views.clear()
        for shadow, _ in self.in_flight:
            self.inbox.complete(shadow)
        assert self.inbox.get(0) is None  # the last releases go with it
        self.bus.drain(timeout_s=20)
        assert self.bus.statistics().memory_bytes_leased == 0


def test_views_hold_what_was_written_whatever_is_dropped_first(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], check_invariants=True)
    inbox = bus.inbox("one", ["a"], credit=IN_HAND_MAX)

    class LeasesOfThisBus(Leases):
        def __init__(self) -> None:
            super().__init__(bus, inbox)

    run_state_machine_as_test(
        LeasesOfThisBus,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("size", [20_000, 100_000, 1_000_000])
def test_a_lease_ends_with_the_last_view(bus: EventBus, size: int) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", {"x": np.arange(size, dtype="u1"), "y": [bytearray(size)]}))
    shadow = inbox.get(10)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert event is not None
    array, view = event.data["x"], event.data["y"][0]
    inbox.complete(shadow)
    bus.drain(timeout_s=10)
    kept = [array[5:].reshape(5, -1).T[:10], np.frombuffer(view, "u2"), memoryview(view)[3:]]
    del event, array, view
    while kept:
        assert bus.statistics().memory_bytes_leased > 0
        kept.pop()
        assert inbox.get(0) is None
    assert bus.statistics().memory_bytes_leased == 0


def test_a_read_array_cannot_be_written(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", np.zeros(100_000)))
    shadow = inbox.get(10)
    assert shadow is not None
    array = bus.fetch_event_data(shadow)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        array.flags.writeable = True
    inbox.complete(shadow)


def test_a_generator_may_reuse_its_array(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"], credit=10)
    array = np.zeros(10, "u1")

    def events() -> Any:
        for index in range(3):
            array[:] = index
            yield Event(str(index), "a", array)

    bus.notify_many(events())
    shadows = inbox.get_many(3, 10)
    assert [bus.fetch_event_data(shadow)[0] for shadow in shadows] == [0, 1, 2]
    for shadow in shadows:
        inbox.complete(shadow)


def test_an_event_passed_on_is_an_event_of_its_own(bus: EventBus) -> None:
    first, second = bus.inbox("one", ["a"]), bus.inbox("two", ["b"])
    bus.notify(Event("1", "a", np.arange(100_000)))
    shadow = first.get(10)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert event is not None
    bus.notify(Event("2", "b", event.data[1:]))
    first.complete(shadow)
    del event
    shadow = second.get(10)
    assert shadow is not None
    assert bus.fetch_event_data(shadow)[0] == 1
    second.complete(shadow)
