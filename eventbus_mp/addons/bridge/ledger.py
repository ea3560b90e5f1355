"""What this host has of other hosts' events: each delivery once, until its origin has noted what became of it. Pure.

    a parcel comes        note: which of its deliveries are new, and imported with a receipt
    the receipt says      settled: what became of them
    outcomes are stored   stored: the letters of the parcel may be acknowledged
    the origin confirms   confirmed: the receipts may be forgotten, and the deliveries here

Until the last step a delivery that comes again, from any bridge and for any reason, is not imported again. The
last step waits until no copy of it can come: all letters are acknowledged up to the last one that the origin had stored
for this host when it confirmed, those as well that a bridge before this one has read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from eventbus_mp.addons.bridge.messages import Held, Outcomes, Result
from eventbus_mp.addons.bridge.ranges import flat_ranges
from eventbus_mp.addons.bridge.targets import HEAD_BYTES, digest, head_of, keys_of, life_of, sequence_of

__all__ = ["Ledger", "Load", "Telling"]

L = TypeVar("L")

TOLD_MAX = 20_000
"""How many deliveries a parcel of outcomes speaks of at most."""

COMPLETED, SKIPPED = "completed", "skipped"


class Load(Generic[L]):
    """The letters of one parcel, or of the parts of one event, until they are acknowledged."""

    __slots__ = ("letters", "missing")

    def __init__(self, letters: Sequence[L]) -> None:
        self.letters = letters
        self.missing = 0
        """Imports whose outcome is not stored in the origin's mailbox."""


class _Import(Generic[L]):
    """An event that was imported, or refused, for one or several subscribers at once."""

    __slots__ = ("loads", "outcomes", "reason", "tag")

    def __init__(self, tag: bytes, loads: list[Load[L]]) -> None:
        self.tag = tag
        self.loads = loads
        """In which it came, and of which it is missing."""
        self.outcomes: tuple[str, ...] | None = None
        """One for each subscriber in the tag; None: not settled."""
        self.reason = ""


class Telling(NamedTuple):
    """Outcomes, for the host that they belong to."""

    host: str
    parcel: Outcomes


class _Told(Generic[L]):
    """Outcomes that this host has reported, and that are not confirmed."""

    __slots__ = ("fence", "host", "imports", "parcel", "told_s")

    def __init__(self, host: str, parcel: Outcomes, imports: list[_Import[L]], now_s: float) -> None:
        self.host = host
        self.parcel = parcel
        self.imports = imports
        self.told_s = now_s
        self.fence: int | None = None
        """When it is confirmed: the last letter that its origin had stored for this host."""


