"""The rules of the machine that are about memory: spans that are wanted and sealed, leases that come and go."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.protocol.messages import SPAN_AHEAD, SPAN_CANCELLED, SPAN_RESERVE, SpanReleased, SpanSealed, SpanWanted
from eventbus_mp.protocol.requests import LeaseEvent
from tests.properties.answers import Answers

EVENT_BYTES = 64

pick = st.integers(0, 1 << 16)
"""An index into whatever there is: taken modulo its length, so that every draw fits."""


class MemoryRules(Answers):
    """What a process does with memory."""

    @rule(which=pick, blocks=st.sampled_from((1, 1, 2, 3, 5)), urgency=st.integers(SPAN_AHEAD, SPAN_RESERVE))
    def want_span(self, which, blocks, urgency):
        link = self.links[which % len(self.links)]
        self.wanted.append((link, blocks * CHUNK_BYTES, urgency))
        self.feed(SpanWanted(link, blocks * CHUNK_BYTES, urgency))
        self.settle_up()

    @rule(which=pick, blocks=st.sampled_from((1, 2, 3, 5)))
    def cancel_span(self, which, blocks):
        link = self.links[which % len(self.links)]
        self.wanted = [item for item in self.wanted if item[:2] != (link, blocks * CHUNK_BYTES)]
        self.feed(SpanWanted(link, blocks * CHUNK_BYTES, SPAN_CANCELLED))
        self.settle_up()

    @rule(which=pick)
    @precondition(lambda self: self.spans)
    def seal(self, which):
        link, (segment, begin, _), _ = found = self.spans[which % len(self.spans)]
        self.feed(SpanSealed(link, segment, begin))
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
        got = self.ask(LeaseEvent, origin, event.span[1], EVENT_BYTES, event.sequence, link=link)
        assert got == self.can_be_found(event)
        assert visible or not got
        if got:
            self.leases.append((link, event.span, event.sequence))
        self.settle_up()

    @rule(which=pick)
    @precondition(lambda self: self.leases)
    def release(self, which):
        link, _, sequence = self.leases.pop(which % len(self.leases))
        self.feed(SpanReleased(link, sequence))
        self.settle_up()
