"""The bridge's event loop: who else is there, and what to do with each letter and each change. One for each life of the
bus and of the mailboxes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from eventbus_mp import RawEvent, Receipt, UsageError
from eventbus_mp.addons.bridge.bus_side import BusSide
from eventbus_mp.addons.bridge.courier import Courier
from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.inward import Inward
from eventbus_mp.addons.bridge.ledger import Ledger
from eventbus_mp.addons.bridge.letters import Letter, Mailboxes
from eventbus_mp.addons.bridge.members import SHOUT_S, Change, Members
from eventbus_mp.addons.bridge.outward import Outward
from eventbus_mp.addons.bridge.packing import Packer
from eventbus_mp.addons.bridge.parcels import Confirm, Events, Have, Outcomes, ParcelError, Part, Topics, Who, decode
from eventbus_mp.addons.bridge.settings import BridgeSettings
from eventbus_mp.addons.bridge.state import RemoteSubscriber, State
from eventbus_mp.addons.bridge.status import HostStatus
from eventbus_mp.addons.bridge.taker import Place, Round

__all__ = ["Hub"]

log = logging.getLogger("eventbus_mp.bridge")

TICK_S = 1.0
WORKING_S = 3.0
AUDIT_S = 60.0
"""What a host has had for so long without an answer may be lost: it is asked what it has."""
ANSWER_S = 30.0
"""A question that was not answered for so long, by a host that is there, is asked again."""
AWAY_TEXTS = {"wait": "waits", "skip": "is skipped"}
TOPICS_MAX = 1_000
"""How many topics a letter names."""


class Hub:
    """Args:
    settings: Those of the bridge.
    mailboxes: Those of the cluster, open.
    side: The bus.
    bridge: The life of this bridge.
    """

    def __init__(self, settings: BridgeSettings, mailboxes: Mailboxes, side: BusSide, bridge: bytes) -> None:
        self._settings = settings
        self._mailboxes = mailboxes
        self._side = side
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._courier = Courier(mailboxes, self._room, self.fail)
        self.members = Members(settings.host, settings.host_grace_s)
        packer = Packer(settings.host, side.life, side.unit, mailboxes.part_bytes)
        self.outward = Outward(settings.host, side.life, packer, self._courier, mailboxes, side)
        ledger: Ledger[Letter] = Ledger(settings.host, bridge)
        ledger.restore(side.kept)
        self.inward = Inward(settings.host, ledger, self._courier, mailboxes, side, self.members.lives)
        self._subscribers: list[RemoteSubscriber] = []
        self._topics: dict[str, None] = {}
        self._has_shouted = False
        self._said: set[str] = set()
        self.broken = 0
        """Letters that were no parcels of ours."""

    async def run(self) -> None:
        """Work until `end` or an error, which is raised."""
        self._mailboxes.hear(self._heard)
        for work in (self._read("to", self._take), self._read("back", self._take_back), self._tick(), self._look()):
            self._courier.spawn(work)
        self._loop.call_later(self._settings.start_grace_s, self.inward.end_waiting)
        try:
            await self._ended
        finally:
            await self._courier.close()

    def end(self) -> None:
        """Have `run` return."""
        if not self._ended.done():
            self._ended.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Have `run` raise this."""
        if not self._ended.done():
            self._ended.set_exception(error)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Events sent, events imported, letters that were broken."""
        return self.outward.events, self.inward.events, self.broken

    def hosts(self) -> tuple[HostStatus, ...]:
        """The other hosts. May be called from another thread."""
        now_s, exports = time.monotonic(), self.outward.exports
        found = []
        for name, member in list(self.members.all.items()):
            oldest_s = exports.oldest_s(name)
            age_s = None if oldest_s is None else now_s - oldest_s
            heard_s = now_s - member.heard_s
            found.append(HostStatus(name, member.is_away, heard_s, exports.unsettled(name), age_s, member.problem))
        return tuple(found)

    # --- the bus, called on the loop ---

    def take_round(self, found: Round) -> None:
        """Deliveries for other hosts."""
        if self._settings.while_away == "skip" and any(item.is_away for item in self.members.all.values()):
            found = [item for item in found if not self._skipped(*item)]
        self.outward.take_round(found, time.monotonic())

    def _skipped(self, host: str | None, target: Target, events: Sequence[RawEvent]) -> bool:
        """Whether the host is away, and what is for it is not to wait."""
        member = self.members.all.get(host) if host is not None else None
        if host is None or member is None or not member.is_away:
            return False
        self._side.settle(host, target, [(event.sequence, 1) for event in events], "skipped", f"host {host} is away")
        return True

    def take_receipts(self, receipts: Sequence[Receipt]) -> None:
        """What became of imported events."""
        self.inward.settled(receipts)

    def take_refused(self, tags: Iterable[bytes], reason: str) -> None:
        """Imports that could not be published."""
        log.warning("an event from another host was skipped: %s", reason)
        self.inward.refused(tags, reason)

    def take_registry(self, subscribers: Sequence[RemoteSubscriber], topics: Sequence[str]) -> None:
        """The subscribers that others may send to, and all topics, as they are now."""
        self.inward.set_subscribers([Target(item.name, item.config) for item in subscribers])
        if list(subscribers) != self._subscribers or not self._has_shouted:
            self._subscribers, self._has_shouted = list(subscribers), True
            self._courier.spawn(self._shout())
        new = [name for name in topics if name not in self._topics]
        self._topics = dict.fromkeys(topics)
        for host in self.members.present if new else ():
            self._tell_topics(host, new)

    # --- other hosts ---

    async def _shout(self) -> None:
        host, now_ms = self._settings.host, int(time.time() * 1e3)
        state = State(host, self._side.unit, self._side.life, self._bridge, now_ms, self._subscribers)
        await self._mailboxes.shout(state.encode())

    def _heard(self, host: str, data: bytes | None) -> None:
        now_s = time.monotonic()
        try:
            if data is None:
                self._follow(self.members.removed(host), now_s)
                return
            state = State.decode(data)
            if state.host != host:
                raise ParcelError(f"it is called {state.host!r} there")
        except ParcelError as error:
            self._say(host, f"what host {host!r} says of itself cannot be read: {error}")
            return
        if host == self._settings.host:
            self._hear_namesake(state)
            return
        self._follow(self.members.heard(state, now_s), now_s)
        if problem := self.members.all[host].problem:
            self._say(host, f"nothing is sent to host {host!r}: {problem}")

    def _hear_namesake(self, state: State) -> None:
        """Somebody has spoken under this host's name: we, the bridge before us, or one that must not be."""
        if state.bridge == self._bridge or state.seen_at_ms <= self._side.began_ms:
            return
        text = f"another bridge of the cluster is called {state.host!r} as well; give each host a name of its own"
        if state.bridge < self._bridge:  # One of the two goes on, and both know which.
            self.fail(UsageError(text))
        else:
            self._say(state.host, text)

    def _follow(self, change: Change, now_s: float) -> None:
        exports = self.outward.exports
        for host in change.came:
            log.info("host %s is there", host)
            self._tell_topics(host, list(self._topics))
        for host in change.began_anew:
            exports.ask_anew(host)
        for host in change.went:
            log.warning("host %s is away: what is for it %s", host, AWAY_TEXTS[self._settings.while_away])
            if self._settings.while_away == "skip":
                self._side.skip(host, f"host {host} is away", only_expired=False)
        for host, life in change.lives_over:
            self.inward.end_life(host, life)
        lost = [resend for host in change.gone for resend in exports.leave(host)]
        for host in change.gone:
            log.warning("host %s is gone for good: its subscribers are taken away here", host)
        if change.subscriptions:
            self._host()
        for host in {*change.came, *change.began_anew}:
            if host in self.members.present:
                self.outward.ask(host, now_s)
        for target, sequences in lost:
            self._side.resend(None, target, sequences)
        if change.came or change.began_anew:
            self.inward.hosts_changed()
        self.outward.try_waiting(now_s)

    def _host(self) -> None:
        """Have this bus host the others' subscribers."""
        wanted: dict[Place, list[str]] = {
            (proxy.host, proxy.target): self._settings.patterns(patterns)
            for proxy, patterns in self.members.proxies().items()
        }
        groups = self.members.groups()
        self.outward.exports.set_groups({target: hosts for target, (_, hosts) in groups.items()})
        wanted |= {(None, target): patterns for target, (patterns, _) in groups.items()}
        self._side.host(wanted)

    def _tell_topics(self, host: str, names: Sequence[str]) -> None:
        for start in range(0, len(names), TOPICS_MAX):
            letter = Topics(self._settings.host, names[start : start + TOPICS_MAX])
            self._courier.send("back", host, letter.encode())

    def _room(self, host: str) -> None:
        self._side.pause(host, is_paused=False)

    # --- letters ---

    async def _read(self, box: str, take: Callable[[Letter], Awaitable[None]]) -> None:
        while True:
            for letter in await self._mailboxes.pull(box):
                try:
                    await take(letter)
                except ParcelError as error:
                    self.broken += 1
                    log.warning("a letter of %d bytes is put aside: %s", len(letter.data), error)
                    await self._mailboxes.settle(letter, "broken")

    async def _take(self, letter: Letter) -> None:
        parcel = decode(letter.data)
        if not isinstance(parcel, (Events, Part, Who)):
            raise ParcelError(f"{type(parcel).__name__} is not for this mailbox")
        self.inward.take(letter, parcel)

    async def _take_back(self, letter: Letter) -> None:
        parcel = decode(letter.data)
        if isinstance(parcel, Outcomes):
            self._courier.spawn(self.outward.take_outcomes(letter, parcel))
        elif isinstance(parcel, Confirm):
            self._courier.spawn(self.inward.take_confirmation(letter, parcel))
        elif isinstance(parcel, (Have, Topics)):
            if isinstance(parcel, Have):
                self.outward.take_answer(parcel, time.monotonic())
            else:
                self._side.register(parcel.names)
            self._courier.spawn(self._mailboxes.settle(letter, "done"))
        else:
            raise ParcelError(f"{type(parcel).__name__} is not for this mailbox")

    # --- now and then ---

    async def _tick(self) -> None:
        shouted_s = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self._follow(self.members.check(now_s, is_connected=self._mailboxes.is_connected), now_s)
            if self._has_shouted and now_s - shouted_s >= SHOUT_S and self._mailboxes.is_connected:
                shouted_s = now_s
                self._courier.spawn(self._shout())
            self._audit(now_s)
            await self.inward.forget()

    def _audit(self, now_s: float) -> None:
        exports = self.outward.exports
        for host, member in self.members.all.items():
            if member.problem:
                continue
            if member.is_away:
                self._side.skip(host, "it has expired", only_expired=True)
                continue
            exports.give_up_question(host, now_s - ANSWER_S)
            if exports.must_ask(host, now_s - AUDIT_S):
                self.outward.ask(host, now_s)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(WORKING_S)
            await self.inward.look(time.monotonic())

    def _say(self, about: str, text: str) -> None:
        """Say this once, until there is something else to say."""
        if text not in self._said:
            self._said = {text}
            log.error("%s", text)
