"""The rules of the machine that are about deliveries: what a process says of them, and dead letters that go again."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from eventbus_mp.core.expiry import BUCKET_SHIFT
from eventbus_mp.protocol.effects import Deliver, Refuse, Reply
from eventbus_mp.protocol.messages import DeliveriesSettled, DeliveriesTaken, Outcome
from eventbus_mp.protocol.records import RECORD, SEQUENCE
from eventbus_mp.protocol.requests import Demand, ListDeadLetters, MarkEvents, Redeliver, SettleRanges
from tests.properties.bound_rules import BoundRules
from tests.properties.memory_rules import pick
from tests.properties.registry_rules import SUBSCRIBERS


def ranges(numbers):
    """The numbers as (first, count), neighbours joined."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found


class DeliveryRules(BoundRules):
    """What a process does with what it was sent."""

    @rule(
        which=pick,
        outcome=st.sampled_from(Outcome),
        first=pick,
        count=st.integers(1, 4),
        repeated=st.booleans(),
        delay=st.integers(0, 9),
    )
    def settle(self, which, outcome, first, count, repeated, delay):
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
        delay_ns = delay << BUCKET_SHIFT if outcome == Outcome.RETRIED else 0
        self.feed(DeliveriesSettled(key[0], key[1], outcome, ranges(numbers), delay_ns=delay_ns))
        subscriber = self.by_number[key[1]]
        for delivery in chosen:
            held.remove(delivery)
            if outcome == Outcome.RETURNED:
                self.model.come_back(delivery, "returned")
            elif outcome == Outcome.RETRIED:
                self.model.retry(delivery, self.now_ns + delay_ns if delay_ns else 0)
            elif not delivery.settled:
                if outcome == Outcome.FAILED:
                    self.model.dead_letter(delivery.event, subscriber)
                delivery.step("completed" if outcome == Outcome.COMPLETED else "skipped")
        if self.model.subscribers.get(subscriber.key) is not subscriber:
            self.model.skip_waiting(subscriber)
        self.drop_empty_hands(subscriber)
        self.settle_up()

    @rule(which=pick, first=pick, count=st.integers(1, 4), repeated=st.booleans())
    def take(self, which, first, count, repeated):
        hands = [key for key, held in self.model.held.items() if held]
        if not hands:
            return
        key = hands[which % len(hands)]
        held = self.model.held[key]
        chosen = held[first % len(held) :][:count]
        numbers = [item.event.sequence for item in chosen] * (1 + repeated)
        self.feed(DeliveriesTaken(key[0], key[1], [*ranges(numbers), (7, 1)]))
        for delivery in chosen:
            delivery.taken = True
        self.settle_up()

    @rule(which=pick, count=st.integers(1, 6))
    def demand(self, which, count):
        if not self.model.held:
            return
        key = link, number = list(self.model.held)[which % len(self.model.held)]
        request = next(self.requests)
        self.feed(Demand(link, request, number, count))
        sent = [type(effect) for effect in self.effects].count(Deliver)
        *before, answer = self.effects[: sent + 1]
        assert answer == Reply(link, request, None), "the answer comes behind what it promises"
        self.effects = before + self.effects[sent + 1 :]
        if self.model.subscribers.get(self.by_number[number].key) is self.by_number[number]:
            self.model.demands[key] = max(0, count - len(self.untaken(link, number)))
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
        # If it was sent again, that one is meant.
        again = [item for item in ours if item.event.sequence == event.sequence and item.subscriber is subscriber]
        delivery = next((item for item in again if not item.settled), delivery)
        self.ask(MarkEvents, *subscriber.key, outcome, "", [self.origin(event), event.sequence], link=link)
        delivery.step("completed" if completed else "skipped")
        self.settle_up()

    @rule(which=pick, who=pick, first=pick, count=st.integers(1, 4), completed=st.booleans())
    def settle_by_number(self, which, who, first, count, completed):
        """Of any subscriber, wherever its deliveries are; and some that it does not have."""
        link, key = self.links[which % len(self.links)], SUBSCRIBERS[who % len(SUBSCRIBERS)]
        subscriber = self.model.subscribers.get(key)
        ours = [
            item for event in self.model.unsettled() for item in event.deliveries
            if item.subscriber is subscriber and not item.settled
        ]  # fmt: skip
        chosen = ours[first % len(ours) :][:count] if ours else []
        numbers = sorted({item.event.sequence for item in chosen})
        flat = [part for pair in [*ranges(numbers), (7, 1)] for part in pair]
        outcome = Outcome.COMPLETED if completed else Outcome.SKIPPED
        self.ask(SettleRanges, *key, outcome, "elsewhere", flat, link=link)
        for delivery in ours:
            if delivery.event.sequence in numbers:
                delivery.step("completed" if completed else "skipped")
        self.settle_up()

    @rule(which=pick, who=pick, all_of_them=st.booleans())
    def redeliver(self, which, who, all_of_them):
        letters = [event for event in self.model.unsettled() if event.dead_letter]
        listed = self.ask(ListDeadLetters, 0, 1_000)
        found = [
            (RECORD.unpack(item["record"])[SEQUENCE], (item["name"], item["config"], item["host"])) for item in listed
        ]
        # Those of one moment come in the order in which they were given up, which the model does not know.
        assert sorted(found) == sorted((event.sequence, event.failed.key) for event in letters)
        if not letters:
            return
        link, letter = self.links[which % len(self.links)], letters[who % len(letters)]
        # Nor does it know which of several comes first, if a subscriber has room for some of them.
        all_of_them &= not any(any(event.failed.bound[:2]) for event in letters)
        request = next(self.requests)
        self.feed(Redeliver(link, request, 0 if all_of_them else letter.sequence))
        answers = [
            effect for effect in self.effects if isinstance(effect, Reply | Refuse) and effect.request == request
        ]
        self.effects = [effect for effect in self.effects if effect not in answers]
        sent = 0
        for event in letters if all_of_them else [letter]:
            sent += self.model.redeliver(event)
        assert answers == ([Reply(link, request, sent)] if sent or all_of_them else answers)
        assert type(answers[0]) is (Reply if sent or all_of_them else Refuse)
        for subscriber in self.by_number.values():
            self.drop_empty_hands(subscriber)
        self.settle_up()
