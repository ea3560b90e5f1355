"""The answers to why: why an event is still here, and what has been unsettled for longest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from eventbus_mp.history import json_key
from eventbus_mp.ids import EventId
from eventbus_mp.statistics import SubscriberKey

__all__ = ["Explanation", "OpenView", "UnsettledDelivery"]


@dataclass(frozen=True, slots=True)
class UnsettledDelivery:
    """One event that one subscriber has not settled."""

    topic: str
    id: EventId | None
    """None: its memory could not be read."""
    subscriber: SubscriberKey
    state: str
    """"queued", "delayed" (it waits for its next attempt), "quarantined" (after a crash it is tried alone) or
    "in_flight"."""
    why: str
    """What it waits for; empty in flight."""
    age_s: float
    """How long ago the event, or one that arrived together with it, was notified."""
    attempt: int
    """1; more after failures, and after crashes of its processes."""
    hosts: tuple[int, ...]
    """The processes that host the subscriber."""
    pid: int | None = None
    """The process that holds it; None: none does."""
    command: str = ""
    """Of that process; empty: it cannot be read from here."""
    held_s: float | None = None
    """How long the process has had it; None: it has not, or that was not asked, or is no longer remembered."""
    position: int | None = None
    """How many deliveries are in front of it in the queue."""
    last_error: str | None = None
    """What happened at its last attempt; None: it is the first, or what it was is not known."""
    stack: str | None = None
    """What the threads of that process were doing, as `faulthandler` shows it; None: unknown."""

    @property
    def text(self) -> str:
        """The delivery as a line, without the stack."""
        who = self.subscriber.text
        if self.subscriber.config is not None:
            who += f" {self.subscriber.config!r}"
        tried = f", attempt {self.attempt}" if self.attempt > 1 else ""
        error = f"; {self.last_error}" if self.last_error else ""
        if self.state == "in_flight":
            since = f" for {self.held_s:.3f} s" if self.held_s is not None else ""
            command = f" ({self.command})" if self.command else ""
            return f"{who}: process {self.pid}{command} has it{since}{tried}{error}"
        place = f", {self.position} in front of it" if self.position is not None else ""
        return f"{who}: {self.state}{place}{tried}: {self.why}{error}"

    def as_dict(self) -> dict[str, Any]:
        """The fields as values that JSON has."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "subscriber": json_key(self.subscriber), "hosts": list(self.hosts)}

    def with_stack(self, stack: str | None) -> UnsettledDelivery:
        """The same, with what its process was doing."""
        return replace(self, stack=stack)


@dataclass(frozen=True, slots=True)
class OpenView:
    """A process's views into the event's memory, which keep it beyond any delivery."""

    pid: int
    command: str
    age_s: float
    """Of the oldest one."""
    views: int
    nbytes: int

    @property
    def text(self) -> str:
        """The view as a line."""
        command = f" ({self.command})" if self.command else ""
        return f"process {self.pid}{command} has had a view of its {self.nbytes} bytes for {self.age_s:.3f} s"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an event is still here: who has not settled it, and who keeps its memory. `str()` is a text of it."""

    topic: str
    id: EventId
    age_s: float | None
    """How long ago the event, or one that arrived together with it, was notified; None: it is settled."""
    deliveries: tuple[UnsettledDelivery, ...] = ()
    views: tuple[OpenView, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether every subscriber has settled it; its memory may still be kept by views."""
        return not self.deliveries

    def as_dict(self) -> dict[str, Any]:
        """The whole as values that JSON has."""
        views = [{name: getattr(view, name) for name in view.__dataclass_fields__} for view in self.views]
        return {
            "topic": self.topic,
            "id": self.id,
            "age_s": self.age_s,
            "deliveries": [delivery.as_dict() for delivery in self.deliveries],
            "views": views,
        }

    def __str__(self) -> str:
        age = f"unsettled, {self.age_s:.3f} s old" if self.age_s is not None else "settled"
        lines = [f"event {self.id!r} of topic {self.topic!r}: {age}"]
        shown: dict[int, int] = {}
        for number, delivery in enumerate(self.deliveries, 1):
            lines.append(f"- {delivery.text}")
            if delivery.pid is None:
                continue
            if delivery.pid in shown:
                lines.append(f"    its stack is the one of delivery {shown[delivery.pid]}")
            else:
                shown[delivery.pid] = number
                stack = delivery.stack or "its stack is unknown: the process does not show it, or did not in time"
                lines += [f"    {line}" for line in stack.splitlines()]
        return "\n".join([*lines, *(f"- {view.text}" for view in self.views)])
