"""Registered types: what is put in is what comes out, and only what was registered."""

import abc
import collections
import dataclasses
import datetime
import enum
import gc
import typing
import weakref

import numpy as np
import pytest

from eventbus_mp import DecodeError, EncodeError, Event, EventBus, UsageError, register_type
from eventbus_mp.memory import registered
from eventbus_mp.memory.payload import encode_event, read_event
from eventbus_mp.memory.written import write_payload


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Each test's own."""
    monkeypatch.setattr(registered, "_by_class", {})
    monkeypatch.setattr(registered, "_by_name", {})
    monkeypatch.setattr(registered, "_lost_name", {})
    monkeypatch.setattr(registered, "_shows_unregistered", False)  # A test of the command line may have asked for it.


class Colour(enum.Enum):
    RED = 1
    GREEN = (2, 3)
    ALSO_RED = 1


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Order:
    items: tuple[Point, ...]
    colour: Colour
    image: np.ndarray
    total: float = dataclasses.field(init=False, default=0.0)

    def __post_init__(self):
        self.total += 1


class Money:
    def __init__(self, amount):
        self.amount = amount

    def __eq__(self, other):
        return type(other) is Money and other.amount == self.amount

    __hash__ = None  # type: ignore[assignment]


class Hash(str):
    __slots__ = ()


def written(data):
    encoded = encode_event(Event("id", "topic", data))
    payload = bytearray(encoded[-1])
    write_payload(memoryview(payload), 0, encoded, 7)
    return read_event(bytes(payload), 7, "topic")


def through(data):
    return written(data).data


@pytest.mark.parametrize("member", [*Colour, Rights.READ, Rights.READ | Rights.WRITE, Rights(0)], ids=str)
def test_enums_and_flags(member):
    register_type(type(member))
    assert through({"c": [member]})["c"][0] is member


def test_dataclasses_in_one_another_with_arrays():
    for cls in (Point, Colour, Order):
        assert register_type(cls) is cls
    order = Order((Point(1), Point(2, 3)), Colour.GREEN, np.arange(5))
    got = through([order])[0]
    assert type(got) is Order
    assert (got.items, got.colour, got.total) == (order.items, order.colour, 1.0)  # `__post_init__` did not run again
    assert (list(got.image), got.image.flags.writeable) == ([0, 1, 2, 3, 4], False)


def test_any_class_with_encode_and_decode():
    register_type(
        Money, lambda money: {"amount": money.amount, "raw": bytearray(3)}, lambda body: Money(body["amount"])
    )
    EventBus.register_type(Hash, str, Hash, name="hash")
    got = through({"m": (Money(3),), Hash("key"): {Hash("x")}})
    assert got["m"] == (Money(3),)
    assert [type(key) for key in got] == [str, Hash]


def test_a_registered_encode_may_encode():
    def encode(money):
        return [money.amount, len(written([Money(None)] if money.amount else 0).encoded.data)]

    register_type(Money, encode, Money)
    assert through(Money(5)).amount[0] == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Colour.RED, "is not registered; call eventbus_mp.register_type(Colour) where it is defined"),
        (Point(1), "is not registered; call eventbus_mp.register_type(Point) where it is defined"),
        (Money(1), "or register it: eventbus_mp.register_type(Money, encode, decode)"),
        (Hash("x"), "or register it: eventbus_mp.register_type(Hash, encode, decode)"),
    ],
    ids=str,
)
def test_what_is_not_registered(value, text):
    with pytest.raises(EncodeError) as caught:
        through({"x": value})
    assert str(caught.value).startswith("event 'id' of topic 'topic': data['x']: <")
    assert text in str(caught.value)


def test_what_a_registered_value_holds_is_named():
    register_type(Order)
    register_type(Colour)
    with pytest.raises(EncodeError, match=r"data\[0\]\['items'\]\[1\]: <class '.*Point'> is not registered"):
        through([Order((1, Point(1)), Colour.RED, np.zeros(1))])


def test_an_encode_that_fails():
    register_type(Money, lambda money: money.missing, Money)
    with pytest.raises(EncodeError, match=r"data\[0\]: the registered encode of .*Money failed: AttributeError"):
        through([Money(1)])


def test_reading_what_is_not_registered_here():
    register_type(Point, name="geometry.Point")
    event = written([Point(1)])
    registered._by_name.clear()
    with pytest.raises(DecodeError, match=r"holds a geometry.Point, which is not registered in this process; call"):
        event.data  # noqa: B018
    assert event.id == "id"


def test_reading_what_does_not_fit():
    register_type(Point, name="thing")
    event = written(Point(1, 2))
    register_type(Order, name="thing")
    with pytest.raises(DecodeError, match=r"a thing cannot be made of .*: TypeError: its fields here are \['items'"):
        event.data  # noqa: B018
    register_type(Colour, name="thing")
    with pytest.raises(DecodeError, match="a thing cannot be made of"):
        event.data  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((3,), "register_type(3): give a class"),
        ((dict,), "register_type(dict): it travels by itself"),
        ((Money,), "register_type(Money): only an Enum or a dataclass goes without encode and decode"),
        ((Point, str), "register_type(Point): give both encode and decode, or neither"),
    ],
    ids=str,
)
def test_wrong_registrations(arguments, text):
    with pytest.raises(UsageError) as caught:
        register_type(*arguments)
    assert str(caught.value) == text


