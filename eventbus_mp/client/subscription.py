"""How a process hosts a subscriber: what it asks the manager for, and asks again when the bus was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["NO_BOUND", "BacklogBound", "Subscription"]


class BacklogBound(NamedTuple):
    """How much a subscriber may have unsettled, and what happens to more; 0: any amount."""

    events_max: int = 0
    bytes_max: int = 0
    when_full: str = "block"


NO_BOUND = BacklogBound()


@dataclass(frozen=True, slots=True)
class Subscription:
    """All of it has been checked (validation.py)."""

    patterns: tuple[str, ...]
    credit: int = 0
    """0: automatic."""
    broadcast: bool = False
    threads: int = 1
    scope: str = "host"
    forwards: bool = False
    bound: BacklogBound = NO_BOUND
