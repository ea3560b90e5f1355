"""The rules of the machine about receipts: tags, who is told of them, and what the next process of a name finds."""

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from eventbus_mp.protocol.effects import Refuse
from eventbus_mp.protocol.requests import (
    CloseReceipts,
    ConfirmReceipts,
    ListReceipts,
    OpenReceipts,
    Tag,
    TakeReceipts,
)
from tests.properties.delivery_rules import DeliveryRules, ranges
from tests.properties.memory_rules import pick

NAMES = ("r1", "r2")


class ModelReceipt:
    def __init__(self, sequence):
        self.sequence, self.tag = sequence, f"{sequence:x}"[-1 - sequence % 5 :].encode()
        self.event, self.told = None, False

    @property
    def settled(self):
        return self.event is not None and self.event.settled


class ModelBox:
    def __init__(self, number):
        self.number, self.link, self.kept, self.taker = number, None, {}, None


class NeverSent:
    """An event that nobody is subscribed to, which its process does not send."""

    settled = True

    @staticmethod
    def watcher():
        return {"subscribers": set(), "completers": set(), "skippers": set()}


def flat(pairs):
    return [number for pair in pairs for number in pair]


def numbers_of(flat_ranges):
    pairs = zip(flat_ranges[::2], flat_ranges[1::2], strict=True)
    return [number for first, count in pairs for number in range(first, first + count)]


def cut(widths, tags):
    found, end = [], 0
    for width in widths:
        found.append(tags[end : end + width])
        end += width
    assert end == len(tags)
    return found


