"""Registered types: what is put in is what comes out, and only what was registered."""

import dataclasses
import enum

import numpy as np
import pytest

from eventbus_mp import DecodeError, EncodeError, Event, EventBus, UsageError, register_type
from eventbus_mp.memory import registered
from eventbus_mp.memory.payload import encode_event, read_event, write_payload


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Each test's own."""
    monkeypatch.setattr(registered, "_by_class", {})
    monkeypatch.setattr(registered, "_by_name", {})


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
    register_type(Money, lambda money: [money.amount, len(written([Money(None)] if money.amount else 0).raw)], Money)
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


def test_a_class_is_found_by_its_name():
    name = registered.registered_name(register_type(Point))
    assert name == f"{Point.__module__}.Point"
    assert registered.registered_class(name) is Point
    with pytest.raises(UsageError, match=r"nobody\.Knows is not registered in this process; call register_type at"):
        registered.registered_class("nobody.Knows")


def test_a_worker_s_main_is_the_main_of_its_parent():
    cls = dataclasses.make_dataclass("Job", ["n"])
    cls.__module__ = "__mp_main__"
    assert registered.registered_name(register_type(cls)) == "__main__.Job"
