"""What this host has sent to others and has not heard the end of, and what must not be sent before they have answered.

A bridge that begins does not know what the one before has sent. So it asks each host first (`Who`): the question comes
behind all letters that were sent before, and so the answer (`Have`) is exact. Until it is there, events for that host
are parked. The same question finds what was lost on the way: what was sent long before it was asked, and is not among
what the host has, is sent again.

An event for a subscriber of scope "cluster" goes to one host of several: to the one that has the least to do. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from eventbus_mp.addons.bridge.fields import Target

__all__ = ["Exports", "Numbered", "Resend"]


class Numbered(Protocol):
    """An event, by its sequence number."""

    @property
    def sequence(self) -> int: ...


E = TypeVar("E", bound=Numbered)
Held = Mapping[Target, Collection[int]]
"""The sequence numbers that a host has, for each subscriber."""


class Resend(NamedTuple):
    """Events of one subscriber that have to be sent again."""

    target: Target
    sequences: Sequence[int]


class _Host(Generic[E]):
    """What is known of one host."""

    def __init__(self) -> None:
        self.open: dict[Target, dict[int, float]] = {}
        """Sequence -> when it was sent, the oldest first."""
        self.parked: list[tuple[Target, Sequence[E]]] = []
        self.has_answered = False
        self.asked_s: float | None = None
        """When a question was sent that is not answered; None: none is open."""
        self.question = 0
        """Its number."""

    def sent(self, target: Target, sequences: Iterable[int], now_s: float) -> None:
        times = self.open.setdefault(target, {})
        for sequence in sequences:
            times.pop(sequence, None)  # What is sent again is the newest.
            times[sequence] = now_s

    def count(self, target: Target) -> int:
        return len(self.open.get(target, ()))

    @property
    def oldest_s(self) -> float | None:
        """When the oldest that is open was sent."""
        firsts = [next(iter(times.values())) for times in self.open.values() if times]
        return min(firsts, default=None)


class Exports(Generic[E]):
    """One object for one life of the bus. `now_s` is any clock that never goes back.

    Args:
        number: Questions have higher numbers than this: those of the bridge before are not taken for ours.
    """

    def __init__(self, number: int = 0) -> None:
        self._number = number
        self._hosts: dict[str, _Host[E]] = defaultdict(_Host)
        self._groups: dict[Target, set[str]] = {}
        """Subscribers of scope "cluster" -> the other hosts that have them."""
        self._waiting: dict[Target, list[E]] = {}
        """Their events, until it is known who has which."""

    def unsettled(self, host: str) -> int:
        """How many deliveries the host has not told the end of."""
        return sum(map(len, self._hosts[host].open.values()))

    def oldest_s(self, host: str) -> float | None:
        """When the oldest of these was sent."""
        return self._hosts[host].oldest_s

    # --- what is to be sent ---

    def take(self, host: str, target: Target, events: Sequence[E], now_s: float) -> Sequence[E]:
        """Events for a subscriber of this host: those that are to be sent now; the others are parked."""
        state = self._hosts[host]
        if not state.has_answered:
            state.parked.append((target, events))
            return ()
        state.sent(target, [event.sequence for event in events], now_s)
        return events

    def set_groups(self, groups: Mapping[Target, set[str]]) -> None:
        """Which subscribers of scope "cluster" there are, and on which of the other hosts that are there."""
        self._groups = dict(groups)

    def is_shared(self, target: Target) -> bool:
        """Whether it is a subscriber of scope "cluster"."""
        return target in self._groups

    def take_shared(self, target: Target, events: Sequence[E], now_s: float) -> dict[str, list[E]]:
        """Events for a subscriber of scope "cluster": which host gets which; those that nobody gets yet wait."""
        waiting = [*self._waiting.pop(target, ()), *events]
        hosts = self._groups.get(target, set())
        if not hosts or any(not self._hosts[host].has_answered for host in hosts):
            self._waiting[target] = waiting
            return {}
        shares: dict[str, list[E]] = defaultdict(list)
        known = {sequence for host in self._hosts.values() for sequence in host.open.get(target, ())}
        for event in waiting:
            if event.sequence not in known:
                host = min(hosts, key=lambda name: (self._hosts[name].count(target), name))
                self._hosts[host].sent(target, (event.sequence,), now_s)
                shares[host].append(event)
        return shares

    def waiting_targets(self) -> list[Target]:
        """Subscribers of scope "cluster" whose events wait: `take_shared` with no more events may find a host."""
        return list(self._waiting)

    # --- questions ---

    def ask(self, host: str, now_s: float) -> int:
        """The number of a question to the host what it has; 0: one is open."""
        state = self._hosts[host]
        if state.asked_s is not None:
            return 0
        state.asked_s = now_s
        self._number += 1
        state.question = self._number
        return self._number

    def must_ask(self, host: str, before_s: float) -> bool:
        """Whether it has never answered, or has had something since before this time."""
        state = self._hosts[host]
        oldest_s = state.oldest_s
        return state.asked_s is None and (not state.has_answered or (oldest_s is not None and oldest_s < before_s))

    def ask_anew(self, host: str) -> None:
        """The host's bridge or bus began anew: the next question counts."""
        self._hosts[host].asked_s = None

    def give_up_question(self, host: str, before_s: float) -> None:
        """A question from before this time is not going to be answered."""
        state = self._hosts[host]
        if state.asked_s is not None and state.asked_s < before_s:
            state.asked_s = None

    def answered(
        self, host: str, number: int, held: Held, now_s: float
    ) -> tuple[list[tuple[Target, list[E]]], list[Resend]]:
        """The host has said what it has: (what was parked and is to be sent, what was sent and is to be sent again)."""
        state = self._hosts[host]
        if state.asked_s is None or number != state.question:
            return [], []  # An answer to a question of the bridge before, or to one that was given up.
        asked_s, state.asked_s = state.asked_s, None
        resend = [] if not state.has_answered else self._lost(state, held, asked_s)
        state.has_answered = True
        sent = []
        for target, events in state.parked:
            theirs = held.get(target, ())
            state.sent(target, [event.sequence for event in events], now_s)
            if fresh := [event for event in events if event.sequence not in theirs]:
                sent.append((target, fresh))
        state.parked.clear()
        for target in self._waiting:
            ours = {event.sequence for event in self._waiting[target]}
            state.sent(target, ours.intersection(held.get(target, ())), now_s)
        return sent, resend

    @staticmethod
    def _lost(state: _Host[E], held: Held, asked_s: float) -> list[Resend]:
        lost = []
        for target, times in state.open.items():
            theirs = held.get(target, ())
            missing = [sequence for sequence, sent_s in times.items() if sent_s < asked_s and sequence not in theirs]
            if missing:
                lost.append(Resend(target, missing))
        return lost

    # --- the end ---

    def settled(self, host: str, target: Target, sequences: Iterable[int]) -> None:
        """The host has told what became of these."""
        times = self._hosts[host].open.get(target)
        if times is not None:
            for sequence in sequences:
                times.pop(sequence, None)

    def close(self, target: Target, host: str | None = None) -> None:
        """Nothing is sent any more for this subscriber, of this host or (None) of the whole cluster."""
        if host is None:
            self._waiting.pop(target, None)
        for state in [self._hosts[host]] if host is not None else self._hosts.values():
            state.open.pop(target, None)
            state.parked = [item for item in state.parked if item[0] != target]

    def leave(self, host: str) -> list[Resend]:
        """The host is gone for good: what it had for subscribers of scope "cluster", which others can get."""
        state = self._hosts.pop(host, None)
        if state is None:
            return []
        return [Resend(target, list(times)) for target, times in state.open.items() if target in self._groups and times]
