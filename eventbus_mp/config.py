"""BusConfig: every limit and timeout of the bus, the unit in its name.

A setting is declared once, as a field: `setting(default, kind, doc, bus_wide=...)`. The kind says which values it may
have and how it is read from a variable. The checks, `from_environment`, `bus_wide` and the table in
docs/reference/settings.md all come from that declaration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from eventbus_mp.errors import UsageError
from eventbus_mp.events import check_topic

__all__ = [
    "TIME_UNITS_NS",
    "BusConfig",
    "Kind",
    "Setting",
    "check_bus_name",
    "seconds",
    "setting",
    "settings_table",
    "whole_number",
]

TIME_UNITS_NS = {"second": 1_000_000_000, "millisecond": 1_000_000, "microsecond": 1_000, "nanosecond": 1}
"""Nanoseconds in each time unit that `BusConfig.time_unit` may name."""

EVENT_BYTES_LIMIT = (1 << 32) - 1
"""An event's length travels as 32 bits, and so does a msgpack `bin`."""

_YEAR_S = 86_400 * 365
_BUS_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ENVIRONMENT_PREFIX = "EVENTBUS_MP_"


# --- what a setting can be ---


@dataclass(frozen=True)
class Kind:
    """The values that a setting may have, and how a variable's text becomes one."""

    values: str
    """For the documentation."""
    check: Callable[[str, Any], Any]
    """Takes the setting's name and a value, and returns the value to keep, or raises `UsageError`."""
    parse: Callable[[str], Any] | None = None
    """Takes a variable's text, and returns the value or raises `ValueError`; None: no variable can give it."""


@dataclass(frozen=True)
class Setting:
    """What a field of `BusConfig` has in its metadata."""

    kind: Kind
    doc: str
    bus_wide: bool
    default_doc: str | None


def setting(default: Any, kind: Kind, doc: str, *, bus_wide: bool = False, default_doc: str | None = None) -> Any:
    """Declare a setting, as the value of a field of `BusConfig`.

    Args:
        default: The field's default.
        kind: The values that it may have.
        doc: Its line in the documentation.
        bus_wide: Whether the manager lives by it, so that it holds for every process of the bus.
        default_doc: How the documentation shows the default; None: as it is.
    """
    return field(default=default, metadata={"setting": Setting(kind, doc, bus_wide, default_doc)})


