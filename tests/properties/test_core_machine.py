"""Random messages to the core, compared with the naive model of model.py after each of them."""

import itertools
import re

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.properties.model import Model, ModelEvent, ModelSubscriber, ModelTopic

from eventbus_mp import messages as m
from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.core.ledger import BUCKET_SHIFT
from eventbus_mp.core.watcher import QUEUED, SENT
from eventbus_mp.effects import CloseLink, Deliver, GrantSpan, Refuse, Reply
from eventbus_mp.messages import BLOCK_BYTES, Outcome
from eventbus_mp.wire.records import RECORD

MEMORY_BYTES = 16 * BLOCK_BYTES
DELIVERIES_MAX = 2
GRACE_NS = 1_000_000_000
EVENT_BYTES = 64
TOPICS = ("a", "ab", "b", "dead")
PATTERNS = (["a"], ["a$"], ["b", "ab"], [".*"], ["dead"], ["nothing"])
SUBSCRIBERS = (("s1", b""), ("s1", b"config"), ("s2", b""), ("s3", b""))

pick = st.integers(0, 1 << 16)
"""An index into whatever there is: taken modulo its length, so that every draw fits."""


class CoreMachine(RuleBasedStateMachine):
    @initialize(letters=st.booleans(), links=st.integers(2, 3))
    def start(self, letters, links):
        dead_letter_topic = "dead" if letters else None
        config = BusConfig(
            memory_bytes_max=MEMORY_BYTES,
            deliveries_max=DELIVERIES_MAX,
            grace_s=GRACE_NS / 1e9,
            dead_letter_topic=dead_letter_topic,
            check_invariants=True,
        )
        self.now_ns = 1
        self.calls = 0
        """Makes rules that tear down rarer than rules that build up."""
        self.core = BusCore(config, self.now_ns)
        self.model = Model(DELIVERIES_MAX, GRACE_NS, dead_letter_topic)
        self.serials = itertools.count(1)
        self.requests = itertools.count(1)
        self.link_numbers = itertools.count(1)
        self.links, self.sequences, self.spans, self.leases = [], {}, [], []
        self.awaited, self.drains, self.wanted, self.first_sent = {}, [], [], {}
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
        self.want_span(2, 1, m.SPAN_NEEDED)

    # --- the core and what it answers ---

    def tell(self, message):
        """Hand a message to the core; the effects are checked by `settle_up`, once the model has had it too."""
        self.now_ns += 1
        self.calls += type(message) is not m.WatchEvent
        self.effects = self.core.handle(message, self.now_ns)
        assert not [effect for effect in self.effects if type(effect) is CloseLink]

    def ask(self, kind, *fields, link=None):
        """The answer to a request; None when it is not answered in the same step."""
        link = link or self.links[0]
        request = next(self.requests)
        self.tell(kind(link, request, *fields))
        answers = [item for item in self.effects if type(item) in (Reply, Refuse) and item.request == request]
        self.effects = [item for item in self.effects if item not in answers]
        assert len(answers) <= 1
        if answers:
            assert type(answers[0]) is Reply, answers
            return answers[0].value
        return None

    def settle_up(self):
        """Check the effects of the last message against the model, which has had it by now."""
        for effect in self.effects:
            if type(effect) is Deliver:
                self.on_deliver(effect)
            elif type(effect) is GrantSpan:
                self.on_grant(effect)
            elif type(effect) is Reply:
                self.on_reply(effect)
        for sequence in self.awaited:
            assert any(not event.letter for event in self.events_of(sequence)), "an awaited event got no reply"
        for _, _, pattern in self.drains:
            assert self.matching(pattern), "a drain got no reply"
        self.model.events = [
            event
            for event in self.model.events
            if not event.settled or any(item in held for item in event.deliveries for held in self.model.held.values())
        ]

    def events_of(self, sequence):
        return [event for event in self.model.unsettled() if event.sequence == sequence]

    def matching(self, pattern):
        visible = [topic for topic in self.model.topics.values() if re.match(pattern, topic.name)]
        return [event for topic in visible for event in self.model.unsettled(topic)]

    def on_deliver(self, effect):
        assert effect.link in self.links
        held = self.model.held.get((effect.link, effect.subscriber))
        assert held is not None, "delivered to a process that does not host the subscriber"
        for raw in effect.raws:
            sequence = RECORD.unpack(raw)[6]
            delivery = self.model.delivery(sequence, effect.subscriber)
            assert delivery.state == QUEUED, "delivered twice at once"
            assert self.model.subscribers[delivery.subscriber.key] is delivery.subscriber
            assert effect.attempt == delivery.crashes + 1
            assert not any(item.crashes and not item.settled for item in held), "beside a suspect"
            assert not (delivery.crashes and held), "a suspect beside others"
            delivery.step("dispatched")
            held.append(delivery)
            if not delivery.returned and not delivery.event.letter:
                key = effect.subscriber, sequence >> m.SEQUENCE_LINK_SHIFT
                assert self.first_sent.get(key, 0) < sequence, "out of order"
                self.first_sent[key] = sequence
        assert len(held) <= self.endpoint(effect.link, effect.subscriber).credit

    def endpoint(self, link, subscriber):
        return self.core.ledger.links[link].endpoints[subscriber]

    def on_grant(self, effect):
        assert effect.link in self.links
        found = [item for item in self.wanted if item[:2] == (effect.link, effect.length)]
        assert found, "a span that nobody asked for"
        if not effect.segment:
            assert found[-1][2] == m.SPAN_AHEAD
            self.wanted.remove(found[-1])
            return
        self.wanted.remove(found[0])
        begin, end = effect.offset, effect.offset + effect.length
        for segment, start, stop in self.pinned():
            assert (segment != effect.segment) or stop <= begin or end <= start, "memory was given away twice"
        self.spans.append([effect.link, (effect.segment, begin, end), begin])

    def on_reply(self, effect):
        if effect.request >> m.SEQUENCE_LINK_SHIFT:
            assert self.awaited.pop(effect.request) == effect.link
            self.check_watcher(effect.value, self.last_watcher.pop(effect.request))
            return
        waiter = next(item for item in self.drains if item[:2] == (effect.link, effect.request))
        assert not self.matching(waiter[2]), "drained too early"
        self.drains.remove(waiter)

    def pinned(self):
        """Every span that has a writer, an unsettled event, a late reader or a lease."""
        return {span for _, span, _ in self.spans} | self.model.pinned_spans() | {span for _, span in self.leases}

    @staticmethod
    def check_watcher(told, expected):
        assert [{tuple(key) for key in part} for part in told] == expected

    @property
    def last_watcher(self):
        """The watcher of every awaited event, as it is now; settled ones are still in the model at this point."""
        return {event.sequence: event.watcher() for event in self.model.events if not event.letter}

    # --- processes ---

    @rule()
    @precondition(lambda self: len(self.links) < 4)
    def open_link(self):
        number = next(self.link_numbers)
        self.tell(m.LinkOpened(number, 1000 + number))
        self.links.append(number)
        self.sequences[number] = number << m.SEQUENCE_LINK_SHIFT

    @rule(which=pick, crashed=st.booleans(), goodbye=st.booleans())
    @precondition(lambda self: len(self.links) > 1)
    def lose_link(self, which, crashed, goodbye):
        link = self.links[which % len(self.links)]
        if goodbye:
            self.ask(m.Goodbye, link=link)
        self.tell(m.LinkLost(link, crashed))
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

    def hosted_by(self, link):
        """In the order that the link began to host them."""
        numbers = [number for owner, number in self.model.held if owner == link]
        return [self.by_number[number] for number in numbers]

    # --- the registry ---

    def note_topic(self, name):
        number, _ = self.ask(m.ResolveTopic, name)
        self.model.topics[name] = ModelTopic(name, number)

    @rule(name=st.sampled_from(TOPICS))
    def register(self, name):
        assert self.ask(m.RegisterTopic, name) == (name not in self.model.topics)
        if name not in self.model.topics:
            self.note_topic(name)

    @precondition(lambda self: self.calls % 4 == 0)
    @rule(name=st.sampled_from(TOPICS))
    def unregister(self, name):
        assert self.ask(m.UnregisterTopic, name) == (name in self.model.topics)
        if name in self.model.topics:
            self.model.forget_topic(name)
        self.settle_up()

    by_number = property(lambda self: self.__dict__.setdefault("_by_number", {}))

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
        number = self.ask(m.Subscribe, *key, patterns, credit, broadcast, link=link)
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
        assert self.ask(m.Unsubscribe, *key) == (subscriber is not None)
        if subscriber is not None:
            self.model.unsubscribe(subscriber)
            self.drop_empty_hands(subscriber)
        self.settle_up()

    def drop_empty_hands(self, subscriber):
        """A process no longer hosts an unsubscribed subscriber of which it holds nothing."""
        if self.model.subscribers.get(subscriber.key) is subscriber:
            return
        for key in [key for key, held in self.model.held.items() if key[1] == subscriber.number and not held]:
            del self.model.held[key]

    @rule(which=pick)
    def stop_hosting(self, which):
        if not self.model.held:
            return
        link, number = list(self.model.held)[which % len(self.model.held)]
        assert self.ask(m.StopHosting, number, link=link) is True
        self.model.drop_host(self.by_number[number], link, "returned", self.now_ns)
        self.model.give_up_orphans(self.now_ns)
        self.settle_up()

    # --- memory ---

    @rule(which=pick, blocks=st.sampled_from((1, 1, 2, 4)), urgency=st.integers(m.SPAN_AHEAD, m.SPAN_RESERVE))
    def want_span(self, which, blocks, urgency):
        link = self.links[which % len(self.links)]
        self.wanted.append((link, blocks * BLOCK_BYTES, urgency))
        self.tell(m.SpanWanted(link, blocks * BLOCK_BYTES, urgency))
        self.settle_up()

    @rule(which=pick, blocks=st.sampled_from((1, 2, 4)))
    def cancel_span(self, which, blocks):
        link = self.links[which % len(self.links)]
        self.wanted = [item for item in self.wanted if item[:2] != (link, blocks * BLOCK_BYTES)]
        self.tell(m.SpanWanted(link, blocks * BLOCK_BYTES, m.SPAN_CANCELLED))
        self.settle_up()

    @rule(which=pick)
    @precondition(lambda self: self.spans)
    def seal(self, which):
        link, (segment, begin, _), _ = found = self.spans[which % len(self.spans)]
        self.tell(m.SpanSealed(link, segment, begin))
        self.spans.remove(found)
        self.settle_up()

    @rule(which=pick, who=pick)
    def lease(self, which, who):
        found = self.model.unsettled()
        if not found:
            return
        link, event = self.links[which % len(self.links)], found[who % len(found)]
        visible = any(self.model.topics.get(item.topic.name) is item.topic for item in self.events_of(event.sequence))
        origin = self.origin(event)
        got = self.ask(m.LeaseEvent, origin, event.sequence, link=link)
        assert got == self.can_be_found(event)
        assert visible or not got
        if got:
            self.leases.append((link, event.span))
        self.settle_up()

    def origin(self, event):
        """The topic number in the event's record: a dead letter keeps that of its event."""
        return self.origins[event.sequence]

    origins = property(lambda self: self.__dict__.setdefault("_origins", {}))

    def can_be_found(self, event):
        return bool(self.findable(event.sequence))

    def findable(self, sequence):
        live = [item for item in self.events_of(sequence) if self.model.topics.get(item.topic.name) is item.topic]
        return [item for item in live if not item.letter] + [item for item in live if item.letter]

    @rule(which=pick)
    @precondition(lambda self: self.leases)
    def release(self, which):
        link, span = self.leases.pop(which % len(self.leases))
        self.tell(m.SpanReleased(link, span[0], span[1] + EVENT_BYTES))
        self.settle_up()

    # --- events ---

    @rule(
        which=pick,
        names=st.lists(st.tuples(st.sampled_from(TOPICS), st.booleans(), st.integers(0, 3)), min_size=1, max_size=5),
    )
    def notify(self, which, names):
        if not self.spans:
            self.want_span(which, 1, m.SPAN_NEEDED)
        if not self.spans:
            return  # Memory is full.
        place = self.spans[which % len(self.spans)]
        link, span, _ = place
        raws, events = [], []
        for name, awaited, ttl in names:
            topic = self.model.topics.get(name)
            sequence = self.sequences[link] = self.sequences[link] + 1
            deadline_ns = self.now_ns + (ttl << BUCKET_SHIFT) if ttl else 0
            kind = m.NOTIFIED_AWAITED if awaited else m.NOTIFIED
            number = topic.number if topic else 1
            if topic is None and any(item.number == 1 for item in self.model.topics.values()):
                continue
            raws.append(RECORD.pack(kind, number, span[0], place[2], EVENT_BYTES, deadline_ns, sequence))
            place[2] += EVENT_BYTES
            end_ns = ((deadline_ns >> BUCKET_SHIFT) + 1) << BUCKET_SHIFT if ttl else 0
            subscribers = self.model.route(topic) if topic else []
            event = ModelEvent(sequence, topic, subscribers, span, end_ns)
            self.origins[sequence] = number
            events.append((event, awaited))
        if not raws:
            return
        self.tell(m.EventsNotified(link, raws, [RECORD.unpack(raw) for raw in raws]))
        for event, awaited in events:
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
        numbers += [item.event.sequence for item in foreign if item.event.sequence not in [d.event.sequence for d in held]]
        numbers.append(7)
        self.tell(m.DeliveriesSettled(key[0], key[1], outcome, numbers))
        subscriber = self.by_number[key[1]]
        for delivery in chosen:
            held.remove(delivery)
            if outcome == Outcome.RETURNED:
                self.model.come_back(delivery, "returned")
            elif not delivery.settled:
                if outcome == Outcome.FAILED:
                    self.model.letter(delivery.event)
                delivery.step("completed" if outcome == Outcome.COMPLETED else "skipped")
        if self.model.subscribers.get(subscriber.key) is not subscriber:
            self.model.skip_waiting(subscriber)
        self.drop_empty_hands(subscriber)
        self.settle_up()

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
        self.ask(m.MarkEvent, self.origin(event), event.sequence, *subscriber.key, outcome, link=link)
        if delivery.state == SENT and delivery in self.model.held.get((link, subscriber.number), []):
            self.model.held[link, subscriber.number].remove(delivery)
        delivery.step("completed" if completed else "skipped")
        self.settle_up()

    @rule(which=pick, pattern=st.sampled_from((".*", "a", "b$", "dead")))
    def drain(self, which, pattern):
        link, request = self.links[which % len(self.links)], next(self.requests)
        self.drains.append((link, request, pattern))
        self.tell(m.Drain(link, request, pattern))
        self.settle_up()

    @rule(which=pick)
    def cancel_wait(self, which):
        waiting = [*((link, request) for link, request, _ in self.drains), *((b, a) for a, b in self.awaited.items())]
        if not waiting:
            return
        link, request = waiting[which % len(waiting)]
        self.ask(m.CancelWait, request, link=link)
        self.drains = [item for item in self.drains if item[:2] != (link, request)]
        self.awaited.pop(request, None)
        self.settle_up()

    @rule(buckets=st.integers(1, 100))
    def pass_time(self, buckets):
        self.now_ns += buckets << BUCKET_SHIFT
        self.tell(m.TimePassed())
        self.model.expire(self.now_ns)
        self.settle_up()

    # --- always ---

    @invariant()
    def memory_is_exactly_what_is_pinned(self):
        used = sum(end - begin for _, begin, end in self.pinned())
        assert self.core.ledger.spans.used_bytes == used

    @invariant()
    def every_watcher_agrees(self):
        for topic in self.model.topics.values():
            told = {RECORD.unpack(raw)[6]: watcher for raw, watcher in self.ask(m.ListEvents, topic.name, True)}
            expected = {event.sequence: event for event in self.model.unsettled(topic)}
            assert set(told) == set(expected)
            for sequence, event in expected.items():
                self.check_watcher(told[sequence], event.watcher())
                first = self.findable(sequence)[0]
                self.check_watcher(self.ask(m.WatchEvent, self.origin(event), sequence), first.watcher())

    @invariant()
    def nobody_waits_beside_free_credit(self):
        for subscriber in self.model.subscribers.values():
            waiting = self.model.waiting(subscriber)
            suspected = any(delivery.crashes for delivery in waiting)
            for link in subscriber.hosts if waiting else ():
                held = self.model.held[link, subscriber.number]
                if suspected:
                    assert held, "a suspect waits beside an idle process"
                elif not any(delivery.crashes and not delivery.settled for delivery in held):
                    assert len(held) >= self.endpoint(link, subscriber.number).credit, "waits beside free credit"

    @invariant()
    def nobody_waits_for_memory_that_is_free(self):
        assert not (self.wanted and not self.core.ledger.spans.used_bytes)

    def teardown(self):
        """When everybody is gone and every grace is over, nothing is left."""
        if not hasattr(self, "core"):
            return
        for link in self.links:
            self.core.handle(m.LinkLost(link, crashed=False), self.now_ns)
        self.core.handle(m.TimePassed(), self.now_ns + 10 * GRACE_NS)
        ledger = self.core.ledger
        assert ledger.spans.used_bytes == 0
        assert not any(topic.events for topic in ledger.registry.topics.values())
        assert not (ledger.links or ledger.awaited or ledger.lettered or ledger.drains or ledger.span_requests)
        assert not (ledger.registry.subscribers or ledger.registry.subscriber_by_number or ledger.orphans)
        assert ledger.expiry.next_due_ns() is None


CoreMachine.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestCoreMachine = pytest.mark.filterwarnings("default")(CoreMachine.TestCase)
