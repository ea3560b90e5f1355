"""BusConfig: every limit and timeout of the bus, the unit in its name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from eventbus_mp.errors import UsageError
from eventbus_mp.events import check_topic

__all__ = ["TIME_UNITS_NS", "BusConfig", "check_bus_name"]

TIME_UNITS_NS = {"second": 1_000_000_000, "millisecond": 1_000_000, "microsecond": 1_000, "nanosecond": 1}
"""Nanoseconds in each time unit that `BusConfig.time_unit` knows."""

EVENT_BYTES_LIMIT = (1 << 32) - 1
"""An event's length travels as 32 bits, and so does a msgpack `bin`."""

_BUS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ENVIRONMENT_PREFIX = "EVENTBUS_MP_"


@dataclass(frozen=True)
class BusConfig:
    """The settings of a bus.

    Fields marked *bus* are taken from the process that starts the manager and hold for everybody; the others are
    each process's own. Each one can be given as an argument or as the variable `EVENTBUS_MP_<FIELD>`
    (`EVENTBUS_MP_TOPICS` is separated by commas); an argument wins over a variable.

    Raises:
        UsageError: A value is outside its range; the text names the field.
    """

    topics: tuple[str, ...] = ()
    """Registered when a process connects."""
    ttl: int | None = None
    """Default life of an `EventSource`'s events, in `time_unit`; None: for ever."""
    time_unit: str = "microsecond"
    """The unit of `initialized_at`, `occurred_at` and `ttl`: a key of `TIME_UNITS_NS`."""
    id_generator: Callable[[], str] | None = None
    """Makes event and transaction ids; None: base62 of time, node and random."""
    strict: bool = False
    """Whether `notify` on an unknown topic raises `UnknownTopic` instead of warning."""
    event_bytes_max: int = EVENT_BYTES_LIMIT
    """The largest encoded event that `notify` accepts; the memory bound holds besides."""
    notify_timeout_s: float = 30.0
    """How long `notify` waits for memory before it raises `BusFull`."""
    connect_timeout_s: float = 20.0
    """How long connecting may take, the start of a manager included."""
    request_timeout_s: float = 30.0
    """How long one answer of the manager may take before `ManagerLost`."""
    run_dir: str | None = None
    """Where buses keep socket, lock and log; None: `$XDG_RUNTIME_DIR` or the temporary directory."""

    memory_bytes_max: int | None = None
    """*bus*: payload memory; None: a quarter of what /dev/shm has free, at most 1 GiB."""
    credit_max: int = 4096
    """*bus*: the most shadows an endpoint may hold unsettled."""
    crashes_max: int = 3
    """*bus*: after so many crashes of the process that held it, a delivery is skipped."""
    orphan_grace_s: float = 30.0
    """*bus*: how long a subscriber without a process stays before its deliveries are skipped."""
    manager_idle_s: float = 2.0
    """*bus*: how long the manager stays after the last process left."""
    lease_warning_s: float = 60.0
    """*bus*: after so long an open view of an event is told in the manager's log, once."""
    dead_letter_topic: str | None = None
    """*bus*: deliveries that were given up are told here."""
    check_invariants: bool = False
    """*bus*: check every invariant after every message; for tests."""

    def __post_init__(self) -> None:
        if isinstance(self.topics, (str, bytes)):
            raise UsageError(f"BusConfig.topics={self.topics!r} is one text, not a sequence of topics")
        object.__setattr__(self, "topics", tuple(check_topic(topic) for topic in self.topics))
        if self.dead_letter_topic is not None:
            check_topic(self.dead_letter_topic)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            numbers = (int, float) if name.endswith("_s") else (int,)
            if value is None and name in _OPTIONAL:
                continue
            if type(value) not in numbers or not low <= value <= high:
                raise UsageError(f"BusConfig.{name}={value!r} is not a number from {low} to {high}")
        if self.time_unit not in TIME_UNITS_NS:
            raise UsageError(f"BusConfig.time_unit={self.time_unit!r} is none of {', '.join(TIME_UNITS_NS)}")
        if self.id_generator is not None and not callable(self.id_generator):
            raise UsageError(f"BusConfig.id_generator={self.id_generator!r} is not callable")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> BusConfig:
        """The settings from `EVENTBUS_MP_*` variables, overridden by the arguments `given`.

        Raises:
            UsageError: A variable's text is not a value of its field; the text names the variable.
        """
        environment = os.environ if environment is None else environment
        for item in fields(cls):
            text = environment.get(_ENVIRONMENT_PREFIX + item.name.upper())
            if text is not None and item.name not in given and item.name in _PARSERS:
                try:
                    given[item.name] = _PARSERS[item.name](text)
                except ValueError as cause:
                    variable = _ENVIRONMENT_PREFIX + item.name.upper()
                    raise UsageError(f"{variable}={text!r} is not a value of BusConfig.{item.name}") from cause
        return cls(**given)

    def bus_wide(self) -> dict[str, Any]:
        """The fields that the manager lives by, as plain values."""
        return {name: getattr(self, name) for name in _BUS_WIDE}


def check_bus_name(name: str) -> str:
    """`name`, when it can name a bus.

    Raises:
        UsageError: It is not 1 to 64 letters, digits, `_`, `-` or `.`; it becomes part of file names.
    """
    if not isinstance(name, str) or not _BUS_NAME.fullmatch(name):
        raise UsageError(
            f"bus name {name!r}: use 1 to 64 letters, digits, '_', '-' or '.', not starting with '.' or '-'"
        )
    return name


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_RANGES: dict[str, tuple[float, float]] = {
    "ttl": (0, 1 << 62),
    "event_bytes_max": (1, EVENT_BYTES_LIMIT),
    "notify_timeout_s": (0, 86_400 * 365),
    "connect_timeout_s": (0, 3_600),
    "request_timeout_s": (0.001, 86_400),
    "memory_bytes_max": (1 << 20, 1 << 46),
    "credit_max": (1, 1 << 20),
    "crashes_max": (1, 1_000),
    "orphan_grace_s": (0, 86_400 * 365),
    "manager_idle_s": (0, 86_400 * 365),
    "lease_warning_s": (0, 86_400 * 365),
}
_OPTIONAL = {"ttl", "memory_bytes_max"}
_BUS_WIDE = (
    "memory_bytes_max",
    "credit_max",
    "crashes_max",
    "orphan_grace_s",
    "manager_idle_s",
    "lease_warning_s",
    "dead_letter_topic",
    "check_invariants",
)
_PARSERS: dict[str, Callable[[str], Any]] = {
    "topics": _names,
    "ttl": int,
    "time_unit": str,
    "strict": _boolean,
    "event_bytes_max": int,
    "notify_timeout_s": float,
    "connect_timeout_s": float,
    "request_timeout_s": float,
    "run_dir": str,
    "memory_bytes_max": int,
    "credit_max": int,
    "crashes_max": int,
    "orphan_grace_s": float,
    "manager_idle_s": float,
    "lease_warning_s": float,
    "dead_letter_topic": str,
    "check_invariants": _boolean,
}
