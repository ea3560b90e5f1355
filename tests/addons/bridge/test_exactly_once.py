"""An origin and a receiver, both with bridges that die at any moment, and a network that repeats letters: each delivery
is imported once, and its origin hears of its end. No process, no clock: Hypothesis says what happens when."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from eventbus_mp.addons.bridge.exports import Exports
from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.ledger import Ledger, Load
from eventbus_mp.addons.bridge.parcels import Confirm, Have, Outcomes, Who
from eventbus_mp.addons.bridge.ranges import sequences_in
from eventbus_mp.addons.bridge.targets import digest, keys_of

LIFE = b"a" * 8
TARGETS = (Target("bill", b"\xc0"), Target("ship", b"\xc0"))
DIGESTS = {digest(target): target for target in TARGETS}
LATER_S = 1000.0


class Numbered(NamedTuple):
    sequence: int


class Sent(NamedTuple):
    """A parcel of events, as far as it matters here."""

    events: list[tuple[int, tuple[Target, ...]]]


class Letter(NamedTuple):
    position: int
    parcel: object


class Box:
    """Letters in order; what was read and not acknowledged can be read again."""

    def __init__(self) -> None:
        self.unread: deque[Letter] = deque()
        self.unacked: list[Letter] = []

    def read(self) -> Letter:
        letter = self.unread.popleft()
        self.unacked.append(letter)
        return letter

    def ack(self, letter: Letter) -> None:
        for letters in (self.unacked, self.unread):  # It may have been given out again.
            if letter in letters:
                letters.remove(letter)

    def floor(self, last: int) -> int:
        """Up to which position all letters are acknowledged; `last` is that of the last letter anywhere."""
        return min([letter.position for letter in (*self.unread, *self.unacked)], default=last + 1) - 1

    def repeat(self) -> None:
        """The time of all that was read is over, in any order with what is not read."""
        self.unread.extendleft(reversed(self.unacked))
        self.unacked.clear()


class Hosts(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now_s = 0.0
        self.position = 0
        self.to, self.back_a, self.back_b = Box(), Box(), Box()
        self.serial = 0
        # The origin's bus: what survives its bridges.
        self.unsettled: dict[Target, set[int]] = {target: set() for target in TARGETS}
        # The receiver's bus.
        self.imported: dict[bytes, int] = {}
        self.running: dict[bytes, None] = {}
        self.receipts: dict[bytes, bool] = {}
        self.life_of_b = 0
        self.completers: set[bytes] = set()
        self.begin_origin()
        self.begin_receiver()
        self.ask()
        self.receiver_reads("no")
        self.origin_reads("no")

    def put(self, box: Box, parcel: object) -> int:
        self.position += 1
        box.unread.append(Letter(self.position, parcel))
        return self.position

    # --- the origin ---

    def begin_origin(self) -> None:
        self.exports: Exports[Numbered] = Exports(self.serial)
        self.serial += 100
        self.stored = self.position
        self.taken: dict[Target, set[int]] = {target: set() for target in TARGETS}

    @rule(count=st.integers(1, 5), both=st.booleans())
    def publish(self, count: int, both: bool) -> None:
        for _ in range(count):
            self.serial += 1
            for target in TARGETS if both else TARGETS[:1]:
                self.unsettled[target].add(self.serial)

    def wanted(self, target: Target) -> list[Numbered]:
        found = sorted(self.unsettled[target] - self.taken[target])
        self.taken[target].update(found)
        return [Numbered(sequence) for sequence in found]

    def send(self, shares: list[tuple[Target, list[Numbered]]]) -> None:
        events: dict[int, tuple[Target, ...]] = {}
        for target, found in shares:
            for event in found:
                events[event.sequence] = (*events.get(event.sequence, ()), target)
        if events:
            self.stored = self.put(self.to, Sent(list(events.items())))

    @precondition(lambda self: self.to.unread)
    @rule()
    def word_of_storing_is_lost(self) -> None:
        """So the last letter was stored once more, and its sender knows of the second one only."""
        self.stored = self.put(self.to, self.to.unread[-1].parcel)

    @rule(together=st.booleans())
    def take(self, together: bool) -> None:
        shares = [
            (target, list(self.exports.take("b", target, self.wanted(target), self.now_s)))
            for target in (TARGETS if together else TARGETS[:1])
        ]
        self.send(shares)

    @rule()
    def ask(self) -> None:
        self.now_s += 1
        if number := self.exports.ask("b", self.now_s):
            self.stored = self.put(self.to, Who("a", LIFE, number))

    @rule()
    def question_is_lost(self) -> None:
        self.exports.ask_anew("b")

    @precondition(lambda self: self.back_a.unread)
    @rule(dies=st.sampled_from(["no", "no", "no", "before", "settled", "confirmed"]))
    def origin_reads(self, dies: str) -> None:
        letter = self.back_a.read()
        parcel = letter.parcel
        if dies == "before":
            self.origin_dies()
            return
        if isinstance(parcel, Outcomes):
            for result in parcel.results:
                target = Target(result.name, result.config)
                sequences = sequences_in(result.ranges, 1000)
                self.unsettled[target].difference_update(sequences)
                self.exports.settled("b", target, sequences)
            if dies == "settled":
                self.origin_dies()
                return
            self.put(self.back_b, Confirm("a", parcel.bridge, [parcel.serial], self.stored))
            if dies == "confirmed":
                self.origin_dies()
                return
        elif isinstance(parcel, Have):
            held = {Target(item.name, item.config): frozenset(sequences_in(item.ranges, 1000)) for item in parcel.held}
            parked, lost = self.exports.answered("b", parcel.number, held, self.now_s)
            self.send([(target, list(events)) for target, events in parked])
            for target, missing in lost:
                again = [Numbered(sequence) for sequence in missing if sequence in self.unsettled[target]]
                self.send([(target, list(self.exports.take("b", target, again, self.now_s)))])
        self.back_a.ack(letter)

    @rule()
    def origin_dies(self) -> None:
        self.begin_origin()

    # --- the receiver ---

    def begin_receiver(self) -> None:
        self.life_of_b += 1
        self.bridge = self.life_of_b.to_bytes(8, "little")
        self.ledger: Ledger[Letter] = Ledger("b", self.bridge)
        self.ledger.know(TARGETS)
        self.ledger.restore([tag for tag in self.receipts if tag in self.running])
        self.untold = [tag for tag, is_settled in self.receipts.items() if is_settled]
        self.acks: list[Load[Letter]] = []
        self.tell()

    @precondition(lambda self: self.to.unread)
    @rule(dies=st.sampled_from(["no", "no", "no", "noted", "half"]))
    def receiver_reads(self, dies: str) -> None:
        letter = self.to.read()
        parcel = letter.parcel
        if isinstance(parcel, Who):
            self.put(self.back_a, Have("b", LIFE, parcel.number, self.ledger.held(LIFE)))
            self.to.ack(letter)
        else:
            assert isinstance(parcel, Sent)
            load = Load([letter])
            tags = [
                self.ledger.note(load, LIFE, sequence, [digest(target) for target in targets])
                for sequence, targets in parcel.events
            ]
            new = [tag for tag in tags if tag]
            for tag in {"no": new, "noted": [], "half": new[::2]}[dies]:
                for key in keys_of(tag):
                    self.imported[key] = self.imported.get(key, 0) + 1
                    assert self.imported[key] == 1, "imported twice"
                self.receipts[tag] = False
                self.running[tag] = None
            if dies != "no":
                self.receiver_dies()
                return
            if not load.missing:
                self.acks.append(load)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), completers=st.sets(st.sampled_from(TARGETS)))
    def handlers_settle(self, data: st.DataObject, completers: set[Target]) -> None:
        tag = data.draw(st.sampled_from(list(self.running)))
        del self.running[tag]
        self.receipts[tag] = True
        self.completers = {digest(target) for target in completers}
        self.untold.append(tag)

    @rule(count=st.integers(1, 3))
    def events_come_and_are_settled(self, count: int) -> None:
        """What happens most of the time, up to the moment when the origin knows of it."""
        self.publish(count, False)
        self.take(False)
        if self.to.unread:
            self.receiver_reads("no")
        for tag in list(self.running):
            del self.running[tag]
            self.receipts[tag] = True
            self.untold.append(tag)
        self.tell()
        if self.back_a.unread:
            self.origin_reads("no")

    @rule()
    def tell(self) -> None:
        useless = self.ledger.settled(self.untold, self.completers)
        assert not useless
        self.untold = []
        for telling in self.ledger.tell({LIFE: "a"}, self.now_s):
            self.put(self.back_a, telling.parcel)
            self.acks += self.ledger.stored(telling.parcel.serial)

    @rule()
    def tell_again(self) -> None:
        for telling in self.ledger.unconfirmed(self.now_s + LATER_S, self.now_s):
            self.put(self.back_a, telling.parcel)
            self.acks += self.ledger.stored(telling.parcel.serial)

    @precondition(lambda self: self.acks)
    @rule()
    def acknowledge(self) -> None:
        load = self.acks.pop()
        for letter in load.letters:
            self.to.ack(letter)

    @precondition(lambda self: self.back_b.unread)
    @rule(dies=st.booleans())
    def receiver_reads_confirmation(self, dies: bool) -> None:
        letter = self.back_b.read()
        parcel = letter.parcel
        assert isinstance(parcel, Confirm)
        if dies:
            self.receiver_dies()
            return
        self.ledger.confirmed(parcel.bridge, parcel.serials, parcel.position)
        self.back_b.ack(letter)

    @rule()
    def forget(self) -> None:
        for tag in self.ledger.forget(self.to.floor(self.position)):
            del self.receipts[tag]

    @rule()
    def receiver_dies(self) -> None:
        """What it had read is given out again later: see `time_is_over`."""
        self.begin_receiver()

    @rule()
    def time_is_over(self) -> None:
        """What was read too long ago is given out again, although its reader lives."""
        for box in (self.to, self.back_a, self.back_b):
            box.repeat()

    # --- the end ---

    def teardown(self) -> None:
        if not hasattr(self, "to"):
            return
        for _ in range(50):
            self.now_s += LATER_S
            self.time_is_over()
            self.take(True)
            self.question_is_lost()
            self.ask()
            while self.to.unread:
                self.receiver_reads("no")
            while self.running:
                tag = next(iter(self.running))
                del self.running[tag]
                self.receipts[tag] = True
                self.untold.append(tag)
            self.tell()
            self.tell_again()
            while self.acks:
                self.acknowledge()
            while self.back_a.unread:
                self.origin_reads("no")
            while self.back_b.unread:
                self.receiver_reads_confirmation(False)
            self.forget()
            if not any(self.unsettled.values()) and not self.receipts:
                break
        assert not any(self.unsettled.values()), "never settled at its origin"
        assert not self.receipts, "a receipt that nobody confirms"
        assert not len(self.ledger), "known for ever"


TestExactlyOnce = Hosts.TestCase
TestExactlyOnce.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
