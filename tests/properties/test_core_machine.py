"""Random messages to the core, compared with the naive model of model.py after each of them.

Hypothesis prints the steps of a failure, and a line that plays it again.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from eventbus_mp.core.expiry import BUCKET_SHIFT
from eventbus_mp.core.transitions import SENT
from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol import records
from eventbus_mp.protocol.messages import (
    SPAN_NEEDED,
    DeliveriesSettled,
    LinkLost,
    LinkOpened,
    Outcome,
    TimePassed,
)
from eventbus_mp.protocol.requests import (
    CancelWait,
    Drain,
    Goodbye,
    MarkEvent,
    RegisterTopic,
    ResolveTopic,
    StopHosting,
    Subscribe,
    UnregisterTopic,
    Unsubscribe,
)
from tests.properties.memory_rules import EVENT_BYTES, MemoryRules, pick
from tests.properties.model import ModelEvent, ModelSubscriber, ModelTopic

TOPICS = ("a", "ab", "b", "dead")
PATTERNS = (["a"], ["a$"], ["b", "ab"], [".*"], ["dead"], ["nothing"])
SUBSCRIBERS = (("s1", b""), ("s1", b"config"), ("s2", b""), ("s3", b""))


def ranges(numbers):
    """The numbers as (first, count), neighbours joined."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found


events = st.lists(st.tuples(st.sampled_from(TOPICS), st.booleans(), st.integers(0, 3)), min_size=1, max_size=5)
"""(topic, awaited, ttl in buckets) of each event of a batch."""


