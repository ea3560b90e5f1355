"""DeliveryLogger: a line for each thing that a process does with an event."""

import json
import logging
import re
from collections.abc import Callable

import pytest

from eventbus_mp import Event, EventBus, Skip, UsageError, WorkerPool
from eventbus_mp.addons.logger import DeliveryLogger
from tests.addons.helpers import Blocking, Kept, logger_with

Make = Callable[..., EventBus]


def shown(handler: Kept, count: int) -> list[str]:
    """The lines, without their times, in the order of the alphabet: a handler may begin before `notify` returns."""
    return sorted(re.sub(r" [\d.e+-]+ ms", " T ms", line) for line in handler.texts(count))


def test_what_a_process_does(make_bus: Make) -> None:
    kept = Kept()
    instrument = DeliveryLogger(topics=["a"], logger=logger_with(kept))
    bus = make_bus(topics=["a", "b"], instruments=[instrument])

    @bus.on("a", name="billing")
    def bill(event: Event) -> None:
        if event.data == 2:
            raise ValueError("no such\naccount")
        if event.data == 3:
            raise Skip("not ours")

    logging.getLogger("eventbus_mp").setLevel(logging.CRITICAL)
    bus.notify_many([Event("1", "a", 1), Event("x", "b", 1)])
    bus.notify(Event("2", "a", 2))
    bus.notify(Event("3", "a", 3))
    bus.drain(timeout_s=20)
    logging.getLogger("eventbus_mp").setLevel(logging.NOTSET)
    assert shown(kept, 9) == [
        "completed a 1 by=billing T ms",
        "delivered a 1 to=billing",
        "delivered a 2 to=billing",
        "delivered a 3 to=billing",
        'failed a 2 by=billing T ms error="ValueError: no such\\naccount"',
        "notified a 1 T ms",
        "notified a 2 T ms",
        "notified a 3 T ms",
        'skipped a 3 by=billing T ms error="Skip: not ours"',
    ]
    instrument.close()


def test_by_hand_and_as_json(make_bus: Make) -> None:
    kept = Kept()
    instrument = DeliveryLogger("info", logger=logger_with(kept), json=True)
    bus = make_bus(topics=["a"], instruments=[instrument])
    inbox = bus.inbox("audit", ["a"])
    bus.notify(Event("1", "a", 1))
    shadow = inbox.get(20)
    assert shadow is not None
    inbox.skip(shadow, "seen")
    records = [kept.next() for _ in range(2)]
    assert [record.what for record in records] == ["notified", "skipped"]
    assert [json.loads(record.getMessage())["what"] for record in records] == ["notified", "skipped"]
    assert records[1].by == "audit"
    assert (records[0].levelno, records[0].duration_ms > 0) == (logging.INFO, True)
    instrument.close()


def test_a_handler_of_logging_that_blocks_holds_up_nothing(make_bus: Make) -> None:
    handler = Blocking()
    instrument = DeliveryLogger(logger=logger_with(handler), patience_s=0.05)
    bus = make_bus(topics=["a"], instruments=[instrument])
    bus.on("a", name="billing")(lambda event: None)
    bus.notify(Event("STOP", "a", 1))
    assert handler.entered.wait(20)
    bus.notify_many(Event(str(number), "a", 1) for number in range(2_000))
    bus.drain(timeout_s=60)
    assert instrument.counts.missed > 4_000
    handler.go.set()
    bus.close()
    instrument.close()
    assert instrument.counts.written >= 1_000


def test_the_workers_of_a_pool(make_bus: Make, tmp_path: object) -> None:
    path = f"{tmp_path}/lines"
    bus = make_bus(topics=["a"], instruments=[DeliveryLogger])

    def set_up() -> None:
        logging.basicConfig(filename=path, level=logging.DEBUG, format="%(name)s %(message)s")

    pool = WorkerPool(bus, processes=1, initializer=set_up)
    pool.on("a", name="billing")(lambda event: None)
    with pool:
        bus.notify_and_wait(Event("1", "a", 1), timeout_s=60)
    with open(path) as file:
        lines = [line for line in file if line.startswith("eventbus_mp.deliveries completed a 1 by=billing ")]
    assert len(lines) == 1


def test_arguments() -> None:
    with pytest.raises(UsageError, match="level='loud'"):
        DeliveryLogger("loud")
