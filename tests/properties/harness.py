"""What every step of the machine needs: the core beside the model, and every effect checked against it."""

import itertools
import re

from hypothesis.stateful import RuleBasedStateMachine, invariant

from eventbus_mp.config import BusConfig
from eventbus_mp.core.allocator.spans import RESERVE_BYTES_MIN, RESERVE_DIVISOR
from eventbus_mp.core.bus import BusCore
from eventbus_mp.core.transitions import QUEUED
from eventbus_mp.geometry import CHUNK_BYTES, SEQUENCE_LINK_SHIFT, SPILLED_FROM
from eventbus_mp.protocol.client_events import Recalled, TopicStale
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.effects import CloseLink, Deliver, GrantSpan, Refuse, Reply, Tell
from eventbus_mp.protocol.messages import SPAN_AHEAD, SPAN_RESERVE, LinkLost, TimePassed
from eventbus_mp.protocol.records import RECORD, SEQUENCE
from eventbus_mp.protocol.requests import FindEvents, ListEvents, WatchEvent
from tests.properties.model import Model

MEMORY_BYTES = 16 * CHUNK_BYTES
CRASHES_MAX = 2
ORPHAN_GRACE_NS = 1_000_000_000


CRCS = 3
KEPT_MAX = 5
"""How many changes of the registry are kept."""


def id_crc(sequence):
    """Few different ones, so that events share them."""
    return sequence % CRCS


def new_core(config):
    """A core that keeps few changes, so that followers fall behind."""
    core = BusCore(config, 1)
    core.state.changes.kept_max, core.state.changes.page_max = KEPT_MAX, 2
    return core


def told(core):
    """The entries of a core's log, with names for its own objects."""
    return [(*entry[:4], [topic.name for topic in entry[4]], *entry[5:]) for entry in core.state.event_log.entries()]