class CoreMachine(MemoryRules):
    @initialize(letters=st.booleans(), links=st.integers(2, 3))
    def start(self, letters, links):
        self.begin("dead" if letters else None)
        for _ in range(links):
            self.open_link()
        if letters:
            self.note_topic("dead")
        # An empty bus answers nothing of interest: begin with a full one.
        for name in TOPICS:
            self.register(name)
        self.subscribe(0, 0, PATTERNS[0], 2, False)
        self.subscribe(1, 0, PATTERNS[0], 1, False)
        self.subscribe(1, 2, PATTERNS[3], 0, False)
        self.subscribe(2, 3, PATTERNS[4], 3, True)
        self.want_span(2, 1, SPAN_NEEDED)

    # --- processes ---

    @rule()
    @precondition(lambda self: len(self.links) < 4)
    def open_link(self):
        number = next(self.link_numbers)
        self.feed(LinkOpened(number, 1000 + number))
        self.links.append(number)
        self.sequences[number] = number << SEQUENCE_LINK_SHIFT

    @rule(which=pick, crashed=st.booleans(), goodbye=st.booleans())
    @precondition(lambda self: len(self.links) > 1)
    def lose_link(self, which, crashed, goodbye):
        link = self.links[which % len(self.links)]
        if goodbye:
            self.ask(Goodbye, link=link)
        self.feed(LinkLost(link, crashed))
        self.links.remove(link)
        self.spans = [item for item in self.spans if item[0] != link]
        self.leases = [item for item in self.leases if item[0] != link]
        self.wanted = [item for item in self.wanted if item[0] != link]
        self.drains = [item for item in self.drains if item[0] != link]
        self.awaited = {sequence: owner for sequence, owner in self.awaited.items() if owner != link}
        what = "holder_crashed" if crashed and not goodbye else "returned"
        for subscriber in self.hosted_by(link):
            self.model.drop_host(subscriber, link, what, self.now_ns)
        self.model.give_up_orphans(self.now_ns)
        self.settle_up()

    @rule(which=pick, times=st.integers(1, 3))
    def crash_loop(self, which, times):
        for _ in range(times):
            self.replace_worker(which)

    def replace_worker(self, which):
        """The way a pool does it: the crashed process's successor hosts what it hosted."""
        busy = sorted({link for (link, _), held in self.model.held.items() if held})
        if not busy or len(self.links) > 4:
            return
        link = busy[which % len(busy)]
        hosted = [item for item in self.hosted_by(link) if self.model.subscribers.get(item.key) is item]
        self.open_link()
        for subscriber in hosted:
            who = SUBSCRIBERS.index(subscriber.key)
            self.subscribe(len(self.links) - 1, who, subscriber.patterns, 2, subscriber.broadcast)
        self.lose_link(self.links.index(link), crashed=True, goodbye=False)

    # --- the registry ---

    def note_topic(self, name):
        number, _ = self.ask(ResolveTopic, name)
        self.model.topics[name] = ModelTopic(name, number)

    @rule(name=st.sampled_from(TOPICS))
    def register(self, name):
        assert self.ask(RegisterTopic, name) == (name not in self.model.topics)
        if name not in self.model.topics:
            self.note_topic(name)

    @precondition(lambda self: self.calls % 4 == 0)
    @rule(name=st.sampled_from(TOPICS))
    def unregister(self, name):
        assert self.ask(UnregisterTopic, name) == (name in self.model.topics)
        if name in self.model.topics:
            self.model.forget_topic(name)
        self.settle_up()

    @rule(
        which=pick,
        who=pick,
        patterns=st.sampled_from(PATTERNS),
        credit=st.integers(0, 3),
        broadcast=st.booleans(),
    )
    def subscribe(self, which, who, patterns, credit, broadcast):
        link = self.links[which % len(self.links)]
        key = SUBSCRIBERS[who % len(SUBSCRIBERS)]
        number = self.ask(Subscribe, *key, patterns, credit, broadcast, link=link)
        subscriber = self.model.subscribers.get(key)
        if subscriber is None:
            assert number not in self.by_number, "a subscriber number was used twice"
            subscriber = self.model.subscribers[key] = ModelSubscriber(key, number, broadcast)
            self.by_number[number] = subscriber
        assert subscriber.number == number
        subscriber.patterns = patterns
        self.model.orphans.pop(subscriber, None)
        if link not in subscriber.hosts:
            subscriber.hosts.append(link)
            self.model.held[link, number] = []
        self.settle_up()

    @precondition(lambda self: self.calls % 3 == 0)
    @rule(who=pick)
    def unsubscribe(self, who):
        key = SUBSCRIBERS[who % len(SUBSCRIBERS)]
        subscriber = self.model.subscribers.get(key)
        assert self.ask(Unsubscribe, *key) == (subscriber is not None)
        if subscriber is not None:
            self.model.unsubscribe(subscriber)
            self.drop_empty_hands(subscriber)
        self.settle_up()

    @rule(which=pick)
    def stop_hosting(self, which):
        if not self.model.held:
            return
        link, number = list(self.model.held)[which % len(self.model.held)]
        assert self.ask(StopHosting, number, link=link) is True
        self.model.drop_host(self.by_number[number], link, "returned", self.now_ns)
        self.model.give_up_orphans(self.now_ns)
        self.settle_up()

    # --- events ---

    @rule(which=pick, names=events)
    def notify(self, which, names):
        if not self.spans:
            self.want_span(which, 1, SPAN_NEEDED)
        if not self.spans:
            return  # Memory is full.
        place = self.spans[which % len(self.spans)]
        link, span, _ = place
        packed, notified = [], []
        for name, awaited, ttl in names:
            topic = self.model.topics.get(name)
            deadline_ns = self.now_ns + (ttl << BUCKET_SHIFT) if ttl else 0
            number = topic.number if topic else 1
            if topic is None and any(item.number == 1 for item in self.model.topics.values()):
                continue
            sequence = self.sequences[link] = self.sequences[link] + 1
            packed.append(records.pack_notified(number, span[0], place[2], EVENT_BYTES, deadline_ns, sequence, awaited))
            place[2] += EVENT_BYTES
            end_ns = ((deadline_ns >> BUCKET_SHIFT) + 1) << BUCKET_SHIFT if ttl else 0
            subscribers = self.model.route(topic) if topic else []
            event = ModelEvent(sequence, topic, subscribers, span, end_ns)
            self.origins[sequence] = number
            notified.append((event, awaited))
        if not packed:
            return
        self.feed_notified(link, packed)
        for event, awaited in notified:
            self.model.events.append(event)
            if awaited:
                self.awaited[event.sequence] = link
        self.settle_up()

    @rule(which=pick, outcome=st.sampled_from(Outcome), first=pick, count=st.integers(1, 4), repeated=st.booleans())
    def settle(self, which, outcome, first, count, repeated):
        hands = [key for key, held in self.model.held.items() if held] or list(self.model.held)
        if not hands:
            return
        key = hands[which % len(hands)]
        held = self.model.held[key]
        chosen = held[first % len(held) :][:count] if held else []
        foreign = [item for other, items in self.model.held.items() if other != key for item in items][:1]
        numbers = [item.event.sequence for item in chosen] * (1 + repeated)
        numbers += [
            item.event.sequence for item in foreign if item.event.sequence not in [d.event.sequence for d in held]
        ]
        numbers.append(7)
        self.feed(DeliveriesSettled(key[0], key[1], outcome, ranges(numbers)))
        subscriber = self.by_number[key[1]]
        for delivery in chosen:
            held.remove(delivery)
            if outcome == Outcome.RETURNED:
                self.model.come_back(delivery, "returned")
            elif not delivery.settled:
                if outcome == Outcome.FAILED:
                    self.model.dead_letter(delivery.event)
                delivery.step("completed" if outcome == Outcome.COMPLETED else "skipped")
        if self.model.subscribers.get(subscriber.key) is not subscriber:
            self.model.skip_waiting(subscriber)
        self.drop_empty_hands(subscriber)
        self.settle_up()

    @rule(which=pick, names=events, outcome=st.sampled_from(Outcome), first=pick)
    def notify_and_settle(self, which, names, outcome, first):
        self.notify(which, names)
        self.settle(first, outcome, first, 4, False)

    @rule(which=pick, who=pick, completed=st.booleans())
    def mark(self, which, who, completed):
        ours = [
            item for event in self.model.unsettled() for item in event.deliveries
            if self.model.subscribers.get(item.subscriber.key) is item.subscriber
            and event in self.findable(event.sequence)
        ]  # fmt: skip
        if not ours:
            return
        link, delivery = self.links[which % len(self.links)], ours[who % len(ours)]
        outcome = Outcome.COMPLETED if completed else Outcome.SKIPPED
        event, subscriber = delivery.event, delivery.subscriber
        self.ask(MarkEvent, self.origin(event), event.sequence, *subscriber.key, outcome, link=link)
        if delivery.state == SENT and delivery in self.model.held.get((link, subscriber.number), []):
            self.model.held[link, subscriber.number].remove(delivery)
        delivery.step("completed" if completed else "skipped")
        self.settle_up()

    @rule(which=pick, pattern=st.sampled_from((".*", "a", "b$", "dead")))
    def drain(self, which, pattern):
        link, request = self.links[which % len(self.links)], next(self.requests)
        self.drains.append((link, request, pattern))
        self.feed(Drain(link, request, pattern))
        self.settle_up()

    @rule(which=pick)
    def cancel_wait(self, which):
        waiting = [*((link, request) for link, request, _ in self.drains), *((b, a) for a, b in self.awaited.items())]
        if not waiting:
            return
        link, request = waiting[which % len(waiting)]
        self.ask(CancelWait, request, link=link)
        self.drains = [item for item in self.drains if item[:2] != (link, request)]
        self.awaited.pop(request, None)
        self.settle_up()

    @rule(buckets=st.integers(1, 100))
    def pass_time(self, buckets):
        self.now_ns += buckets << BUCKET_SHIFT
        self.feed(TimePassed())
        self.model.expire(self.now_ns)
        self.settle_up()


MACHINE = settings(
    max_examples=50,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.parametrize("part", range(5))
def test_the_core_does_what_the_model_does(part):
    """In parts, each of which the watchdog gives its time."""
    run_state_machine_as_test(CoreMachine, settings=MACHINE)