def test_what_is_registered_is_listed_by_its_name():
    assert (Point, f"{Point.__module__}.Point", None, None) in (register_type(Point), registered.registered_entries())[
        1
    ]


def test_a_worker_s_main_is_the_main_of_its_parent():
    cls = dataclasses.make_dataclass("Job", ["n"])
    cls.__module__ = "__mp_main__"
    register_type(cls)
    assert (cls, "__main__.Job", None, None) in registered.registered_entries()


def test_the_name_goes_to_the_latest_class():
    """What went in as the first would come out as the second, so it no longer travels."""
    euro = register_type(dataclasses.make_dataclass("Amount", ["value"]))
    dollar = register_type(dataclasses.make_dataclass("Amount", ["value"]))
    assert euro not in [cls for cls, *_ in registered.registered_entries()]
    with pytest.raises(EncodeError, match=r"data\[0\]: its class was registered as .*Amount, and then another one"):
        through([euro(1)])
    assert type(through(dollar(1))) is dollar
    register_type(euro, name="euro")
    assert [type(value) for value in through([euro(1), dollar(1)])] == [euro, dollar]
    register_type(dollar)
    assert type(through(euro(1))) is euro


def test_a_field_that_was_never_set():
    half = register_type(dataclasses.make_dataclass("Half", [("rest", int, dataclasses.field(init=False))]))
    with pytest.raises(EncodeError, match=r"data\[0\]: its field 'rest' was never set"):
        through([half()])


@pytest.mark.parametrize("base", [Exception, ValueError, dict, list, str, int, datetime.date, collections.deque])
def test_a_dataclass_that_is_more_than_its_fields(base):
    """Of these `object.__new__` makes nothing, so nobody could read them, and the fields are not all that they hold."""
    cls = dataclasses.make_dataclass("Failure", ["why"], bases=(base,))
    with pytest.raises(UsageError, match=r"Failure\): it is a .* as well as a dataclass; give encode and decode"):
        register_type(cls)
    register_type(Money, lambda money: money.amount, Money)  # Any class with both goes.


T = typing.TypeVar("T")


def test_dataclasses_of_every_make():
    generic = dataclasses.make_dataclass("Box", ["value"], bases=(typing.Generic[T],))  # type: ignore[index]
    slotted = dataclasses.make_dataclass("Slotted", ["value"], slots=True, frozen=True)
    ordered = dataclasses.make_dataclass("Ordered", ["value"], bases=(slotted,), frozen=True, order=True)
    abstract = dataclasses.make_dataclass("Whole", ["value"], bases=(abc.ABC,), kw_only=True)
    for cls in (generic, slotted, ordered, abstract):
        register_type(cls)
        value = cls(value=(1, [2]))
        assert through({"x": value})["x"] == value


class Shy(type):
    def __repr__(cls):
        raise RuntimeError("no")

    def __instancecheck__(cls, instance):
        raise RuntimeError("no")


class Strange(metaclass=Shy):
    @property  # type: ignore[misc]
    def __class__(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")


def test_values_that_raise_whatever_is_asked():
    with pytest.raises(EncodeError, match=r"data\['x'\]\[0\]: <class 'Strange'> cannot travel"):
        through({"x": (Strange(),)})
    with pytest.raises(EncodeError, match=r"data \(key <Strange>\): <class 'Strange'> cannot travel"):
        through({Strange(): 1})


def test_a_decode_that_fails_on_what_cannot_be_shown():
    register_type(Strange, lambda value: [1], lambda body: Strange())
    register_type(Money, lambda money: money.amount, lambda body: body.missing)
    event = written(Money(Strange()))
    with pytest.raises(DecodeError, match=r"Money cannot be made of .*: AttributeError"):
        event.data  # noqa: B018


def test_an_encode_that_returns_its_own_argument():
    register_type(Money, lambda money: money, lambda body: body)
    with pytest.raises(EncodeError, match="nested too deeply, or within itself"):
        through(Money(1))


def test_a_refused_event_lets_go_of_its_memory_at_once():
    """While the error is still there, and without the garbage collector."""
    register_type(Money, lambda money: money.missing, Money)
    received, numbers = bytearray(10), np.arange(1000)
    gone = weakref.ref(numbers)
    gc.disable()
    try:
        for culprit in (object(), Money(1), "\ud800", nested_too_deeply()):
            with pytest.raises(EncodeError) as caught:
                encode_event(Event("id", "topic", [received, (received, numbers), culprit]))
            received.extend(b"x")
            assert caught.value.__cause__ is not None
            del caught
        del numbers
        assert gone() is None
    finally:
        gc.enable()
    assert len(received) == 14


def nested_too_deeply():
    value: object = 1
    for _ in range(300):
        value = (value,)
    return value


def test_the_error_of_an_encode_shows_where_it_was():
    def encode(money):
        return money.missing

    register_type(Money, encode, Money)
    with pytest.raises(EncodeError) as caught:
        through([Money(1)])
    assert caught.value.__cause__.__cause__.__traceback__.tb_next.tb_frame.f_code is encode.__code__