def _shown(value: Any) -> str:
    """A default, or the end of a range, as the documentation shows it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, int):
        return f"2^{value.bit_length() - 1}" if value >= 1 << 20 and value & (value - 1) == 0 else f"{value:,}"
    return f"{value:,g}" if value else "none"


def _number(low: float, high: float, types: tuple[type, ...], parse: Callable[[str], Any], optional: bool) -> Kind:
    def check(name: str, value: Any) -> Any:
        if (value is None and optional) or (type(value) in types and low <= value <= high):
            return value
        raise UsageError(f"BusConfig.{name}={value!r} is not a number from {low} to {high}")

    return Kind(f"{_shown(low)} to {_shown(high)}", check, parse)


def whole_number(low: int, high: int, *, optional: bool = False) -> Kind:
    """An int from `low` to `high`; or None, if it is optional."""
    return _number(low, high, (int,), int, optional)


def seconds(low: float, high: float) -> Kind:
    """An int or a float from `low` to `high`."""
    return _number(low, high, (int, float), float, optional=False)


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(text)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _as_it_is(name: str, value: Any) -> Any:
    return value


def _check_topics(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)):
        raise UsageError(f"BusConfig.{name}={value!r} is one text, not a sequence of topics")
    return tuple(check_topic(topic) for topic in value)


def _check_optional_topic(name: str, value: Any) -> str | None:
    return check_topic(value) if value is not None else None


def _check_time_unit(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in TIME_UNITS_NS:
        raise UsageError(f"BusConfig.{name}={value!r} is none of {', '.join(TIME_UNITS_NS)}")
    return value


def _check_callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise UsageError(f"BusConfig.{name}={value!r} is not callable")
    return value


FLAG = Kind("`true` or `false`", _as_it_is, _boolean)
PATH = Kind("a directory's path", _as_it_is, str)
TOPIC = Kind("a topic", _check_optional_topic, str)
TOPICS = Kind("topics; commas separate them in the variable", _check_topics, _split)
TIME_UNIT = Kind(", ".join(f"`{unit}`" for unit in TIME_UNITS_NS), _check_time_unit, str)
ID_GENERATOR = Kind("a callable without arguments that returns a str", _check_callable)


# --- the settings ---


@dataclass(frozen=True)
class BusConfig:
    """The settings of a bus; docs/reference/settings.md has the table of them.

    Each one can be given as an argument or as the variable `EVENTBUS_MP_<FIELD>`; an argument wins over a variable.
    Those that are declared `bus_wide` are taken from the process that starts the manager and hold for every process of
    the bus; the others are each process's own. Making a config only checks it.

    Raises:
        UsageError: A value is outside its range; the text names the field.
        TypeError: There is no such setting.
    """

    topics: tuple[str, ...] = setting((), TOPICS, "Topics that are registered when a process connects.")
    ttl: int | None = setting(
        None,
        whole_number(0, 1 << 62, optional=True),
        "How long the events of an `EventSource` may be delivered, in `time_unit`, counted from `occurred_at`.",
        default_doc="no limit",
    )
    time_unit: str = setting(
        "microsecond", TIME_UNIT, "The unit of `initialized_at`, `occurred_at`, `ttl` and `duration`."
    )
    id_generator: Callable[[], str] | None = setting(  # noqa: RUF009  (it returns a field)
        None, ID_GENERATOR, "Makes the ids of events and transactions.", default_doc="19 characters that sort by time"
    )
    strict: bool = setting(
        False, FLAG, "Whether `notify` raises `UnknownTopic` for a topic that is not registered, instead of warning."
    )
    event_bytes_max: int = setting(
        EVENT_BYTES_LIMIT,
        whole_number(1, EVENT_BYTES_LIMIT),
        "The largest encoded event that `notify` accepts. It must also fit into the bus's memory.",
    )
    notify_timeout_s: float = setting(
        30.0, seconds(0, _YEAR_S), "How long `notify` waits for memory before it raises `BusFull`."
    )
    connect_timeout_s: float = setting(
        20.0, seconds(0, 3_600), "How long connecting may take, including the start of a manager."
    )
    request_timeout_s: float = setting(
        30.0, seconds(0.001, 86_400), "How long the manager may take to answer before `ManagerLost` is raised."
    )
    run_dir: str | None = setting(
        None,
        PATH,
        "The directory in which buses keep their sockets, locks and logs.",
        default_doc="`$XDG_RUNTIME_DIR/eventbus_mp`, or else `eventbus_mp-<uid>` in the temporary directory",
    )

    memory_bytes_max: int | None = setting(
        None,
        whole_number(1 << 20, 1 << 46, optional=True),
        "The bus's memory for events.",
        bus_wide=True,
        default_doc="a quarter of the free bytes of `/dev/shm`, at most 1 GiB",
    )
    credit_max: int = setting(
        4096,
        whole_number(1, 1 << 20),
        "How many unsettled events a process may hold for one subscriber.",
        bus_wide=True,
    )
    crashes_max: int = setting(
        3,
        whole_number(1, 1_000),
        "After how many crashes of the processes that held it a delivery is skipped.",
        bus_wide=True,
    )
    orphan_grace_s: float = setting(
        30.0,
        seconds(0, _YEAR_S),
        "How long a subscriber without a process keeps its place. After that its deliveries are skipped.",
        bus_wide=True,
    )
    manager_idle_s: float = setting(
        2.0, seconds(0, _YEAR_S), "How long the manager stays after the last process has left.", bus_wide=True
    )
    lease_warning_s: float = setting(
        60.0,
        seconds(0, _YEAR_S),
        "The age at which an open view of an event is logged in the manager's log, once.",
        bus_wide=True,
    )
    dead_letter_topic: str | None = setting(
        None,
        TOPIC,
        "The topic to which events go that were given up, that a handler failed on, or whose subscriber has gone.",
        bus_wide=True,
        default_doc="none",
    )
    check_invariants: bool = setting(
        False,
        FLAG,
        "Whether the manager checks all its invariants after every message. For tests: it is slow.",
        bus_wide=True,
    )

    def __post_init__(self) -> None:
        for name, declared in _declared().items():
            object.__setattr__(self, name, declared.kind.check(name, getattr(self, name)))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> BusConfig:
        """The settings from `EVENTBUS_MP_*` variables; the arguments `given` win over them.

        Raises:
            UsageError: A variable's text is not a value of its setting, or `given` has a name that is no setting; the
                text names the variable or the name.
        """
        environment = os.environ if environment is None else environment
        declared = _declared()
        for name in given:
            if name not in declared:
                raise UsageError(_unknown(name))
        for name, one in declared.items():
            variable = _ENVIRONMENT_PREFIX + name.upper()
            text = environment.get(variable)
            if text is not None and name not in given and one.kind.parse is not None:
                try:
                    given[name] = one.kind.parse(text)
                except ValueError as cause:
                    raise UsageError(f"{variable}={text!r} is not a value of BusConfig.{name}") from cause
        return cls(**given)

    def bus_wide(self) -> dict[str, Any]:
        """The settings that the manager lives by, as plain values."""
        return {name: getattr(self, name) for name, declared in _declared().items() if declared.bus_wide}


def check_bus_name(name: str) -> str:
    """Return `name` if it can name a bus.

    Raises:
        UsageError: It is not 1 to 64 letters, digits, `_`, `-` or `.`, or begins with `-` or `.`. It becomes part of
            file names.
    """
    if not isinstance(name, str) or not _BUS_NAME.fullmatch(name):
        raise UsageError(
            f"bus name {name!r}: use 1 to 64 letters, digits, '_', '-' or '.', not starting with '.' or '-'"
        )
    return name


def settings_table() -> str:
    """All settings as the Markdown table of docs/reference/settings.md."""
    lines = ["| setting | variable | default | values | holds for | meaning |", "|---|---|---|---|---|---|"]
    for item in fields(BusConfig):
        declared: Setting = item.metadata["setting"]
        variable = f"`{_ENVIRONMENT_PREFIX}{item.name.upper()}`" if declared.kind.parse is not None else "none"
        default = declared.default_doc or _shown(item.default)
        holds_for = "the bus" if declared.bus_wide else "the process"
        cells = (f"`{item.name}`", variable, default, declared.kind.values, holds_for, declared.doc)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _declared() -> dict[str, Setting]:
    return {item.name: item.metadata["setting"] for item in fields(BusConfig)}


def _unknown(name: str) -> str:
    import difflib  # here: only a mistake needs it

    names = list(_declared())
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    return f"there is no setting {name!r}; the nearest name is {nearest!r}, and all are: {', '.join(names)}"