class ReceiptRules(DeliveryRules):
    """What a producer does that wants to know what became of its events."""

    def begin(self, *arguments):
        super().begin(*arguments)
        self.boxes = {}

    # --- names ---

    @rule(which=pick, name=st.sampled_from(NAMES))
    def open_receipts(self, which, name):
        link = self.links[which % len(self.links)]
        known = self.boxes.get(name)
        if known is not None and known.link is not None:
            self.feed(OpenReceipts(link, next(self.requests), name))
            (refusal,) = (effect for effect in self.effects if isinstance(effect, Refuse))
            assert f"process {1000 + known.link}" in refusal.text
            return
        number, _, kept = self.ask(OpenReceipts, name, link=link)
        if known is None:
            known = self.boxes[name] = ModelBox(number)
        known.link = link
        assert (number, kept) == (known.number, len(known.kept))
        for receipt in known.kept.values():
            receipt.told = False
        self.check_list(known)

    def check_list(self, box):
        found: dict[int, bytes] = {}
        left: list[int] = []
        skip = 0
        while pages := self.ask(ListReceipts, box.number, skip, link=box.link):
            skip += len(pages)
            for sequences, unsettled, widths, tags in pages:
                found |= zip(numbers_of(sequences), cut(widths, tags), strict=True)
                left += numbers_of(unsettled)
        assert found == {sequence: receipt.tag for sequence, receipt in box.kept.items()}
        assert left == [sequence for sequence, receipt in box.kept.items() if not receipt.settled]

    @rule(which=pick)
    def close_receipts(self, which):
        box = self.opened(which)
        if box is not None:
            self.ask(CloseReceipts, box.number, link=box.link)
            self.note_closed(box)

    def opened(self, which):
        found = [box for box in self.boxes.values() if box.link is not None]
        return found[which % len(found)] if found else None

    def note_closed(self, box):
        box.link = box.taker = None
        self.forget_unused()

    def forget_unused(self):
        self.boxes = {name: item for name, item in self.boxes.items() if item.link is not None or item.kept}

    def note_link_lost(self, link):
        for box in list(self.boxes.values()):
            box.kept = {
                sequence: receipt
                for sequence, receipt in box.kept.items()
                if receipt.event is not None or sequence >> 40 != link
            }
            if box.link == link:
                self.note_closed(box)
        self.forget_unused()

    # --- tags ---

    def tag(self, link, which, count, dropped):
        """Tag the next events of the link, under a name that it has open."""
        found = [box for box in self.boxes.values() if box.link == link]
        if not found:
            return
        box, first = found[which % len(found)], self.sequences[link] + 1
        receipts = [ModelReceipt(first + index) for index in range(count + dropped)]
        for receipt in receipts[count:]:
            receipt.event = NeverSent()
        tags = [receipt.tag for receipt in receipts]
        box.kept |= {receipt.sequence: receipt for receipt in receipts}
        self.feed(Tag(link, 0, box.number, first, bytes(map(len, tags)), b"".join(tags), dropped))
        self.settle_up()

    def note_notified(self, link, notified):
        """Give each tagged event its receipt; what was left out before it never comes."""
        events = {event.sequence: event for event, _ in notified}
        for box in self.boxes.values():
            for sequence, receipt in list(box.kept.items()):
                if receipt.event is None and sequence >> 40 == link:
                    if sequence in events:
                        receipt.event = events[sequence]
                    elif sequence < max(events):
                        del box.kept[sequence]
        self.forget_unused()

    @rule(which=pick, box=pick, count=st.integers(0, 4), dropped=st.integers(0, 2))
    def tag_and_send_nothing(self, which, box, count, dropped):
        if count + dropped:
            link = self.links[which % len(self.links)]
            self.tag(link, box, count, dropped)
            self.sequences[link] += count + dropped

    # --- being told ---

    @rule(which=pick, limit=st.integers(1, 4), waits=st.booleans())
    def take_receipts(self, which, limit, waits):
        box = self.opened(which)
        if box is not None and not waits:
            told = self.ask(TakeReceipts, box.number, limit, False, link=box.link)
            self.check_told(box, told, limit)
        elif box is not None and box.taker is None:
            box.taker = next(self.requests), limit
            self.feed(TakeReceipts(box.link, box.taker[0], box.number, limit, True))
            self.settle_up()

    def on_reply(self, effect):
        for box in self.boxes.values():
            if box.taker is not None and (effect.link, effect.request) == (box.link, box.taker[0]):
                self.check_told(box, effect.value, box.taker[1])
                box.taker = None
                return
        super().on_reply(effect)

    def check_told(self, box, told, limit):
        count = 0
        for subscribers, completed, flat_ranges in told:
            keys = list(map(tuple, subscribers))
            watcher = {
                "subscribers": set(keys),
                "completers": {key for place, key in enumerate(keys) if place in completed},
                "skippers": {key for place, key in enumerate(keys) if place not in completed},
            }
            for sequence in numbers_of(flat_ranges):
                receipt = box.kept[sequence]
                assert not receipt.told, "told twice"
                receipt.told = True
                assert receipt.settled, "told of an event that is not settled"
                assert receipt.event.watcher() == watcher
                count += 1
        untold = [receipt for receipt in box.kept.values() if receipt.settled and not receipt.told]
        assert count == limit or not untold, "it could have told more"

    @rule(which=pick, first=pick, count=st.integers(1, 6), stranger=st.booleans())
    def confirm_receipts(self, which, first, count, stranger):
        box = self.opened(which)
        if box is None:
            return
        wanted = sorted(box.kept)[first % (len(box.kept) or 1) :][:count]
        self.ask(ConfirmReceipts, box.number, flat(ranges(wanted)) + [3, 1] * stranger, link=box.link)
        box.kept = {key: item for key, item in box.kept.items() if key not in wanted or not item.settled}

    @invariant()
    def who_waits_was_told_everything(self):
        for box in getattr(self, "boxes", {}).values():
            if box.taker is not None:
                assert not [item for item in box.kept.values() if item.settled and not item.told]

    @invariant()
    def receipts_are_counted(self):
        if hasattr(self, "boxes"):
            counts = {name: box.count for name, box in self.core.state.boxes.by_name.items()}
            assert counts == {name: len(box.kept) for name, box in self.boxes.items()}, counts
