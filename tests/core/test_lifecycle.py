"""Events about the bus itself, against a model: each thing that happens once, in order, and nothing about itself."""

import itertools
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.effects import CreateSegment, Deliver, RemoveSegment, Reply, Warn, WriteEvent
from eventbus_mp.protocol.messages import DeliveriesSettled, LinkLost, LinkOpened, ManagerReplaced, Outcome, TimePassed
from eventbus_mp.protocol.records import RECORD
from tests.helpers import subscribe_fields

LISTENER = 1
SECOND = 1_000_000_000
NAMES = st.sampled_from(["one", "two", "three"])
OPERATIONS = st.one_of(
    st.tuples(st.just("open")),
    st.tuples(st.just("lost"), st.integers(2, 6), st.booleans()),
    st.tuples(st.just("observe"), st.integers(2, 6)),
    st.tuples(st.just("register"), st.integers(2, 6), st.sampled_from(["a", "b", "life"])),
    st.tuples(st.just("unregister"), st.integers(2, 6), st.sampled_from(["a", "b"])),
    st.tuples(st.just("subscribe"), st.integers(2, 6), NAMES, st.sampled_from(["a", "b", "", "life"])),
    st.tuples(st.just("unsubscribe"), st.integers(2, 6), NAMES),
    st.tuples(st.just("complete"), st.integers(1, 5)),
    st.tuples(st.just("pass")),
)


class Bus:
    """A core, what its listener was sent, and the memory as the manager makes it."""

    def __init__(self, **options: Any) -> None:
        config = {
            "memory_bytes_max": 16 * CHUNK_BYTES,
            "orphan_grace_s": 1,
            "spill_bytes_max": 0,
            "check_invariants": True,
            **options,
        }
        self.core = BusCore(BusConfig(lifecycle_topic="life", **config), 7 * SECOND)
        self.now_ns = 7 * SECOND
        self.requests = itertools.count(1)
        self.segments: dict[int, dict[int, WriteEvent]] = {}
        self.heard: list[dict[str, Any]] = []
        self.held: list[int] = []
        self.messages: list[tuple[Any, int]] = []
        self.effects: list[Any] = []
        self.warnings: list[str] = []
        self.send(LinkOpened(LISTENER, 101))
        self.number = self.ask(LISTENER, requests.Subscribe, *subscribe_fields("listener", ["life"], 4_000, config=b""))

    def send(self, message: Any, ns: int = 1) -> list[Any]:
        self.now_ns += ns
        self.messages.append((message, self.now_ns))
        effects = self.core.handle(message, self.now_ns)
        self.effects += effects
        for effect in effects:
            match effect:
                case CreateSegment(segment=segment):
                    assert segment not in self.segments
                    self.segments[segment] = {}
                case RemoveSegment(segment=segment):
                    del self.segments[segment]
                case WriteEvent(segment=segment, offset=offset):
                    assert offset not in self.segments[segment], "a place is written twice"
                    self.segments[segment][offset] = effect
                case Deliver(link=1, packed=packed):
                    for _, _, segment, offset, length, _, _, sequence in RECORD.iter_unpack(packed):
                        self._hear(self.segments[segment][offset], length, sequence)
                case Warn(text=text):
                    self.warnings.append(text)
        return effects

    def _hear(self, written: WriteEvent, length: int, sequence: int) -> None:
        assert written.sequence == sequence
        assert 32 + len(written.event_id) + len(written.data) <= length
        self.held.append(sequence)
        self.heard.append({key: value for key, value in msgpack.unpackb(written.data).items() if key != "at_ns"})

    def ask(self, link: int, kind: Any, *fields: Any) -> Any:
        effects = self.send(kind(link, next(self.requests), *fields))
        return next((effect.value for effect in effects if type(effect) is Reply), None)

    def complete(self, count: int) -> None:
        ranges = [(sequence, 1) for sequence in self.held[:count]]
        self.held = self.held[count:]
        self.send(DeliveriesSettled(LISTENER, self.number, Outcome.COMPLETED, ranges))


