"""The way out: this bus's events to other hosts, and what became of them there. Runs on the bridge's event loop."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from eventbus_mp import RawEvent
from eventbus_mp.addons.bridge.courier import Courier
from eventbus_mp.addons.bridge.exports import Exports, Resend
from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.letters import Letter, Mailboxes
from eventbus_mp.addons.bridge.packing import Packer, Packet
from eventbus_mp.addons.bridge.parcels import Confirm, Have, Outcomes, Who
from eventbus_mp.addons.bridge.ranges import pairs_of, sequences_in
from eventbus_mp.addons.bridge.targets import TARGETS_MAX

__all__ = ["BusOut", "Outward"]

RANGES_MAX = 1 << 22
"""More events than a bus keeps for one subscriber of another host."""


class BusOut(Protocol):
    """What the way out needs of the bus; bus_side.py has it. None of it blocks."""

    def settle(self, host: str, target: Target, ranges: Sequence[tuple[int, int]], outcome: str, reason: str) -> None:
        """Settle deliveries of this subscriber, of this host's or (of scope "cluster") of the cluster's."""

    def settled(self) -> object:
        """Awaitable: all that was to be settled until now is."""

    def resend(self, host: str | None, target: Target, sequences: Sequence[int]) -> None:
        """Give out these deliveries once more, if they are unsettled."""

    def pause(self, host: str, *, is_paused: bool) -> None:
        """Take no more deliveries for this host, or go on."""


class Outward:
    """Args:
    host: This host.
    life: That of its bus.
    packer: Makes letters of events.
    courier: Stores them.
    mailboxes: Where answers are acknowledged.
    bus: The bus.
    """

    def __init__(
        self, host: str, life: bytes, packer: Packer, courier: Courier, mailboxes: Mailboxes, bus: BusOut
    ) -> None:
        self._host = host
        self._life = life
        self._packer = packer
        self._courier = courier
        self._mailboxes = mailboxes
        self._bus = bus
        self.exports: Exports[RawEvent] = Exports(time.time_ns())
        self.events = 0
        """How many events were sent, a repeated one each time."""

    # --- events ---

    def take_round(self, rounds: Sequence[tuple[str | None, Target, Sequence[RawEvent]]], now_s: float) -> None:
        """Deliveries that the bus had: (host, or None of a subscriber of the cluster; subscriber; events)."""
        wanted: dict[str, _Packets] = defaultdict(_Packets)
        for host, target, events in rounds:
            if host is None:
                for name, share in self.exports.take_shared(target, events, now_s).items():
                    wanted[name].add(target, share)
            else:
                wanted[host].add(target, self.exports.take(host, target, events, now_s))
        self._send(wanted)

    def try_waiting(self, now_s: float) -> None:
        """Subscribers of the cluster may be on other hosts now, or a host has answered."""
        self.take_round([(None, target, ()) for target in self.exports.waiting_targets()], now_s)

    def _send(self, wanted: dict[str, _Packets]) -> None:
        for host, packets in wanted.items():
            self.events += len(packets.items)
            for data in self._packer.letters(packets.items):
                self._courier.send("to", host, data)
            if not self._courier.has_room(host):
                self._bus.pause(host, is_paused=True)

    # --- answers ---

    async def take_outcomes(self, letter: Letter, parcel: Outcomes) -> None:
        """Note what became of events, and confirm it when nothing can come back."""
        if parcel.life == self._life:
            for result in parcel.results:
                target = Target(result.name, result.config)
                self._bus.settle(parcel.host, target, pairs_of(result.ranges), result.outcome, result.reason)
                self.exports.settled(parcel.host, target, sequences_in(result.ranges, RANGES_MAX))
            await self._bus.settled()  # type: ignore[misc]
        # A copy of these events that is on its way, as its confirmation was lost, is stored before this position.
        position = await self._courier.flushed(parcel.host)
        self._courier.send("back", parcel.host, Confirm(self._host, parcel.bridge, [parcel.serial], position).encode())
        await self._mailboxes.settle(letter, "done")

    def take_answer(self, parcel: Have, now_s: float) -> None:
        """A host has said what it has."""
        if parcel.life != self._life:
            return
        held = {
            Target(item.name, item.config): frozenset(sequences_in(item.ranges, RANGES_MAX)) for item in parcel.held
        }
        parked, lost = self.exports.answered(parcel.host, parcel.number, held, now_s)
        wanted: dict[str, _Packets] = defaultdict(_Packets)
        for target, events in parked:
            wanted[parcel.host].add(target, events)
        self._send(wanted)
        self.try_waiting(now_s)
        self.resend(parcel.host, lost)

    def resend(self, host: str, lost: Sequence[Resend]) -> None:
        """Have these given out and sent again."""
        for target, sequences in lost:
            self.exports.settled(host, target, sequences)  # They are open again when they are sent.
            self._bus.resend(None if self.exports.is_shared(target) else host, target, sequences)

    def ask(self, host: str, now_s: float) -> None:
        """Ask a host what it has, unless that is asked already."""
        if number := self.exports.ask(host, now_s):
            self._courier.send("to", host, Who(self._host, self._life, number).encode())


class _Packets:
    """Events for one host: one that several of its subscribers get goes once for all of them."""

    def __init__(self) -> None:
        self.items: list[Packet] = []
        self._place: dict[int, int] = {}
        """Sequence -> where in `items`."""

    def add(self, target: Target, events: Sequence[RawEvent]) -> None:
        """These events are for this subscriber."""
        only, items, place = (target,), self.items, self._place
        for event in events:
            at = place.get(event.sequence)
            if at is not None and len(items[at][1]) < TARGETS_MAX:
                items[at] = event, (*items[at][1], target)
            else:
                place[event.sequence] = len(items)
                items.append((event, only))
