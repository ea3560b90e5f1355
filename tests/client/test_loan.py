"""Loans: filled in place, published at the end of the block, given back by an exception."""

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventbus_mp import BusFull, EncodeError, Event, EventBus, EventTooLarge, UnknownTopic, UsageError
from eventbus_mp.geometry import CHUNK_BYTES

Make = Callable[..., EventBus]


def take(bus: EventBus, inbox: Any) -> Any:
    """The next event, settled."""
    shadow = inbox.get(10)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    inbox.complete(shadow)
    return event


@pytest.mark.parametrize("nbytes", [0, 1, 1000, 1 << 14, 1 << 16, (1 << 16) + 1, 3_000_001])
def test_bytes_of_any_size(bus: EventBus, nbytes: int) -> None:
    inbox = bus.inbox("one", ["a"])
    pattern = bytes(range(256)) * (nbytes // 256 + 1)
    with bus.loan("a", nbytes) as loan:
        assert loan.buffer is not None
        loan.buffer[:] = pattern[:nbytes]
    event = take(bus, inbox)
    assert loan.shadow is not None
    assert (event.topic, event.id) == tuple(loan.shadow) == (loan.topic, loan.id)
    assert type(event.data) is memoryview
    assert event.data.readonly
    assert event.data == pattern[:nbytes]


def test_one_that_is_larger_than_a_segment(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], memory_bytes_max=128 << 20)
    inbox = bus.inbox("one", ["a"])
    with bus.loan("a", shape=40 << 20, dtype="u1") as loan:
        loan.array[::4096] = 7
    event = take(bus, inbox)
    assert event.data.shape == (40 << 20,)
    assert (event.data[::4096] == 7).all()


@pytest.mark.parametrize(("shape", "dtype"), [((3, 4), "f4"), ((), "i8"), ((0, 3), "M8[ns]"), (5, [("a", "i4")])])
def test_arrays(bus: EventBus, shape: Any, dtype: Any) -> None:
    inbox = bus.inbox("one", ["a"])
    with bus.loan("a", shape=shape, dtype=dtype) as loan:
        assert loan.buffer is None
        assert loan.array.ctypes.data % 64 == 0
        loan.array[...] = np.zeros((), dtype)
        wanted = loan.array.copy()
    got = take(bus, inbox).data
    assert (got.dtype, got.shape, got.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


def test_the_fields_of_the_event(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], time_unit="millisecond")
    inbox = bus.inbox("one", ["a"])
    now = time.time_ns() // 1_000_000
    with bus.loan(
        "a", 3, id="mine", transaction_id="tx", source="me", initialized_at=now - 1, occurred_at=now, ttl=100_000
    ):
        pass
    event = take(bus, inbox)
    assert (event.id, event.transaction_id, event.source, event.ttl, event.duration) == ("mine", "tx", "me", 100_000, 1)


