"""A text is a text and a number a number, whatever subclass or package it comes from."""

import decimal
import enum
import fractions
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eventbus_mp import BusConfig, Event, EventBus, UsageError, WorkerPool
from eventbus_mp.arguments import as_int, as_number, as_text


class Topic(str, enum.Enum):
    PAID = "order_paid"


class Count(enum.IntEnum):
    TWO = 2


@pytest.mark.parametrize("value", ["x", Topic.PAID, np.str_("x")])
def test_texts(value: str) -> None:
    found = as_text(value)
    assert (type(found), found) == (str, value)


@pytest.mark.parametrize("value", [b"x", 1, None, bytearray(b"x"), Path("x")])
def test_what_is_no_text(value: object) -> None:
    assert as_text(value) is None


@pytest.mark.parametrize("value", [0, -1, 1 << 70, Count.TWO, np.int8(-3), np.uint64(1 << 63)])
def test_whole_numbers(value: int) -> None:
    for found in (as_int(value), as_number(value)):
        assert (type(found), found) == (int, value)


@pytest.mark.parametrize("value", [1.5, np.float16(0.5), np.float32(0.5), np.float64(2), fractions.Fraction(1, 2)])
def test_numbers(value: float) -> None:
    found = as_number(value)
    assert (type(found), found) == (float, value)
    assert as_int(value) is None


@pytest.mark.parametrize("value", [True, np.bool_(True), "1", None, 1j, [1], decimal.Decimal(1)])
def test_what_is_no_number(value: object) -> None:
    assert as_int(value) is None
    assert as_number(value) is None


def test_a_member_of_a_string_enum_names_a_topic_everywhere(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=[Topic.PAID])
    inbox = bus.inbox(np.str_("one"), [Topic.PAID], credit=np.int64(5))
    bus.notify(Event(np.str_("1"), Topic.PAID, 1))
    bus.notify_many([Event(np.int64(2), Topic.PAID, 2)])
    assert inbox.get_many(np.int64(2), np.float32(10)) == [("order_paid", "1"), ("order_paid", 2)]
    assert inbox.get(np.int64(0)) is None
    assert bus.fetch_event_data((Topic.PAID, np.str_("1"))) == 1
    assert bus.fetch_event_data((Topic.PAID, np.int64(2))) == 2
    bus.mark_as_completed(np.str_("one"), (Topic.PAID, np.int64(2)))
    bus.mark_as_skipped(inbox, (Topic.PAID, "1"))
    bus.drain(Topic.PAID, timeout_s=np.float64(10))
    assert bus.topic_exists(Topic.PAID)


def test_loans_of_numpy_s_sizes(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"])
    with bus.loan("a", np.uint16(3)) as loan:
        assert loan.buffer is not None
        loan.buffer[:] = b"abc"
    with bus.loan("a", shape=(np.int64(3), 4), dtype="u1") as loan:
        loan.array[:] = 7
    with bus.loan("a", shape=np.int64(2), dtype=np.float64) as loan:
        loan.array[:] = 1
    data = [bus.fetch_event_data(shadow) for shadow in inbox.get_many(3, 10)]
    assert (data[0], data[1].shape, data[2].shape) == (b"abc", (3, 4), (2,))
    del data
    with pytest.raises(UsageError, match="a shape is whole numbers"):
        bus.loan("a", shape=(1.0, 2), dtype="u1")


def test_settings_of_numpy_s_numbers() -> None:
    config = BusConfig(
        credit_max=np.int64(5),
        notify_timeout_s=np.float32(0.5),
        check_invariants=np.bool_(True),
        time_unit=np.str_("second"),
    )
    given = (config.credit_max, config.notify_timeout_s, config.check_invariants, config.time_unit)
    assert given == (5, 0.5, True, "second")
    assert [type(value) for value in given] == [int, float, bool, str]
    assert BusConfig(run_dir=Path("x")).run_dir == "x"


def test_a_pool_of_numpy_s_numbers(make_bus: Callable[..., EventBus]) -> None:
    pool = WorkerPool(make_bus(), np.int64(2), max_events=np.int32(5))
    pool.on("a", retries=np.int64(1), credit=np.int64(3), retry_delay_s=np.float32(0.5))(print)
    pool.on("a", name="many", batch=np.int8(3), within_s=np.float16(0.5))(print)
