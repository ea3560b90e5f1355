"""Values of every type that travels, made of a seed: a producer and a reader make the same ones.

`Values(seed).draw()` gives the next value, and `difference` says where one that arrived is another one.
"""

import array
import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import random
import uuid
import zoneinfo
from collections import Counter
from typing import Any

import numpy as np
from msgpack import ExtType, Timestamp

from eventbus_mp import register_type

DEEPEST = 110
"""Of these levels, each may be two: a registered value and its fields."""


@register_type
class Colour(enum.Enum):
    RED = 1
    GREEN = "green"


@register_type
class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2
    ALL = 1 << 70


@register_type
@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any


@register_type
@dataclasses.dataclass(slots=True)
class Order:
    items: Any
    total: Any = None


class Money:
    def __init__(self, amount: Any) -> None:
        self.amount = amount


register_type(Money, lambda money: {"amount": money.amount, ("of", "tuple"): 1}, lambda body: Money(body["amount"]))


class Label(str):
    __slots__ = ()


register_type(Label, str, Label)

ZONES = [None, datetime.timezone.utc, *map(zoneinfo.ZoneInfo, ("UTC", "Europe/Berlin", "Australia/Lord_Howe"))]
DTYPES = [
    *map(np.dtype, ("?", "i1", "u1", "<i2", ">i4", "q", "l", "f2", "f4", ">f8", "g", "F", "D", "S3", "U2", "V5", "S0")),
    *map(np.dtype, ("M8[ns]", "m8[25s]", ">M8[D]", "c")),
    np.dtype([("a", "i4"), (("title", "b"), "U2"), ("c", "f8", (2,))]),
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype((np.record, [("a", "i1"), ("b", ">f8")])),
    np.dtype("i4", metadata={"unit": ("m", 1)}),
]
TEXTS = ("", "a", "name", "ü", "日本", "\0", "\x7f", "😀" * 3, "x" * 40, "y" * 300)
EDGES = [
    sign * (1 << bits) + near for sign in (1, -1) for bits in (5, 7, 8, 16, 31, 32, 63, 64, 90) for near in (-1, 0, 1)
]
DAY = datetime.timedelta(days=1)


class Values:
    """Args:
    seed: Of all values.
    """

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)
        self._leaves = [
            lambda: None,
            lambda: self._dice.random() < 0.5,
            self._int,
            self._float,
            self._text,
            self._bytes,
            self._moment,
            lambda: datetime.date.fromordinal(self._dice.randint(1, 3_652_059)),
            self._time,
            lambda: datetime.timedelta(
                self._dice.randint(-999, 999), self._dice.randint(0, 86_399), self._dice.randint(0, 9)
            ),
            self._decimal,
            lambda: uuid.UUID(int=self._dice.getrandbits(128), is_safe=self._dice.choice(list(uuid.SafeUUID))),
            lambda: complex(self._float(), self._float()),
            lambda: self._dice.choice((pathlib.PurePosixPath, pathlib.PosixPath))(
                self._text() + self._dice.choice(("", "/a\udcff"))
            ),
            lambda: self._dice.choice((self._timezone(), *ZONES[1:])),
            lambda: ExtType(self._dice.randint(0, 127), self._bytes()),
            lambda: Timestamp(self._dice.getrandbits(34), self._dice.randint(0, 999_999_999)),
            lambda: self._dice.choice([*Colour, *Rights, Rights(3)]),
            lambda: Label(self._text()),
        ]
        self._buffers = [
            lambda: bytearray(self._bytes()),
            lambda: memoryview(self._bytes()),
            lambda: memoryview(bytes(range(24))).cast("B", (4, 6)),
            lambda: memoryview(np.arange(4).astype(self._dice.choice("bBhHiIlLqQfd?"))),
            lambda: array.array(self._dice.choice("bBhHiIlLqQfd"), range(self._dice.randint(0, 9))),
            self._array,
            self._scalar,
        ]

    def draw(self) -> Any:
        """The next value; one of fifty is nested deeply."""
        if self._dice.random() >= 0.02:
            return self._value(self._dice.randint(0, 4))
        value = self._value(1)
        for _ in range(self._dice.randint(1, DEEPEST)):
            value = self._around(value)
        return value

    def _value(self, levels: int) -> Any:
        kind = self._dice.random()
        if not levels or kind < 0.3:
            return self._dice.choice(self._leaves)() if kind < 0.25 else self._dice.choice(self._buffers)()
        if kind < 0.4:
            return self._dice.choice((set, frozenset))(self._key() for _ in range(self._dice.randint(0, 4)))
        if kind < 0.6:
            return {self._key(): self._value(levels - 1) for _ in range(self._dice.randint(0, 4))}
        if kind < 0.65:
            return {self._text(): self._value(levels - 1) for _ in range(self._dice.randint(0, 4))}
        parts = [self._value(levels - 1) for _ in range(self._dice.randint(0, 4))]
        if kind < 0.8:
            return parts
        return tuple(parts) if kind < 0.95 else self._around(parts)

    def _around(self, value: Any) -> Any:
        """A container with this value in it, and perhaps others."""
        return self._dice.choice(
            (
                lambda: [value],
                lambda: (self._int(), value),
                lambda: {self._key(): value},
                lambda: {"x": value, "y": 1},
                lambda: Point(value, (1,)),
                lambda: Order([value]),
                lambda: Money(value),
            )
        )()

    def _key(self, levels: int = 2) -> Any:
        kind = self._dice.random()
        if levels and kind < 0.2:
            return tuple(self._key(levels - 1) for _ in range(self._dice.randint(0, 3)))
        if levels and kind < 0.3:
            return frozenset(self._key(levels - 1) for _ in range(self._dice.randint(0, 3)))
        if levels and kind < 0.35:
            return Point(self._key(levels - 1), 1)
        key = self._dice.choice(self._leaves)()
        return 0 if key != key else key  # What is not equal to itself cannot be looked up.

    def _int(self) -> int:
        return self._dice.choice(EDGES) if self._dice.random() < 0.4 else self._dice.randint(-200, 200)

    def _float(self) -> float:
        if self._dice.random() < 0.2:
            return self._dice.choice((0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7e308))
        return self._dice.uniform(-1e6, 1e6)

    def _text(self) -> str:
        return self._dice.choice(TEXTS)

    def _bytes(self) -> bytes:
        return self._dice.randbytes(self._dice.choice((0, 1, 3, 16, 40, 255, 256, 300)))

    def _timezone(self) -> datetime.timezone:
        offset = datetime.timedelta(microseconds=self._dice.randint(-86_399_999_999, 86_399_999_999))
        return datetime.timezone(offset, self._text()) if self._dice.random() < 0.5 else datetime.timezone(offset)

    def _zone(self) -> Any:
        return self._dice.choice(ZONES) if self._dice.random() < 0.8 else self._timezone()

    def _moment(self) -> datetime.datetime:
        # Many of them around the night in which clocks are put back.
        seconds = self._dice.choice((3 * 3_600, 20 * 365 * 86_400))
        moment = datetime.datetime(2024, 10, 27) + datetime.timedelta(seconds=self._dice.randint(-seconds, seconds))
        microsecond, fold = self._dice.choice((0, 1, 999_999)), self._dice.randint(0, 1)
        return moment.replace(microsecond=microsecond, fold=fold, tzinfo=self._zone())

    def _time(self) -> datetime.time:
        hour, fold = self._dice.randint(0, 23), self._dice.randint(0, 1)
        return datetime.time(hour, 30, microsecond=self._dice.choice((0, 7)), fold=fold, tzinfo=self._zone())

    def _decimal(self) -> decimal.Decimal:
        return decimal.Decimal(self._dice.choice(("0", "-0.00", "1.10", "NaN", "-Infinity", "1E+99", "3" * 40)))

    def _array(self) -> Any:
        dtype = self._dice.choice(DTYPES)
        shape = tuple(self._dice.randint(0, 3) for _ in range(self._dice.randint(0, 3)))
        nbytes = math.prod(shape) * dtype.itemsize
        made = np.ndarray(shape, dtype, buffer=self._dice.randbytes(nbytes) if nbytes else None)
        return self._dice.choice((made, made.T, made[::-1] if shape else made, made[..., None]))

    def _scalar(self) -> Any:
        dtype = self._dice.choice([dtype for dtype in DTYPES if dtype.itemsize and dtype.metadata is None])
        return np.ndarray((), dtype, buffer=bytes(dtype.itemsize))[()]


