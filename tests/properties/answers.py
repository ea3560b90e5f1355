"""What the core answers at every step: the event log, ids, the snapshot and what is stuck agree with the model."""

from hypothesis.stateful import invariant

from eventbus_mp.core.masks import bits
from eventbus_mp.core.requests.history import FOUND_MAX
from eventbus_mp.core.transitions import COMPLETED, QUEUED, SENT, SKIPPED
from eventbus_mp.protocol.effects import Reply, ReplyWithFacts
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.records import RECORD, SEQUENCE
from eventbus_mp.protocol.requests import FindEvents, GetSnapshot, ListStuck
from tests.properties.harness import CRCS, CoreHarness, id_crc

LAST_TOLD = {
    HistoryKind.SENT: {SENT},
    HistoryKind.RETURNED: {QUEUED},
    HistoryKind.CRASHED: {QUEUED},
    HistoryKind.RETRIED: {QUEUED},
    HistoryKind.COMPLETED: {COMPLETED},
    HistoryKind.MARKED_COMPLETED: {COMPLETED},
    HistoryKind.SKIPPED: {SKIPPED},
    HistoryKind.FAILED: {SKIPPED},
    HistoryKind.MARKED_SKIPPED: {SKIPPED},
    HistoryKind.GIVEN_UP: {SKIPPED},
}
"""The latest entry about an event for a subscriber -> the state that the delivery is in."""


class Answers(CoreHarness):
    @invariant()
    def the_log_tells_the_state_of_every_delivery(self):
        last: dict[object, int] = {}
        again = set()
        for _, kind, first, mask, _, _, key, _ in self.core.state.event_log.entries():
            for index in bits(mask):
                if kind in (HistoryKind.DEAD_LETTERED, HistoryKind.REDELIVERED):
                    again.add(first + index)  # From now on several events have this number, perhaps for one subscriber.
                if key is not None:
                    last[first + index, key] = kind
        for event in self.model.unsettled():
            for delivery in event.deliveries if event.sequence not in again else ():
                told_last = last.get((event.sequence, delivery.subscriber.key))
                expected = LAST_TOLD[HistoryKind(told_last)] if told_last is not None else {QUEUED}
                assert delivery.state in expected, (told_last, delivery.state)

    @invariant()
    def every_unsettled_event_is_found_by_its_id(self):
        topics = list(self.model.topics.values())
        if not topics:
            return
        # One question a step: each one has the core check all its invariants.
        topic, crc = topics[self.calls % len(topics)], self.calls % CRCS
        expected = [event.sequence for event in self.model.unsettled(topic) if id_crc(event.sequence) == crc]
        found = [item[SEQUENCE] for item in RECORD.iter_unpack(self.ask(FindEvents, topic.name, crc, False))]
        assert len(found) == min(len(expected), FOUND_MAX)
        assert sorted(found) == sorted(expected) if len(expected) <= FOUND_MAX else set(found) <= set(expected)

    @invariant()
    def a_snapshot_counts_what_the_model_has(self):
        if self.calls % 4:
            return  # Each question has the core check all its invariants.
        (reply,) = self.core.handle(GetSnapshot(self.links[0], next(self.requests), -1), self.now_ns)
        assert isinstance(reply, ReplyWithFacts)
        topics = {row["name"]: row["unsettled"] for row in reply.value["topics"]}
        assert topics == {topic.name: len(self.model.unsettled(topic)) for topic in self.model.topics.values()}
        for row in reply.value["subscribers"]:
            subscriber = self.model.subscribers[row["name"], row["config"], row["host"]]
            held = [self.model.held[link, subscriber.number] for link in subscriber.hosts]
            assert row["in_flight"] == sum(map(len, held))
            assert row["queued"] == len(self.model.waiting(subscriber))
        assert len(reply.value["processes"]) == len(self.links)

    @invariant()
    def what_is_stuck_is_what_the_model_has_not_settled(self):
        if self.calls % 4 != 1:
            return
        (reply,) = self.core.handle(ListStuck(self.links[0], next(self.requests), 0, 1000, None), self.now_ns)
        assert isinstance(reply, Reply)
        rows = reply.value["deliveries"]
        ages = [row["age_ns"] for row in rows]
        assert ages == sorted(ages, reverse=True)
        expected = {
            (event.sequence, *delivery.subscriber.key, delivery.state == SENT)
            for event in self.model.unsettled()
            for delivery in event.deliveries
            if not delivery.settled
        }
        found = [
            (RECORD.unpack(row["record"])[SEQUENCE], row["name"], row["config"], row["host"], bool(row["pid"]))
            for row in rows
        ]
        assert len(found) == len(expected)
        assert set(found) == expected
