"""Which hosts there are, what each has subscribed, and who is away. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.state import State

__all__ = ["Change", "Member", "Members", "Proxy"]

AWAY_S = 15.0
"""A host that has said nothing for so long is away; each says something every `SHOUT_S`."""
SHOUT_S = 4.0


class Proxy(NamedTuple):
    """A subscriber of another host, which is to be one of this bus."""

    host: str
    target: Target


@dataclass(slots=True)
class Member:
    """Another host."""

    state: State
    heard_s: float
    is_away: bool = False
    away_s: float = 0.0
    """For how long it has been away while we were there ourselves."""
    problem: str = ""
    """Why nothing is sent to it; empty: it is."""


@dataclass(slots=True)
class Change:
    """What is new after a host has spoken or has not."""

    came: list[str] = field(default_factory=list)
    """Hosts that were not known, or were away."""
    began_anew: list[str] = field(default_factory=list)
    """Hosts whose bridge or bus is another one."""
    lives_over: list[tuple[str, bytes]] = field(default_factory=list)
    """Hosts, and the lives of their buses that have ended."""
    went: list[str] = field(default_factory=list)
    """Hosts that are away now."""
    gone: list[str] = field(default_factory=list)
    """Hosts that were away for too long, or were taken out of the cluster."""
    subscriptions: bool = False
    """Whether subscribers, or where they are, may be others."""


class Members:
    """Args:
    host: This host, which is none of them.
    grace_s: A host that is away for so long is given up, with what waits for it.
    """

    def __init__(self, host: str, grace_s: float) -> None:
        self._host = host
        self._grace_s = grace_s
        self._members: dict[str, Member] = {}
        self._checked_s: float | None = None

    @property
    def all(self) -> Mapping[str, Member]:
        """By name."""
        return self._members

    @property
    def present(self) -> list[str]:
        """Those that events can be sent to, whether they are away or not."""
        return [name for name, member in self._members.items() if not member.problem]

    def lives(self) -> dict[bytes, str]:
        """The life of each host's bus -> its name."""
        return {member.state.life: name for name, member in self._members.items()}

    def heard(self, state: State, now_s: float) -> Change:
        """A host, not this one, has said this."""
        change = Change()
        before = self._members.get(state.host)
        member = self._members[state.host] = Member(state, now_s)
        if state.is_foreign:
            spoken = f"version {state.version}, layout {state.layout}, {state.byte_order} endian"
            member.problem = f"it speaks {spoken}, which is not ours"
        if before is None or before.is_away:
            change.came.append(state.host)
        if before is not None and (before.state.bridge, before.state.life) != (state.bridge, state.life):
            change.began_anew.append(state.host)
        if before is not None and before.state.life != state.life:
            change.lives_over.append((state.host, before.state.life))
        change.subscriptions = (
            before is None
            or before.problem != member.problem
            or list(before.state.subscribers) != list(state.subscribers)
        )
        return change

    def removed(self, host: str) -> Change:
        """A host was taken out of the cluster."""
        change = Change()
        member = self._members.pop(host, None)
        if member is not None:
            change.gone.append(host)
            change.lives_over.append((host, member.state.life))
            change.subscriptions = True
        return change

    def check(self, now_s: float, *, is_connected: bool) -> Change:
        """Time has passed. While we are cut off ourselves, nobody's time runs: we are the one who is away."""
        change = Change()
        passed_s = now_s - self._checked_s if self._checked_s is not None else 0.0
        self._checked_s = now_s
        for name, member in list(self._members.items()):
            if not is_connected:
                member.heard_s += passed_s
            elif now_s - member.heard_s > AWAY_S:
                if not member.is_away:
                    member.is_away = True
                    change.went.append(name)
                    change.subscriptions = True
                member.away_s += passed_s
                if member.away_s > self._grace_s:
                    del self._members[name]
                    change.gone.append(name)
                    change.lives_over.append((name, member.state.life))
        return change

    def proxies(self) -> dict[Proxy, list[str]]:
        """The subscribers of other hosts that this bus is to have, with their patterns."""
        return {
            Proxy(name, Target(found.name, found.config)): list(found.patterns)
            for name in self.present
            for found in self._members[name].state.subscribers
            if found.scope == "host"
        }

    def groups(self) -> dict[Target, tuple[list[str], set[str]]]:
        """Subscribers of scope "cluster": their patterns, and the hosts that have them and are not away."""
        found: dict[Target, tuple[list[str], set[str]]] = {}
        for name in self.present:
            member = self._members[name]
            for item in member.state.subscribers if not member.is_away else ():
                if item.scope == "cluster":
                    target = Target(item.name, item.config)
                    found.setdefault(target, (list(item.patterns), set()))[1].add(name)
        return found
