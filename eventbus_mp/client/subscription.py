"""How a process hosts a subscriber: what it asks the manager for, and asks again when the bus was lost."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Subscription"]


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
