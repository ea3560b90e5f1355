"""The way in: other hosts' events to this bus, and what became of them back to their origin. Runs on the bridge's event
loop; what blocks is done by bus_side.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from eventbus_mp import Receipt
from eventbus_mp.addons.bridge.courier import Courier
from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.ledger import Ledger, Load, Telling
from eventbus_mp.addons.bridge.letters import Letter, Mailboxes
from eventbus_mp.addons.bridge.parcels import Confirm, Entry, Events, Have, ParcelError, Part, Who
from eventbus_mp.addons.bridge.parts import Assembler, AssemblerFull
from eventbus_mp.addons.bridge.targets import HEAD_BYTES, digest, keys_of, target_of

__all__ = ["BusIn", "Import", "Inward"]

log = logging.getLogger("eventbus_mp.bridge")

TELL_S = 0.002
"""Outcomes are collected for so long before they are reported."""
REPEAT_S = 60.0
"""What is not confirmed after so long is reported again."""
UNFINISHED_BYTES_MAX = 256 << 20
"""What events take of which parts are missing."""
UNFINISHED_S = 120.0
"""An event whose other parts have not come for so long is sent anew, as a whole."""


class Import(NamedTuple):
    """Events of one parcel, for the same subscribers."""

    targets: tuple[Target, ...]
    unit: str
    events: Sequence[tuple[str, bytes | memoryview]]
    """(topic, payload)."""
    tags: Sequence[bytes]


class BusIn(Protocol):
    """What the way in needs of the bus; bus_side.py has it. None of it blocks."""

    def publish(self, imports: Sequence[Import]) -> None:
        """Publish these events, each with a receipt of its tag. One that cannot be is refused: `Inward.refused`."""

    def confirm(self, tags: Sequence[bytes]) -> None:
        """Have these receipts forgotten."""


class Inward:
    """Args:
    host: This host.
    ledger: What it has of others' events.
    courier: Stores letters to others.
    mailboxes: Where letters are acknowledged.
    bus: The bus.
    lives: The life of each host's bus -> its name, now.
    """

    def __init__(
        self,
        host: str,
        ledger: Ledger[Letter],
        courier: Courier,
        mailboxes: Mailboxes,
        bus: BusIn,
        lives: Callable[[], Mapping[bytes, str]],
    ) -> None:
        self._host = host
        self._ledger = ledger
        self._courier = courier
        self._mailboxes = mailboxes
        self._bus = bus
        self._lives = lives
        self._loop = asyncio.get_running_loop()
        self._loads: dict[Load[Letter], None] = {}
        """Those that are not acknowledged."""
        self._assembler: Assembler[Letter] = Assembler(UNFINISHED_BYTES_MAX)
        self._held: deque[tuple[Letter, Events | Part | Who]] = deque()
        """Letters that wait, in order, because a subscriber is not here yet for whom the first of them is."""
        self._here: frozenset[Target] = frozenset()
        self._waits_for_subscribers = True
        self._is_telling = False
        self.events = 0
        """How many events were imported."""

    # --- who is here ---

    def set_subscribers(self, here: Collection[Target]) -> None:
        """The subscribers that this bus has now, of those that others may send to."""
        self._here = frozenset(here)
        self._ledger.know(here)
        self._take_held()

    def end_waiting(self) -> None:
        """From now on, who is not here is not coming: what is for him is skipped."""
        self._waits_for_subscribers = False
        self._take_held()

    def _take_held(self) -> None:
        while self._held:
            letter, parcel = self._held[0]
            if self._must_wait(parcel):
                return
            self._held.popleft()
            self._take(letter, parcel)

    def _must_wait(self, parcel: Events | Part | Who) -> bool:
        if not self._waits_for_subscribers or isinstance(parcel, Who):
            return False
        sets = parcel.target_sets if isinstance(parcel, Events) else [parcel.targets]
        return any(target not in self._here for targets in sets for target in targets)

    # --- what comes ---

    def take(self, letter: Letter, parcel: Events | Part | Who) -> None:
        """A letter from the mailbox for events."""
        if self._held or self._must_wait(parcel):
            self._held.append((letter, parcel))
        else:
            self._take(letter, parcel)

    def _take(self, letter: Letter, parcel: Events | Part | Who) -> None:
        if isinstance(parcel, Who):
            self._answer(letter, parcel)
        elif isinstance(parcel, Part):
            self._take_part(letter, parcel)
        else:
            self._import(Load([letter]), parcel)

    def _answer(self, letter: Letter, parcel: Who) -> None:
        held = self._ledger.held(parcel.life)
        self._courier.send("back", parcel.host, Have(self._host, parcel.life, parcel.number, held).encode())
        self._acknowledge(Load([letter]))

    def _take_part(self, letter: Letter, part: Part) -> None:
        digests = self._ledger.know(part.targets)
        if self._ledger.knows(part.life, part.sequence, digests):
            self._import(Load([letter]), _as_events(part))  # It was put together before; so nothing is published.
            return
        try:
            whole = self._assembler.add(part, letter, self._loop.time())
        except AssemblerFull as error:
            log.warning("%s: a part of an event from %s waits until it comes again", error, part.host)
        except ParcelError as error:
            load = Load([letter])
            self._loads[load] = None
            self.refused([self._ledger.note(load, part.life, part.sequence, digests)], str(error))
        else:
            if whole is not None:
                self._import(Load(whole.letters), _as_events(whole.part))

    def _import(self, load: Load[Letter], parcel: Events) -> None:
        """Publish what is new of a parcel, for those who are here."""
        self._loads[load] = None
        digests = [self._ledger.know(targets) for targets in parcel.target_sets]
        batches: dict[tuple[int, bytes], tuple[list[tuple[str, bytes | memoryview]], list[bytes]]] = {}
        note, topics = self._ledger.note, parcel.topics
        for (sequence, topic, which, _, _), payload in zip(parcel.entries, parcel.payloads, strict=True):
            tag = note(load, parcel.life, sequence, digests[which])
            if tag:
                events, tags = batches.setdefault((which, tag[HEAD_BYTES:]), ([], []))
                events.append((topics[topic], payload))
                tags.append(tag)
        imports = []
        for (which, _), (events, tags) in batches.items():
            imports += self._for_those_here(parcel, which, events, tags)
        if imports:
            self._bus.publish(imports)
        if self._ledger.has_untold:  # What its origin has not heard of yet has come again.
            self._tell_soon()
        if not load.missing:
            self._acknowledge(load)

    def _for_those_here(
        self, parcel: Events, which: int, events: list[tuple[str, bytes | memoryview]], tags: list[bytes]
    ) -> list[Import]:
        here = tuple(Target(*target) for target in parcel.target_sets[which] if target in self._here)
        if not here:
            for tag in tags:
                self._ledger.refuse(tag, f"nobody on host {self._host} is subscribed by this name")
            self._tell_soon()
            return []
        self.events += len(events)
        # The tags name all of these, or fewer: those who have not had the events before.
        wanted = {key[HEAD_BYTES:] for key in keys_of(tags[0])}
        return [Import(tuple(target for target in here if digest(target) in wanted), parcel.unit, events, tags)]

    def refused(self, tags: Iterable[bytes], reason: str) -> None:
        """These could not be published."""
        for tag in tags:
            self._ledger.refuse(tag, reason)
        self._tell_soon()

    # --- what becomes of it ---

    def settled(self, receipts: Iterable[Receipt]) -> None:
        """The bus has settled events that were imported, here or by a bridge before this one."""
        useless: list[bytes] = []
        for tags, watcher in receipts:
            self._ledger.know(map(target_of, watcher.subscribers))
            completers = {digest(target_of(key)) for key in watcher.completers}
            useless += self._ledger.settled(tags, completers)
        if useless:
            self._bus.confirm(useless)
        self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            self._loop.call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        for telling in self._ledger.tell(self._lives(), self._loop.time()):
            self._courier.spawn(self._store(telling))

    async def _store(self, telling: Telling) -> None:
        await self._courier.send("back", telling.host, telling.parcel.encode())
        for load in self._ledger.stored(telling.parcel.serial):
            self._acknowledge(load)

    def _acknowledge(self, load: Load[Letter]) -> None:
        self._loads.pop(load, None)
        self._courier.spawn(self._acknowledging(load))

    async def _acknowledging(self, load: Load[Letter]) -> None:
        await asyncio.gather(*[self._mailboxes.settle(letter, "done") for letter in load.letters])

    async def take_confirmation(self, letter: Letter, parcel: Confirm) -> None:
        """An origin has noted outcomes."""
        self._ledger.confirmed(parcel.bridge, parcel.serials, parcel.position)
        await self._mailboxes.settle(letter, "done")

    async def forget(self) -> None:
        """Forget what has been confirmed and of which no copy can come any more."""
        if self._ledger.has_confirmed and (tags := self._ledger.forget(await self._mailboxes.floor())):
            self._bus.confirm(tags)

    # --- now and then ---

    async def look(self, now_s: float) -> None:
        """Ask for more time for what is under way, and tell again what was not confirmed."""
        for telling in self._ledger.unconfirmed(now_s - REPEAT_S, now_s):
            self._courier.spawn(self._store(telling))
        for letter in self._assembler.forget_idle(now_s - UNFINISHED_S):
            self._acknowledge(Load([letter]))
        letters = [letter for load in self._loads for letter in load.letters]
        letters += [letter for letter, _ in self._held] + self._assembler.letters
        for letter in letters:
            await self._mailboxes.settle(letter, "working")

    def end_life(self, host: str, life: bytes) -> None:
        """That life of another host's bus is over: nobody waits for what became of its events."""
        tags, complete = self._ledger.end_life(life)
        complete += [Load([letter]) for letter in self._assembler.forget_life(host, life)]
        for load in complete:
            self._acknowledge(load)
        if tags:
            self._bus.confirm(tags)

    def hosts_changed(self) -> None:
        """There may be somebody to tell now."""
        self._tell_soon()


def _as_events(part: Part) -> Events:
    """A whole event, or one of which nothing but its names matters, as a parcel of one."""
    entry = Entry(part.sequence, 0, 0, part.total, part.flags)
    return Events(part.host, part.life, part.unit, [part.topic], [part.targets], [entry], [part.chunk])