# --- what arrived ---


def difference(got: Any, given: Any) -> str | None:
    """How a value that arrived differs from the one that was given; None if it does not.

    A loop, not a recursion: it runs with the smallest stack.
    """
    todo = [("data", got, given)]
    while todo:
        path, got, given = todo.pop()
        kind = type(given)
        if kind in (bytearray, memoryview, array.array):
            wanted = memoryview(given)
            if (type(got), got.format, got.shape, got.tobytes(), got.readonly) != (
                memoryview,
                wanted.format,
                wanted.shape,
                wanted.tobytes(),
                True,
            ):
                return f"{path}: {got!r} of {given!r}"
            continue
        if type(got) is not kind:
            return f"{path}: {type(got)} of {kind}"
        if kind is dict:
            todo.append((f"{path} (keys)", list(got), list(given)))
            todo.append((f"{path} (values)", list(got.values()), list(given.values())))
        elif kind in (list, tuple):
            if len(got) != len(given):
                return f"{path}: {len(got)} of {len(given)} parts"
            todo += [(f"{path}[{at}]", *pair) for at, pair in enumerate(zip(got, given, strict=True))]
        elif dataclasses.is_dataclass(kind):
            todo += [
                (f"{path}.{item.name}", getattr(got, item.name), getattr(given, item.name))
                for item in dataclasses.fields(given)
            ]
        elif kind is Money:
            todo.append((f"{path}.amount", got.amount, given.amount))
        elif looks(got) != looks(given):
            return f"{path}: {looks(got)} of {looks(given)}"
    return None


def looks(value: Any) -> Any:
    """Something that is equal for values of one type that cannot be told apart."""
    if isinstance(value, set | frozenset):
        return value, Counter(map(type, value))
    if isinstance(value, float | complex | decimal.Decimal):
        return repr(value)
    if isinstance(value, datetime.datetime | datetime.time):
        return value.replace(tzinfo=None), value.fold, repr(value.tzinfo), type(value.tzinfo)
    if isinstance(value, datetime.timezone):
        return repr(value), value.tzname(None)
    if isinstance(value, uuid.UUID):
        return value, value.is_safe
    if isinstance(value, np.ndarray | np.generic):
        of_numpy: Any = value
        metadata = dict(value.dtype.metadata) if value.dtype.metadata else None
        # Between the fields there may be anything; it is not part of the value.
        content = [looks(of_numpy[name]) for name in value.dtype.names] if value.dtype.names else value.tobytes()
        return value.dtype, value.dtype.char, value.dtype.isalignedstruct, metadata, value.shape, content
    return value