class Ledger(Generic[L]):
    """Args:
    host: This host.
    bridge: The life of this bridge.
    """

    def __init__(self, host: str, bridge: bytes) -> None:
        self._host = host
        self._bridge = bridge
        self._known: dict[bytes, _Import[L]] = {}
        """By the key of each delivery."""
        self._targets: dict[bytes, tuple[str, bytes]] = {}
        """By digest."""
        self._untold: dict[bytes, dict[_Import[L], None]] = defaultdict(dict)
        """By the life of their origin: settled, and to be told."""
        self._told: dict[int, _Told[L]] = {}
        """By serial."""
        self._serial = 0
        self._over: set[bytes] = set()
        """Lives that are over, of which imports are unsettled here."""

    def __len__(self) -> int:
        return len(self._known)

    # --- what comes ---

    def know(self, targets: Iterable[tuple[str, bytes]]) -> list[bytes]:
        """The digests of these subscribers, by which outcomes name them from now on."""
        found = []
        for target in targets:
            key = digest(target)
            self._targets[key] = target
            found.append(key)
        return found

    def restore(self, tags: Iterable[bytes]) -> None:
        """Imports of bridges before this one. What of it is settled, its receipts say."""
        for tag in tags:
            self._add(_Import(tag, []))

    def knows(self, life: bytes, sequence: int, digests: Iterable[bytes]) -> bool:
        """Whether an event has come for all of these subscribers before."""
        head = head_of(life, sequence)
        return all(head + one in self._known for one in digests)

    def note(self, load: Load[L], life: bytes, sequence: int, digests: Sequence[bytes]) -> bytes:
        """An event has come for these subscribers: the tag to import it with for those for whom it is new; or b""."""
        head = head_of(life, sequence)
        new = []
        for one in digests:
            known = self._known.get(head + one)
            if known is None:
                new.append(one)
            elif load not in known.loads:
                known.loads.append(load)
                load.missing += 1
                if known.outcomes is not None:
                    self._untold[life][known] = None  # Its origin has not heard of it, or its bridge has forgotten.
        if not new:
            return b""
        tag = head + b"".join(new)
        self._add(_Import(tag, [load]))
        load.missing += 1
        return tag

    def _add(self, item: _Import[L]) -> None:
        for key in keys_of(item.tag):
            self._known[key] = item

    # --- what becomes of it ---

    def settled(self, tags: Iterable[bytes], completers: Collection[bytes]) -> list[bytes]:
        """Imports are settled; `completers` are the digests of those who have completed them.

        Returns:
            Tags whose origin's life is over: nobody is to be told.
        """
        useless = []
        for tag in tags:
            item = self._known.get(tag[: HEAD_BYTES + 8])
            if item is None:
                self._add(item := _Import(tag, []))
            if item.outcomes is None:
                keys = keys_of(tag)
                item.outcomes = tuple(COMPLETED if key[HEAD_BYTES:] in completers else SKIPPED for key in keys)
                life = life_of(tag)
                if life in self._over:
                    useless.append(tag)
                    self._drop(item)
                else:
                    self._untold[life][item] = None
        return useless

    def refuse(self, tag: bytes, reason: str) -> None:
        """What was to be imported by this tag cannot be: it is skipped, for this reason."""
        item = self._known[keys_of(tag)[0]]
        item.outcomes = (SKIPPED,) * len(keys_of(tag))
        item.reason = reason
        self._untold[life_of(tag)][item] = None

    @property
    def has_untold(self) -> bool:
        """Whether `tell` may have something to return."""
        return any(self._untold.values())

    def tell(self, hosts: Mapping[bytes, str], now_s: float) -> list[Telling]:
        """What is to be told now to those whose life is known; what is not waits."""
        tellings = []
        for life in [life for life, untold in self._untold.items() if untold and life in hosts]:
            untold = list(self._untold.pop(life))
            for start in range(0, len(untold), TOLD_MAX):
                tellings.append(self._tell(hosts[life], life, untold[start : start + TOLD_MAX], now_s))
        return tellings

    def _tell(self, host: str, life: bytes, imports: list[_Import[L]], now_s: float) -> Telling:
        sequences: dict[tuple[bytes, str, str], list[int]] = defaultdict(list)
        for item in imports:
            assert item.outcomes is not None
            sequence = sequence_of(item.tag)
            for key, outcome in zip(keys_of(item.tag), item.outcomes, strict=True):
                sequences[key[HEAD_BYTES:], outcome, item.reason].append(sequence)
        results = [
            Result(*self._targets[one], outcome, reason, flat_ranges(numbers))
            for (one, outcome, reason), numbers in sequences.items()
            if one in self._targets
        ]
        self._serial += 1
        parcel = Outcomes(self._host, life, self._bridge, self._serial, results)
        self._told[self._serial] = _Told(host, parcel, imports, now_s)
        return Telling(host, parcel)

    def unconfirmed(self, before_s: float, now_s: float) -> list[Telling]:
        """What this host has reported before this time, and nobody has confirmed: it has to be reported again."""
        late = [told for told in self._told.values() if told.fence is None and told.told_s < before_s]
        for told in late:
            told.told_s = now_s
        return [Telling(told.host, told.parcel) for told in late]

    def stored(self, serial: int) -> list[Load[L]]:
        """These outcomes are in their origin's mailbox: the loads of which nothing is missing any more."""
        told = self._told.get(serial)
        if told is None:
            return []
        complete = []
        for item in told.imports:
            for load in item.loads:
                load.missing -= 1
                if not load.missing:
                    complete.append(load)
            item.loads = []
        return complete

    # --- the end of it ---

    def confirmed(self, bridge: bytes, serials: Iterable[int], position: int) -> None:
        """Their origin has noted these outcomes, and had stored letters for this host up to this position."""
        for serial in serials if bridge == self._bridge else ():
            if serial in self._told:
                self._told[serial].fence = position

    @property
    def has_confirmed(self) -> bool:
        """Whether there is something that `forget` may forget."""
        return any(told.fence is not None for told in self._told.values())

    def forget(self, floor: int) -> list[bytes]:
        """All letters up to this position are acknowledged: the tags of imports of which no copy can come any more.

        Their receipts can be confirmed.
        """
        over = [serial for serial, told in self._told.items() if told.fence is not None and told.fence <= floor]
        tags = []
        for serial in over:
            for item in self._told.pop(serial).imports:
                if not item.loads and self._known.get(keys_of(item.tag)[0]) is item:
                    tags.append(item.tag)
                    self._drop(item)
        return tags

    def _drop(self, item: _Import[L]) -> None:
        for key in keys_of(item.tag):
            self._known.pop(key, None)

    def end_life(self, life: bytes) -> tuple[list[bytes], list[Load[L]]]:
        """That life of a bus is over, and nobody is to be told: (tags to be confirmed, loads that are complete)."""
        tags, complete = [], []
        items = {id(item): item for key, item in self._known.items() if life_of(key) == life}
        self._untold.pop(life, None)
        for item in items.values():
            for load in item.loads:
                load.missing -= 1
                if not load.missing:
                    complete.append(load)
            item.loads = []
            if item.outcomes is not None:
                tags.append(item.tag)
                self._drop(item)
            else:
                self._over.add(life)
        self._told = {serial: told for serial, told in self._told.items() if told.parcel.life != life}
        self._over &= {life_of(key) for key in self._known}
        return tags, complete

    def held(self, life: bytes) -> list[Held]:
        """What this host has of a life's events, for each subscriber."""
        sequences: dict[bytes, list[int]] = defaultdict(list)
        for key in self._known:
            if life_of(key) == life:
                sequences[key[HEAD_BYTES:]].append(sequence_of(key))
        known = [(self._targets[one], numbers) for one, numbers in sequences.items() if one in self._targets]
        return [Held(*target, flat_ranges(numbers)) for target, numbers in known]
