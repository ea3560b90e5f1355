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

from eventbus_mp.arguments import as_int, as_list, as_number, as_text
from eventbus_mp.errors import UsageError
from eventbus_mp.events import check_topic
from eventbus_mp.ids import EventId

__all__ = [
    "TIME_UNITS_NS",
    "BusConfig",
    "Kind",
    "Setting",
    "check_bus_name",
    "check_topics",
    "seconds",
    "setting",
    "settings_table",
    "whole_number",
]

TIME_UNITS_NS = {"second": 1_000_000_000, "millisecond": 1_000_000, "microsecond": 1_000, "nanosecond": 1}
"""Nanoseconds in each time unit that `BusConfig.time_unit` may name."""

EVENT_BYTES_LIMIT = (1 << 32) - 1
"""An event's length travels as 32 bits, and so does a msgpack `bin`."""

SPILL_FACTOR = 16
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


def _number(
    low: float, high: float, convert: Callable[[object], Any], parse: Callable[[str], Any], optional: bool
) -> Kind:
    def check(name: str, value: Any) -> Any:
        if value is None and optional:
            return None
        number = convert(value)
        if number is not None and low <= number <= high:
            return number
        raise UsageError(f"BusConfig.{name}={value!r} is not a number from {low} to {high}")

    return Kind(f"{_shown(low)} to {_shown(high)}", check, parse)


def whole_number(low: int, high: int, *, optional: bool = False) -> Kind:
    """An int from `low` to `high`; or None, if it is optional."""
    return _number(low, high, as_int, int, optional)


def seconds(low: float, high: float) -> Kind:
    """An int or a float from `low` to `high`."""
    return _number(low, high, as_number, float, optional=False)


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(text)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_flag(name: str, value: Any) -> bool:
    # 0 and 1 as well, and numpy's bool, which is neither bool nor int. A text is refused: "no" would count as true.
    if isinstance(value, (bool, int)) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise UsageError(f"BusConfig.{name}={value!r} is not True or False")


def check_topics(what: str, topics: Any) -> tuple[str, ...]:
    """The topics as a tuple; `what` names them in errors.

    Raises:
        InvalidTopic: One of them cannot name a topic.
        UsageError: They are not a sequence of topics.
    """
    wanted = as_list(topics)
    if wanted is None:
        raise UsageError(f"{what}={topics!r} is not a sequence of topics; write [{topics!r}] for one")
    return tuple(check_topic(topic) for topic in wanted)


def _check_topics(name: str, value: Any) -> tuple[str, ...]:
    return check_topics(f"BusConfig.{name}", value)


def _check_optional_topic(name: str, value: Any) -> str | None:
    return check_topic(value) if value is not None else None


def _check_time_unit(name: str, value: Any) -> str:
    unit = as_text(value)
    if unit is None or unit not in TIME_UNITS_NS:
        raise UsageError(f"BusConfig.{name}={value!r} is not one of {', '.join(TIME_UNITS_NS)}")
    return unit


