"""A whole bus in one thread: clients against the core, in any order, with managers and clients that die.

The naive model knows for each subscriber which events it has to get, and which client took each. The bus may decide who
gets what; it may not lose an event, hand it to two living clients, or show one producer's events out of order.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventbus_mp import Event, EventShadow, Inbox, SubscriberKey
from eventbus_mp.client.session import Session
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.core.recalls import RECALL_NS
from eventbus_mp.ids import EventId
from eventbus_mp.testing.inprocess import InProcessBus

TOPICS = ("a", "b")
NAMES = {"x": ["a"], "y": [".*"]}
CLIENTS_MAX = 4
VIEWS_MAX = 5
"""What a client keeps."""
index = st.integers(0, 50)


def event_id_of(serial: int) -> EventId:
    """Mostly a number; every third one is a text, and the text of the number before: 2 and "2" are two events."""
    return serial if serial % 3 else str(serial - 1)


def serial_of(event_id: EventId) -> int:
    return event_id if isinstance(event_id, int) else int(event_id) + 1


def content(serial: int, nbytes: int) -> bytes:
    """What the event of this number holds."""
    return bytes([serial % 251]) * nbytes


class Client:
    """One process of the model."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inboxes: dict[str, Inbox] = {}
        self.taken: dict[tuple[str, EventId], EventShadow] = {}
        """(subscriber, id) -> what it has in flight."""
        self.views: dict[EventId, memoryview] = {}
        """id -> data that it reads in place, also long after the event was settled."""


