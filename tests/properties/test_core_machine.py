"""Random messages to the core, compared with the naive model of model.py after each of them.

Hypothesis prints the steps of a failure, and a line that plays it again. To make the steps few can take longer than the
watchdog waits (`Timeout`). Run the test again then: it begins with what was found.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from eventbus_mp.core.expiry import BUCKET_SHIFT
from eventbus_mp.geometry import CHUNK_BYTES, SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol import records
from eventbus_mp.protocol.messages import (
    SPAN_NEEDED,
    LinkLost,
    LinkOpened,
    Outcome,
    TimePassed,
)
from eventbus_mp.protocol.requests import (
    CancelWait,
    CutOff,
    Drain,
    Goodbye,
)
from tests.properties.harness import id_crc
from tests.properties.memory_rules import EVENT_BYTES, pick
from tests.properties.model import ModelEvent
from tests.properties.receipt_rules import ReceiptRules
from tests.properties.registry_rules import PATTERNS, SUBSCRIBERS, TOPICS

events = st.lists(st.tuples(st.sampled_from(TOPICS), st.booleans(), st.integers(0, 3)), min_size=1, max_size=5)
"""(topic, awaited, ttl in buckets) of each event of a batch."""


class CoreMachine(ReceiptRules):
    @initialize(letters=st.booleans(), links=st.integers(2, 3), spill_chunks=st.sampled_from((0, 6)))
    def start(self, letters, links, spill_chunks):
        self.begin("dead" if letters else None, spill_chunks * CHUNK_BYTES)
        for _ in range(links):
            self.open_link()
        if letters:
            self.note_topic("dead")
        # An empty bus answers nothing of interest: begin with a full one.
        for name in TOPICS:
            self.register(name)
        self.subscribe(0, 0, PATTERNS[0], 2, False, 1)
        self.subscribe(1, 0, PATTERNS[0], 1, False, 1)
        self.subscribe(1, 2, PATTERNS[3], 0, False, 1)
        self.subscribe(2, 3, PATTERNS[4], 3, True, 1)
        self.subscribe(1, 4, PATTERNS[3], 3, False, 1)
        self.want_span(2, 1, SPAN_NEEDED)
        self.open_receipts(2, "r1")

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
        what = "holder_crashed" if crashed and not goodbye else "returned"
        self.end_link(link, crashed, lambda delivery: what)

    @rule(which=pick, others=st.lists(pick, max_size=2), is_batch=st.booleans())
    @precondition(lambda self: len(self.links) > 1)
    def cut_off(self, which, others, is_batch):
        """A pool says for which deliveries it kills a process, and kills it."""
        busy = sorted(place for place, held in self.model.held.items() if held)
        if not busy:
            return
        link = busy[which % len(busy)][0]
        held = [delivery for place in busy if place[0] == link for delivery in self.model.held[place]]
        asking = next(item for item in self.links if item != link)
        accused = []
        for guilty in [held[one % len(held)] for one in (which, *others)]:
            number = guilty.subscriber.number
            sequence = 0 if is_batch else guilty.event.sequence
            assert self.ask(CutOff, link, number, sequence, "it took too long", link=asking)
            accused += [item for item in held if item.subscriber.number == number] if is_batch else [guilty]

        def what_of(delivery):
            return "holder_crashed" if any(delivery is item for item in accused) else "returned"

        self.end_link(link, True, what_of)

    def end_link(self, link, crashed, what_of):
        self.feed(LinkLost(link, crashed))
        self.note_link_lost(link)
        self.links.remove(link)
        self.directions.pop(link, None)
        self.spans = [item for item in self.spans if item[0] != link]
        self.leases = [item for item in self.leases if item[0] != link]
        self.wanted = [item for item in self.wanted if item[0] != link]
        self.drains = [item for item in self.drains if item[0] != link]
        self.awaited = {sequence: owner for sequence, owner in self.awaited.items() if owner != link}
        for subscriber in self.hosted_by(link):
            self.model.drop_host(subscriber, link, what_of, self.now_ns)
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
            forwards = link in subscriber.forwarders
            fields = subscriber.patterns, 2, subscriber.broadcast, 1, subscriber.scope, forwards
            self.subscribe(len(self.links) - 1, who, *fields)
        self.lose_link(self.links.index(link), crashed=True, goodbye=False)

    # --- events ---

    @rule(which=pick, names=events, box=pick, dropped=st.integers(0, 2))
    def notify_tagged(self, which, names, box, dropped):
        """Each event has a tag; those that nobody gets may not be sent, and take numbers behind the others."""
        self.notify(which, names, (box, dropped))

    @rule(which=pick, names=events)
    def notify(self, which, names, tagged=None):
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
            at = span[0], place[2], EVENT_BYTES
            packed.append(records.pack_notified(number, *at, deadline_ns, sequence, awaited, id_crc(sequence)))
            place[2] += EVENT_BYTES
            end_ns = ((deadline_ns >> BUCKET_SHIFT) + 1) << BUCKET_SHIFT if ttl else 0
            keys, imported = self.directions.get(link, ((), False))
            subscribers = self.model.route(topic, keys, imported) if topic else []
            event = ModelEvent(sequence, topic, subscribers, span, end_ns, imported=imported)
            self.origins[sequence] = number
            notified.append((event, awaited))
        if not packed:
            return
        if tagged is not None:
            self.sequences[link] -= len(packed)
            self.tag(link, tagged[0], len(packed), tagged[1])
            self.sequences[link] += len(packed) + tagged[1]
        self.note_notified(link, notified)
        self.feed_notified(link, packed)
        for event, awaited in notified:
            self.model.notified(event)
            if awaited:
                self.awaited[event.sequence] = link
        self.settle_up()

    @rule(which=pick, names=events, outcome=st.sampled_from(Outcome), first=pick)
    def notify_and_settle(self, which, names, outcome, first):
        self.notify(which, names)
        self.settle(first, outcome, first, 4, False, first % 3)

    @rule(which=pick, names=events, first=pick, outcome=st.sampled_from(Outcome))
    def fail_and_redeliver(self, which, names, first, outcome):
        self.notify(which, names)
        self.settle(which, Outcome.FAILED, first, 4, False, 0)
        self.redeliver(which, first, True)
        self.settle(first, outcome, first, 4, False, which % 3)

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