class CoreHarness(RuleBasedStateMachine):
    def begin(self, dead_letter_topic, spill_bytes):
        config = BusConfig(
            memory_bytes_max=MEMORY_BYTES,
            spill_bytes_max=spill_bytes,
            crashes_max=CRASHES_MAX,
            orphan_grace_s=ORPHAN_GRACE_NS / 1e9,
            dead_letter_topic=dead_letter_topic,
            check_invariants=True,
        )
        self.now_ns = 1
        self.calls = 0
        """Makes rules that tear down rarer than rules that build up."""
        self.core = new_core(config)
        self.config, self.fed = config, []
        self.model = Model(CRASHES_MAX, ORPHAN_GRACE_NS, dead_letter_topic)
        self.requests = itertools.count(1)
        self.link_numbers = itertools.count(1)
        self.links, self.sequences, self.spans, self.leases = [], {}, [], []
        self.awaited, self.drains, self.wanted, self.first_sent = {}, [], [], {}
        self.required = {}
        """link -> (names without which it publishes nothing, numbers of the topics that have all of them)."""
        self.by_number = {}
        """Subscribers, those that are gone too."""
        self.rooms = {}
        """(link, request) -> the topic for which room is waited for."""
        self.room_answers = []
        """Topic and room of each answer that was not checked yet."""
        self.mirrors = {}
        """(link, follower) -> what it knows of topics and subscribers."""
        self.directions = {}
        """link -> (to whom its events go, whether they come from another host), if it has said so."""
        self.origins = {}
        """sequence -> the topic number in its record."""

    def feed(self, message):
        """Hand a message to the core; the effects are checked by `settle_up`, once the model has had it too."""
        self.now_ns += 1
        self.calls += type(message) not in (WatchEvent, FindEvents)
        self.effects = self.core.handle(message, self.now_ns)
        self.fed.append((message, self.now_ns, self.effects))
        assert not [effect for effect in self.effects if type(effect) is CloseLink]

    def feed_notified(self, link, packed):
        """Hand over what one read brings; cut up, or as one."""
        (message,) = ManagerDecoder(link).feed(b"".join(packed))
        self.feed(message)

    def ask(self, kind, *fields, link=None):
        """The answer to a request; None when it is not answered in the same step."""
        link = link or self.links[0]
        request = next(self.requests)
        self.feed(kind(link, request, *fields))
        answers = [item for item in self.effects if isinstance(item, Reply | Refuse) and item.request == request]
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
            elif isinstance(effect, Tell) and isinstance(effect.event, Recalled):
                self.on_recall(effect.link, effect.event)
            elif type(effect) is GrantSpan:
                self.on_grant(effect)
            elif type(effect) is Reply:
                self.on_reply(effect)
        self.check_required()
        for sequence in self.awaited:
            assert any(not event.dead_letter for event in self.events_of(sequence)), "an awaited event got no reply"
        for _, _, pattern in self.drains:
            assert self.matching(pattern), "a drain got no reply"
        self.model.events = [
            event
            for event in self.model.events
            if not event.settled or any(item in held for item in event.deliveries for held in self.model.held.values())
        ]

    def check_required(self):
        """Who requires a subscriber that is gone hears of it, at once and once."""
        events = [(effect.link, effect.event) for effect in self.effects if isinstance(effect, Tell)]
        told = {(link, event.topic) for link, event in events if isinstance(event, TopicStale)}
        self.required = {link: required for link, required in self.required.items() if link in self.links}
        for link, (names, topics) in self.required.items():
            for number in list(topics):
                if not names <= self.model.names_of(number):
                    assert (link, number) in told
                    topics.discard(number)
            assert self.core.state.links[link].required_topics == topics

    def check_room(self, name, room):
        """How many events may be sent to a topic: any number, some, or none, and who is in the way."""
        topic = self.model.topics.get(name)
        full = self.model.in_the_way(topic) if topic else []
        blocking = [item for item in self.model.route(topic) if any(item.bound[:2])] if topic else []
        if full:
            assert sorted(tuple(row[:3]) for row in room) == sorted(item.key for item in full)
        elif any(item.bound[2] == "block" for item in blocking):
            assert room >= 1
        else:
            assert room is None

    def events_of(self, sequence):
        return [event for event in self.model.unsettled() if event.sequence == sequence]

    def matching(self, pattern):
        visible = [topic for topic in self.model.topics.values() if re.match(pattern, topic.name)]
        return [event for topic in visible for event in self.model.unsettled(topic)]

    def on_deliver(self, effect):
        assert effect.link in self.links
        held = self.model.held.get((effect.link, effect.subscriber))
        assert held is not None, "delivered to a process that does not host the subscriber"
        key = effect.link, effect.subscriber
        assert len(effect.packed) <= self.free(*key) * RECORD.size, "more than it wants, or may hold"
        for *_, sequence in RECORD.iter_unpack(effect.packed):
            delivery = self.model.delivery(sequence, effect.subscriber)
            forwards = effect.link in delivery.subscriber.forwarders
            assert not (forwards and delivery.event.imported), "from one host to the next"
            assert delivery.state == QUEUED, "delivered twice at once"
            assert self.model.subscribers[delivery.subscriber.key] is delivery.subscriber
            assert not delivery.due_ns, "delivered before its time"
            assert sequence not in [item.event.sequence for item in held], "a process knows an event by its number"
            assert effect.attempt == 1 + delivery.crashes + delivery.tries
            untaken = [item for item in held if not item.taken]
            assert not any(item.crashes and not item.settled for item in untaken), "beside a quarantined event"
            assert not (delivery.crashes and untaken), "a quarantined event beside others"
            delivery.step("dispatched")
            delivery.taken = False
            held.append(delivery)
            self.model.demands[key] = max(0, self.model.demands.get(key, 0) - 1)
            if not delivery.returned and not delivery.event.dead_letter:
                producer = effect.subscriber, sequence >> SEQUENCE_LINK_SHIFT
                assert self.first_sent.get(producer, 0) < sequence, "out of order"
                self.first_sent[producer] = sequence

    def on_recall(self, link, event):
        key = link, event.subscriber
        subscriber = self.by_number[event.subscriber]
        assert event.keep < len(self.untaken(*key)) - 1
        assert not self.model.ready(subscriber), "called back while others wait"
        others = [other for other in subscriber.hosts if other != link and other not in subscriber.forwarders]
        assert any(not self.untaken(other, event.subscriber) for other in others), "called back for nobody"
        self.model.demands[key] = 0

    def untaken(self, link, subscriber):
        return [item for item in self.model.held[link, subscriber] if not item.taken]

    def free(self, link, subscriber):
        """How many deliveries more a process is to have. What credit it has, the core decides."""
        endpoint = self.endpoint(link, subscriber)
        if endpoint.is_recalled:
            return 0
        wanted = endpoint.credit - len(self.untaken(link, subscriber))
        wanted = max(wanted, self.model.demands.get((link, subscriber), 0))
        return max(0, min(wanted, endpoint.held_max - len(self.model.held[link, subscriber])))

    def endpoint(self, link, subscriber):
        return self.core.state.links[link].endpoints[subscriber]

    def on_grant(self, effect):
        assert effect.link in self.links
        found = [item for item in self.wanted if item[:2] == (effect.link, effect.length)]
        assert found, "a span that nobody asked for"
        if not effect.segment:
            assert found[-1][2] == SPAN_AHEAD
            self.wanted.remove(found[-1])
            return
        begin, end = effect.offset, effect.offset + effect.length
        for segment, start, stop in self.pinned():
            assert (segment != effect.segment) or stop <= begin or end <= start, "memory was given away twice"
        used = sum(stop - start for _, start, stop in self.pinned()) + effect.length
        spilled = sum(stop - start for segment, start, stop in self.pinned() if segment >= SPILLED_FROM)
        spilled += effect.length * (effect.segment >= SPILLED_FROM)
        reserve_bytes = max(MEMORY_BYTES // RESERVE_DIVISOR, RESERVE_BYTES_MIN)
        reserve_wanted = any(urgency == SPAN_RESERVE for _, _, urgency in found)
        assert spilled <= self.config.spill_bytes, "over the bound on files"
        assert used <= MEMORY_BYTES + (reserve_bytes + spilled) * reserve_wanted, "over the memory bound"
        # Which one it was is not known; a span to have ahead is answered at once, and one over the bound is reserve.
        self.wanted.remove(max(found, key=lambda item: (item[2] == SPAN_AHEAD, used > MEMORY_BYTES and item[2])))
        self.spans.append([effect.link, (effect.segment, begin, end), begin])

    def on_reply(self, effect):
        if effect.request >> SEQUENCE_LINK_SHIFT:
            assert self.awaited.pop(effect.request) == effect.link
            self.check_watcher(effect.value, self.last_watcher.pop(effect.request))
            return
        waiter = next(item for item in self.drains if item[:2] == (effect.link, effect.request))
        assert not self.matching(waiter[2]), "drained too early"
        self.drains.remove(waiter)

    def pinned(self):
        """Every span that has a writer, an unsettled event, a late reader or a lease."""
        return {span for _, span, _ in self.spans} | self.model.pinned_spans() | {span for _, span, _ in self.leases}

    @staticmethod
    def check_watcher(watcher, expected):
        assert {part: {tuple(key) for key in keys} for part, keys in watcher.items()} == expected

    @property
    def last_watcher(self):
        """The watcher of every awaited event, as it is now; settled ones are still in the model at this point."""
        first = [event for event in self.model.events if not event.dead_letter and not event.again]
        return {event.sequence: event.watcher() for event in first}

    def drop_empty_hands(self, subscriber):
        """A process no longer hosts an unsubscribed subscriber of which it holds nothing."""
        if self.model.subscribers.get(subscriber.key) is subscriber:
            return
        for key in [key for key, held in self.model.held.items() if key[1] == subscriber.number and not held]:
            del self.model.held[key]

    def findable(self, sequence):
        live = [item for item in self.events_of(sequence) if self.model.topics.get(item.topic.name) is item.topic]
        return sorted(live, key=lambda item: item.dead_letter or item.again)

    def can_be_found(self, event):
        return bool(self.findable(event.sequence))

    def origin(self, event):
        """The topic number in the event's record: a dead letter keeps that of its event."""
        return self.origins[event.sequence]

    def hosted_by(self, link):
        """In the order that the link began to host them."""
        numbers = [number for owner, number in self.model.held if owner == link]
        return [self.by_number[number] for number in numbers]

    # --- always ---

    @invariant()
    def memory_is_exactly_what_is_pinned(self):
        used = sum(end - begin for _, begin, end in self.pinned())
        assert self.core.state.spans.total_bytes == used

    @invariant()
    def every_watcher_agrees(self):
        for topic in self.model.topics.values():
            listed = {RECORD.unpack(event["record"])[SEQUENCE]: event["watcher"] for event in self.listed(topic.name)}
            expected = {event.sequence: event for event in self.model.unsettled(topic)}
            assert set(listed) == set(expected)
            for sequence, event in expected.items():
                self.check_watcher(listed[sequence], event.watcher())
                first = self.findable(sequence)[0]
                self.check_watcher(self.ask(WatchEvent, self.origin(event), sequence), first.watcher())

    def listed(self, topic):
        """Every unsettled event of the topic, asked for in small pages."""
        found: list[dict] = []
        while True:
            after = RECORD.unpack(found[-1]["record"])[SEQUENCE] if found else 0
            page = self.ask(ListEvents, topic, after, 3)
            assert len({RECORD.unpack(event["record"])[SEQUENCE] for event in page}) <= 3
            found += page
            if len(page) < 3:
                numbers = [RECORD.unpack(event["record"])[SEQUENCE] for event in found]
                assert numbers == sorted(numbers)
                return found

    @invariant()
    def nobody_waits_beside_free_credit(self):
        for subscriber in self.model.subscribers.values():
            waiting = self.model.ready(subscriber)
            quarantined = any(delivery.crashes for delivery in waiting)
            stuck = any(delivery.event.imported for delivery in waiting)
            for link in subscriber.hosts if waiting else ():
                if stuck and link in subscriber.forwarders:
                    continue  # One of these may be in front, and what is behind it waits for a process of this host.
                untaken, free = self.untaken(link, subscriber.number), self.free(link, subscriber.number)
                if quarantined:
                    assert untaken or not free, "a quarantined event waits beside an idle process"
                elif not any(delivery.crashes and not delivery.settled for delivery in untaken):
                    assert not free, "waits beside free credit"

    @invariant()
    def nobody_waits_for_memory_that_is_free(self):
        assert not (self.wanted and not self.core.state.spans.total_bytes)

    def teardown(self):
        """When everybody is gone and every grace is over, nothing is left."""
        if not hasattr(self, "core"):
            return
        # What a standby stands on: the same messages have the same effects.
        twin = new_core(self.config)
        for message, now_ns, effects in self.fed:
            assert twin.handle(message, now_ns) == effects
        assert told(twin) == told(self.core)
        for link in self.links:
            self.core.handle(LinkLost(link, crashed=False), self.now_ns)
        self.core.handle(TimePassed(), self.now_ns + 10 * ORPHAN_GRACE_NS)
        state = self.core.state
        assert state.spans.total_bytes == 0
        assert not any(topic.unsettled for topic in state.registry.topics.values())
        left = [state.links, state.awaited, list(state.batches), state.drains, state.span_requests, state.orphans]
        left += [state.recall_checks, state.registry.subscribers, state.registry.subscriber_by_number]
        assert not any(left)
        assert state.expiry.next_due_ns() is None