def test_others_publish_meanwhile_and_a_loan_s_place_is_its_end(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"], credit=10)
    with bus.loan("a", 10, id="outer"):
        bus.notify(Event("inside", "a", 1))
        thread = threading.Thread(target=lambda: bus.notify(Event("thread", "a", np.zeros(100_000))))
        thread.start()
        thread.join()
        with bus.loan("a", 10, id="inner"):
            pass
    bus.notify(Event("after", "a", 1))
    assert [take(bus, inbox).id for _ in range(5)] == ["inside", "thread", "inner", "outer", "after"]


def test_an_exception_gives_the_memory_back(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    for _ in range(100):  # of 1 MiB, in 16 MiB
        with pytest.raises(RuntimeError, match="camera"), bus.loan("a", 1_000_000) as loan:
            raise RuntimeError("camera")
        assert loan.shadow is None
    assert bus.statistics().memory_bytes_used == 0
    assert inbox.get(0) is None


def test_after_the_block_it_is_not_the_producer_s(bus: EventBus) -> None:
    bus.inbox("one", ["a"])
    with bus.loan("a", 10) as loan:
        view = loan.buffer
    assert view is not None
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    with bus.loan("a", shape=(3,), dtype="u1") as loan:
        pass
    with pytest.raises(ValueError, match="read-only"):
        loan.array[0] = 1
    with bus.loan("a", 10) as loan:
        assert loan.buffer is not None
        held = loan.buffer[2:]  # this one cannot be taken away
    assert loan.shadow is not None
    held.release()
    with pytest.raises(UsageError, match="was used already; take another one"):
        loan.__enter__()


def test_nobody_is_subscribed(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    with bus.loan("a", shape=(3,), dtype="u1") as loan:
        loan.array[:] = 1
    assert loan.shadow is not None
    assert bus.fetch_event(loan.shadow) is None
    with bus.loan("nothing", 10) as loan:
        assert loan.buffer is not None
        loan.buffer[:] = bytes(10)
    assert "topic 'a' has no subscriber" in caplog.text
    assert "topic 'nothing' doesn't exist" in caplog.text
    assert bus.statistics().memory_bytes_used == 0


def test_an_unknown_topic_of_a_strict_bus(make_bus: Make) -> None:
    with (
        pytest.raises(UnknownTopic, match="topic 'nothing' is not registered"),
        make_bus(strict=True).loan("nothing", 1),
    ):
        pass


def test_memory_is_full(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], notify_timeout_s=0.05)
    inbox = bus.inbox("one", ["a"])
    with bus.loan("a", 7 << 20), pytest.raises(BusFull, match="no 10485760 bytes"), bus.loan("a", 9 << 20):
        pass
    take(bus, inbox)
    with bus.loan("a", 9 << 20):
        pass
    take(bus, inbox)


@pytest.mark.parametrize(
    ("arguments", "fields", "text"),
    [
        ((), {}, "loan('a'): give either a number of bytes, or shape= and dtype="),
        ((10,), {"dtype": "u1"}, "loan('a'): give either a number of bytes, or shape= and dtype="),
        ((), {"shape": (3,)}, "loan('a'): give either a number of bytes, or shape= and dtype="),
        ((-1,), {}, "loan('a', -1): the size is a number of bytes, 0 or more"),
        ((1.5,), {}, "loan('a', 1.5): the size is a number of bytes, 0 or more"),
        ((), {"shape": (3, -1), "dtype": "u1"}, "loan('a', shape=(3, -1)): a shape is whole numbers, 0 or more"),
        ((), {"shape": 3, "dtype": "what"}, "loan('a', dtype='what'): data type 'what' not understood"),
        ((3,), {"colour": 1, "data": 2}, "loan('a'): an event has no field colour, data"),
        ((3,), {"ttl": 5}, "a ttl counts from occurred_at, which is missing"),
    ],
    ids=str,
)
def test_wrong_loans(bus: EventBus, arguments: Any, fields: Any, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        bus.loan("a", *arguments, **fields)
    assert text in str(caught.value)


def test_a_dtype_that_cannot_travel(bus: EventBus) -> None:
    with pytest.raises(EncodeError, match=r"loan\('a', dtype='O'\): a numpy dtype with Python objects"):
        bus.loan("a", shape=3, dtype="O")


def test_one_that_is_too_large(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], event_bytes_max=1000)
    bus.inbox("one", ["a"])
    with pytest.raises(EventTooLarge, match=r"has 1024 bytes encoded; BusConfig\.event_bytes_max allows 1000"):
        bus.loan("a", 960).__enter__()


def test_a_view_of_a_loaned_event_is_a_lease(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    with bus.loan("a", shape=(100_000,), dtype="u1") as loan:
        loan.array[:] = 9
    corner = take(bus, inbox).data.reshape(100, 1000)[90:, 900:]
    bus.drain(timeout_s=10)
    for _ in range(100):  # more than the memory holds
        with bus.loan("a", shape=(1 << 18,), dtype="u1") as loan:
            loan.array[:] = 1
        take(bus, inbox)
    assert (corner == 9).all()


def test_a_loan_keeps_its_handle(make_bus: Make, run_dir: Path) -> None:
    inbox = make_bus(topics=["a"]).inbox("one", ["a"])
    loan = EventBus("test", run_dir=str(run_dir)).loan("a", 1, id="1")
    gc.collect()
    with loan:
        assert loan.buffer is not None
    assert inbox.get(10) == ("a", "1")


def test_a_small_loan_takes_one_block(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], memory_bytes_max=64 << 20)
    bus.inbox("one", ["a"])
    with bus.loan("a", 10):
        assert bus.statistics().memory_bytes_used == CHUNK_BYTES