class WholeBus(RuleBasedStateMachine):
    """Rules are calls that a process makes, and accidents that befall it."""

    @initialize()
    def begin(self) -> None:
        # More memory than all events of a run take: none waits for it.
        self.bus = InProcessBus(
            memory_bytes_max=512 << 20, orphan_grace_s=86_400, crashes_max=1_000, manager_idle_s=86_400
        )
        self.clients: list[Client] = []
        self.serial = 0
        self.expected: dict[str, list[EventId]] = {}
        """Subscriber -> the ids that it has to get, in the order of notify."""
        self.settled: dict[str, set[EventId]] = {}
        self.producer_of: dict[EventId, int] = {}
        self.id_of: dict[int, EventId] = {}
        """By sequence."""
        self.seen_again: dict[str, set[EventId]] = {name: set() for name in NAMES}
        """What came back: its order is not that of notify."""
        self.last_from: dict[tuple[str, int, int], int] = {}
        self.connect()
        self.host(0, "x")

    # --- calls ---

    @precondition(lambda self: len(self.clients) < CLIENTS_MAX)
    @rule()
    def connect(self) -> None:
        client = Client(self.bus.connect())
        client.session.register_topics(TOPICS)
        self.clients.append(client)

    @rule(which=index, name=st.sampled_from(sorted(NAMES)))
    def host(self, which: int, name: str) -> None:
        client = self.client(which)
        if name not in client.inboxes:
            key = SubscriberKey(name)
            endpoint = client.session.host(key, Subscription(tuple(NAMES[name])))
            client.inboxes[name] = Inbox(client.session, endpoint, key)
            self.expected.setdefault(name, [])
            self.settled.setdefault(name, set())

    @rule(which=index, topic=st.sampled_from(TOPICS), nbytes=st.sampled_from((1, 100, 70_000, 400_000)))
    def notify(self, which: int, topic: str, nbytes: int) -> None:
        client = self.client(which)
        self.published(which, topic, [client.session.publisher.notify(self.event(topic, nbytes))])

    @rule(which=index, topic=st.sampled_from(TOPICS), count=st.integers(1, 30))
    def notify_many(self, which: int, topic: str, count: int) -> None:
        client = self.client(which)
        events = [self.event(topic, 10) for _ in range(count)]
        self.published(which, topic, client.session.publisher.notify_many(events))

    def event(self, topic: str, nbytes: int) -> Event:
        self.serial += 1
        return Event(event_id_of(self.serial), topic, memoryview(content(self.serial, nbytes)))

    def published(self, which: int, topic: str, shadows: list[EventShadow]) -> None:
        getters = [name for name in self.expected if NAMES[name] == [".*"] or topic == "a"]
        for shadow in shadows:
            assert (shadow._place is not None) == bool(getters), "dropped, or stored for nobody"
            self.producer_of[shadow.id] = self.client(which).session.connection.welcome.link
            if shadow._place is not None:
                self.id_of[shadow._place.sequence] = shadow.id
            for name in getters:
                self.expected[name].append(shadow.id)

    @rule(which=index, count=st.integers(1, 5))
    def take(self, which: int, count: int) -> None:
        client = self.client(which)
        for name, inbox in client.inboxes.items():
            for shadow in inbox.get_many(count, timeout_s=0):
                self.took(client, name, shadow)

    def took(self, client: Client, name: str, shadow: EventShadow) -> None:
        assert shadow.id in self.expected[name], "nobody notified this"
        assert shadow.id not in self.settled[name], "it was settled, and came again"
        for other in self.clients:
            assert (name, shadow.id) not in other.taken, "two living processes have it"
        event = client.session.fetcher.fetch(shadow._place)  # type: ignore[arg-type]
        assert event is not None
        assert event.id == shadow.id
        client.views[shadow.id] = event.data
        if len(client.views) > VIEWS_MAX:
            del client.views[next(iter(client.views))]
        self.check_view(shadow.id, event.data)
        client.taken[name, shadow.id] = shadow
        if shadow.id not in self.seen_again[name]:
            lane = name, client.session.connection.welcome.link, self.producer_of[shadow.id]
            assert self.last_from.get(lane, 0) < serial_of(shadow.id), "one producer's events out of order"
            self.last_from[lane] = serial_of(shadow.id)

    @rule(which=index, nbytes=st.sampled_from((70_000, 400_000)), count=st.integers(2, 8))
    def a_stream_of_large_events(self, which: int, nbytes: int, count: int) -> None:
        """Each is settled before the next one: their memory goes round."""
        for _ in range(count):
            self.notify(which, "a", nbytes)
            for other in range(len(self.clients)):
                self.take(other, 5)
                while self.client(other).taken:
                    self.settle(other, 0, False)

    @rule(which=index, choice=index, skip=st.booleans())
    def settle(self, which: int, choice: int, skip: bool) -> None:
        client = self.client(which)
        if client.taken:
            name, event_id = sorted(client.taken, key=repr)[choice % len(client.taken)]
            shadow = client.taken.pop((name, event_id))
            inbox = client.inboxes[name]
            inbox.skip(shadow) if skip else inbox.complete(shadow)
            self.settled[name].add(event_id)

    @rule(which=index, choice=index)
    def drop_a_view(self, which: int, choice: int) -> None:
        client = self.client(which)
        if client.views:
            del client.views[sorted(client.views, key=serial_of)[choice % len(client.views)]]

    # --- accidents ---

    @rule(frames_kept=st.integers(0, 10))
    def the_manager_dies(self, frames_kept: int) -> None:
        self.bus.replace_manager(frames_kept)

    @precondition(lambda self: len(self.clients) > 1)
    @rule(which=index, killed=st.booleans())
    def a_client_leaves(self, which: int, killed: bool) -> None:
        client = self.clients.pop(which % len(self.clients))
        for name in client.inboxes:
            # What it had, or was about to get, comes back at the front.
            if killed:
                self.settled[name] -= self.unreported(client, name)
            self.seen_again[name] |= set(self.expected[name]) - self.settled[name]
        self.bus.kill(client.session) if killed else client.session.close()

    def unreported(self, client: Client, name: str) -> set[EventId]:
        """What a process has settled and not reported: if it dies now, that comes again."""
        outcomes = client.inboxes[name]._endpoint.take_outcomes()
        return {self.id_of[sequence] for _, sequences in outcomes for sequence in sequences}

    @rule()
    def time_passes(self) -> None:
        """A process that has not taken what it got may be asked to hand it back."""
        for name in self.expected:
            taken = {event_id for client in self.clients for other, event_id in client.taken if other == name}
            self.seen_again[name] |= set(self.expected[name]) - self.settled[name] - taken
        self.bus.clock.advance(2 * RECALL_NS / 1e9)
        self.bus.run()

    @rule(steps=st.integers(1, 5))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.bus.step()

    # --- always, and at the end ---

    @invariant()
    def nobody_was_cut_off(self) -> None:
        for client in getattr(self, "clients", ()):
            assert not client.session.connection.lost

    @invariant()
    def a_view_never_shows_other_bytes(self) -> None:
        for client in getattr(self, "clients", ()):
            for event_id, view in client.views.items():
                self.check_view(event_id, view)

    @staticmethod
    def check_view(event_id: EventId, view: memoryview) -> None:
        assert bytes(view) == content(serial_of(event_id), len(view)), f"the view of event {event_id} shows other bytes"

    def client(self, which: int) -> Client:
        return self.clients[which % len(self.clients)]

    def teardown(self) -> None:
        if not hasattr(self, "bus"):
            return
        for name in self.expected:
            self.host(0, name)
        last = self.clients[0]
        for client in self.clients[1:]:
            client.session.close()
        self.clients = [last]
        for name, inbox in last.inboxes.items():
            self.seen_again[name] = set(self.expected[name])
            for taken in [key for key in last.taken if key[0] == name]:
                inbox.complete(last.taken.pop(taken))
                self.settled[name].add(taken[1])
            while set(self.expected[name]) != self.settled[name]:
                found = inbox.get_many(100, timeout_s=60)
                assert found, f"lost for {name}: {set(self.expected[name]) - self.settled[name]}"
                for shadow in found:
                    self.took(last, name, shadow)
                    inbox.complete(last.taken.pop((name, shadow.id)))
                    self.settled[name].add(shadow.id)
        last.views.clear()
        run = last.session.connection.run
        run(last.session.drain("", 60))
        assert run(last.session.statistics()).events_unsettled == 0
        last.session.close()
        self.bus.run()
        assert not self.bus.core.state.links
        assert self.bus.core.state.spans.used_bytes == 0


TestWholeBus = WholeBus.TestCase
TestWholeBus.settings = settings(max_examples=150, stateful_step_count=40)


def test_the_same_calls_give_the_same_run() -> None:
    def run() -> list[Any]:
        bus = InProcessBus()
        one, two = bus.handle(TOPICS), bus.handle()
        seen: list[Any] = []
        two.on(".*", name="two")(lambda event: seen.append((event.id, event.data, bus.clock.monotonic_ns())))
        for number in range(50):
            one.notify(Event(str(number), TOPICS[number % 2], number))
        one.drain(timeout_s=10)
        seen.append(bus.core.state.spans.used_bytes)
        one.close()
        two.close()
        return seen

    assert run() == run()