class Model:
    """What the listener is to hear."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.links: dict[int, str] = {}
        """new, observing or known."""
        self.topics = {"life"}
        self.expected: list[dict[str, Any]] = []

    def say(self, action: str, **facts: Any) -> None:
        self.expected.append({"action": action, **facts})

    def ask(self, link: int) -> int | None:
        """Its pid, if it is there; its first request is its beginning."""
        if link not in self.links:
            return None
        if self.links[link] == "new":
            self.links[link] = "known"
            self.say("process_connected", pid=100 + link, role="client")
        return 100 + link

    def perform(self, what: str, *words: Any) -> None:
        getattr(self, what)(*words)

    def open(self) -> None:
        link = max(self.links, default=LISTENER) + 1
        if link not in self.links and link <= 6 and not self.bus.core.state.links.get(link):
            self.links[link] = "new"
            self.bus.send(LinkOpened(link, 100 + link))

    def lost(self, link: int, crashed: bool) -> None:
        state = self.links.pop(link, None)
        if state is None:
            return
        if state == "known":
            self.say("process_gone", pid=100 + link, role="client", crashed=crashed)
        self.bus.send(LinkLost(link, crashed))

    def observe(self, link: int) -> None:
        if self.links.get(link) == "new":
            self.links[link] = "observing"
            self.bus.send(requests.Observe(link, next(self.bus.requests)))

    def register(self, link: int, name: str) -> None:
        pid = self.ask(link)
        if pid is not None:
            if name not in self.topics:
                self.topics.add(name)
                self.say("topic_registered", topic=name, pid=pid)
            self.bus.ask(link, requests.RegisterTopic, name)

    def unregister(self, link: int, name: str) -> None:
        pid = self.ask(link)
        if pid is not None:
            if name in self.topics:
                self.topics.remove(name)
                self.say("topic_unregistered", topic=name, pid=pid)
            self.bus.ask(link, requests.UnregisterTopic, name)

    def subscribe(self, link: int, name: str, pattern: str) -> None:
        pid = self.ask(link)
        if pid is not None:
            if pattern in ("a", "b"):
                self.say("subscribed", subscriber=name, patterns=[pattern], broadcast=False, pid=pid)
            self.bus.ask(link, requests.Subscribe, *subscribe_fields(name, [pattern], 100, config=b""))

    def unsubscribe(self, link: int, name: str) -> None:
        pid = self.ask(link)
        if pid is not None:
            found = self.bus.core.state.registry.subscribers.get((name, b"", ""))
            if found is not None and not found.wants("life"):
                self.say("unsubscribed", subscriber=name, reason="it was unsubscribed", pid=pid)
            self.bus.ask(link, requests.Unsubscribe, name, b"", "")

    def complete(self, count: int) -> None:
        self.bus.complete(count)

    def pass_time(self) -> None:
        state = self.bus.core.state
        for found in state.orphans:
            if not found.wants("life"):
                reason = "no process hosted it for 1 s"
                self.say("unsubscribed", subscriber=found.name, reason=reason, pid=None)
        self.bus.send(TimePassed(), 2 * SECOND)


@settings(max_examples=150)
@given(st.lists(OPERATIONS, max_size=40))
def test_each_thing_once_in_order_and_the_same_when_it_is_repeated(operations: list[tuple[Any, ...]]) -> None:
    bus = Bus()
    model = Model(bus)
    for what, *words in operations:
        model.perform("pass_time" if what == "pass" else what, *words)
        assert bus.heard == model.expected
    bus.complete(len(bus.held))
    assert not bus.core.state.registry.topics["life"].unsettled or len(bus.core.state.registry.subscribers) > 1
    again = BusCore(bus.core.state.config, 7 * SECOND)
    assert [effect for message, now_ns in bus.messages for effect in again.handle(message, now_ns)] == bus.effects


def test_spans_are_used_up_and_go() -> None:
    bus = Bus(check_invariants=False)  # They look at every topic and event each time.
    bus.send(LinkOpened(2, 102))
    for number in range(2_000):
        bus.ask(2, requests.RegisterTopic, f"topic {number} {'x' * 200}")
        bus.complete(10)
    assert len(bus.heard) == 2_001
    assert list(bus.segments) == [max(bus.segments)] != [1]
    assert bus.core.state.spans.used_bytes == CHUNK_BYTES


def test_what_has_no_room_waits_in_order_and_too_much_is_lost_with_a_warning() -> None:
    bus = Bus(memory_bytes_max=4 * CHUNK_BYTES, check_invariants=False)
    bus.send(LinkOpened(2, 102))
    for number in range(7_000):
        bus.ask(2, requests.RegisterTopic, f"topic {number:04} {'x' * 240}")
    waiting = len(bus.core.state.lifecycle_waiting)
    assert waiting == 1_000
    assert set(bus.warnings) == {"the memory is full: no event says that topic_registered"}
    while bus.held:
        bus.complete(100)
    numbers = [int(fact["topic"].split()[1]) for fact in bus.heard[1:]]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) + len(bus.warnings) == 7_000


def test_nobody_hears_nothing_is_made() -> None:
    bus = Bus()
    bus.ask(LISTENER, requests.Unsubscribe, "listener", b"", "")
    bus.send(LinkOpened(2, 102))
    bus.ask(2, requests.RegisterTopic, "a")
    assert not bus.segments
    assert bus.core.state.events_notified == bus.core.state.events_dropped == 0


def test_very_many_patterns_are_not_named() -> None:
    bus = Bus(check_invariants=False)
    bus.send(LinkOpened(2, 102))
    bus.ask(2, requests.Subscribe, *subscribe_fields("one", [f"a{number}" * 20 for number in range(2_000)]))
    assert bus.heard[-1] == {
        "action": "subscribed",
        "subscriber": "one",
        "patterns": None,
        "broadcast": False,
        "pid": 102,
    }


@pytest.mark.parametrize("reports", [0, 1, 2])
def test_a_takeover_is_said_once_the_first_process_has_reported(reports: int) -> None:
    bus = Bus()
    bus.send(ManagerReplaced(5))
    bus.send(ManagerReplaced(6))  # The one before has died at once.
    for _ in range(reports):
        bus.send(requests.ReportState(LISTENER, next(bus.requests), 6, [[bus.number, []]], []))
    assert bus.heard == ([{"action": "manager_replaced", "takeovers": 2}] if reports else [])