def _check_path(name: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        path = as_text(os.fspath(value))
        if path is not None and "\0" not in path and _is_of_bytes(path):
            return path or None
    raise UsageError(f"BusConfig.{name}={value!r} is not a path")


def _is_of_bytes(path: str) -> bool:
    """Whether the file system can have it: a name that is not UTF-8 is a text with surrogates, but not with any."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _check_callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise UsageError(f"BusConfig.{name}={value!r} is not callable")
    return value


FLAG = Kind("`true` or `false`", _check_flag, _boolean)
PATH = Kind("a directory's path", _check_path, str)
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
    id_generator: Callable[[], EventId] | None = setting(  # noqa: RUF009  (it returns a field)
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
        30.0, seconds(0, _YEAR_S), "How long `notify` waits for memory, or room in a backlog, before `BusFull`."
    )
    connect_timeout_s: float = setting(
        20.0, seconds(0, 3_600), "How long connecting may take, including the start of a manager."
    )
    request_timeout_s: float = setting(
        30.0, seconds(0.001, 86_400), "How long the manager may take to answer before `ManagerLost` is raised."
    )
    exit_timeout_s: float = setting(
        5.0,
        seconds(0, _YEAR_S),
        "How long a running handler may go on when its process ends. Then its event goes to another process.",
    )
    stop_timeout_s: float = setting(
        30.0,
        seconds(0, _YEAR_S),
        "How long handlers and the threads they have started may go on when a worker of a pool is to leave.",
    )
    reconnect: bool = setting(
        True,
        FLAG,
        "Whether a handle comes back, with all that it has subscribed, when its bus was lost. If not, its calls raise "
        "`ManagerLost` from then on.",
    )
    show_stacks: bool = setting(
        True,
        FLAG,
        "Whether this process shows its threads' stacks to `explain` in other processes. It takes a signal for that.",
    )
    run_dir: str | None = setting(
        None,
        PATH,
        "The directory in which buses keep their sockets, locks and logs.",
        default_doc="`/dev/shm/ebmp-<uid>`",
    )

    memory_bytes_max: int | None = setting(
        None,
        whole_number(1 << 20, 1 << 46, optional=True),
        "The bus's memory for events.",
        bus_wide=True,
        default_doc="a quarter of the free bytes of `/dev/shm`, at most 1 GiB",
    )
    spill_bytes_max: int | None = setting(
        None,
        whole_number(0, 1 << 50, optional=True),
        "How many bytes of events may lie in files, when handlers publish and the memory is used up; 0: none.",
        bus_wide=True,
        default_doc="16 times `memory_bytes_max`",
    )
    spill_dir: str | None = setting(
        None,
        PATH,
        "The directory of these files. It should be on a disk, and not in memory.",
        bus_wide=True,
        default_doc="`/var/tmp`",
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
    receipts_max: int = setting(
        1_000_000, whole_number(1, 1 << 30), "How many receipts of one name may be unconfirmed.", bus_wide=True
    )
    orphan_grace_s: float = setting(
        30.0,
        seconds(0, _YEAR_S),
        "How long a subscriber without a process, and the bus with it, stays. Then its deliveries are skipped.",
        bus_wide=True,
    )
    manager_idle_s: float = setting(
        2.0,
        seconds(0, _YEAR_S),
        "How long the manager stays after the last process has left; longer if events wait within a grace.",
        bus_wide=True,
    )
    lease_warning_s: float = setting(
        60.0,
        seconds(0, _YEAR_S),
        "The age at which an open view of an event is logged in the manager's log, once.",
        bus_wide=True,
    )
    event_log_bytes_max: int = setting(
        4 << 20,
        whole_number(1 << 15, 1 << 34),
        "How much memory the manager uses to remember what happened to events, about: for `story` and `history`.",
        bus_wide=True,
    )
    dead_letter_topic: str | None = setting(
        None,
        TOPIC,
        "The topic to which events go that were given up, that a handler failed on, or whose subscriber has gone.",
        bus_wide=True,
        default_doc="none",
    )
    lifecycle_topic: str | None = setting(
        None, TOPIC, "The topic on which the bus says what comes and goes on it.", bus_wide=True, default_doc="none"
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
        """The settings from `EVENTBUS_MP_*` variables that are not empty; the arguments `given` win over them.

        Raises:
            UsageError: A variable's text is not a value of its setting, or a name in `given` is not a setting; the text
                names it.
        """
        environment = os.environ if environment is None else environment
        declared = _declared()
        for name in given:
            if name not in declared:
                raise UsageError(_unknown(name))
        for name, one in declared.items():
            variable = _ENVIRONMENT_PREFIX + name.upper()
            text = environment.get(variable)
            # Set and empty is unset: docker compose writes a variable that way that has no value.
            if text and text.strip() and name not in given and one.kind.parse is not None:
                try:
                    given[name] = one.kind.parse(text)
                except ValueError as cause:
                    raise UsageError(f"{variable}={text!r} is not a value of BusConfig.{name}") from cause
        return cls(**given)

    @property
    def spill_bytes(self) -> int:
        """`spill_bytes_max`, or its default. `memory_bytes_max` must be a number."""
        if self.spill_bytes_max is not None:
            return self.spill_bytes_max
        assert self.memory_bytes_max is not None
        return SPILL_FACTOR * self.memory_bytes_max

    def bus_wide(self) -> dict[str, Any]:
        """The settings that the manager lives by, as plain values."""
        return {name: getattr(self, name) for name, declared in _declared().items() if declared.bus_wide}


def check_bus_name(name: str) -> str:
    """Return `name` if it can name a bus.

    Raises:
        UsageError: It is not 1 to 64 letters, digits, `_`, `-` or `.`, or begins with `-` or `.`. It becomes part of
            file names.
    """
    text = as_text(name)
    if text is None or not _BUS_NAME.fullmatch(text):
        raise UsageError(
            f"bus name {name!r}: use 1 to 64 letters, digits, '_', '-' or '.', not starting with '.' or '-'"
        )
    return text


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
