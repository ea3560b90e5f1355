"""EventLogger: what it writes, and that nothing it or `logging` does costs an event."""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventbus_mp import Event, EventBus, ManagerLost, UsageError, register_type
from eventbus_mp.addons.logger import EventLogger, LineCounts
from tests.addons.helpers import Blocking, Kept, Raising, logger_with

Make = Callable[..., EventBus]


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_a_line_and_its_fields(bus: EventBus, kept: Kept) -> None:
    with EventLogger(bus, logger=logger_with(kept)):
        bus.notify(
            Event("7", "a", {"total": 2.5}, transaction_id="t", source="shop", initialized_at=1_000, occurred_at=13_000)
        )
        bus.notify(Event(8, "b", None, headers={"trace": "x"}))
        record = kept.next()
        assert record.getMessage() == 'a 7 tx=t source=shop 12 ms data={"total": 2.5}'
        assert (record.levelno, record.topic, record.event_id) == (logging.INFO, "a", "7")
        assert (record.transaction_id, record.source, record.duration_ms) == ("t", "shop", 12.0)
        assert record.data == {"total": 2.5}
        assert kept.next().getMessage() == 'b 8 headers={"trace": "x"} data=null'
        bus.drain(timeout_s=20)
    assert bus.subscribers() == []


def test_the_level_is_that_of_the_pattern(bus: EventBus, kept: Kept) -> None:
    levels = {"a": "ERROR", "": 5}
    with EventLogger(bus, level="warning", levels=levels, logger=logger_with(kept, level=1)):
        bus.notify_many([Event("1", "a", 1), Event("2", "b", 2)])
        assert [kept.next().levelno for _ in range(2)] == [logging.ERROR, 5]


def test_a_light_line_reads_nothing(bus: EventBus, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = EventBus(bus.name, run_dir=bus.config.run_dir)
    monkeypatch.setattr(reader, "fetch_event", None)
    with reader, EventLogger(reader, light=True, logger=logger_with(kept)):
        bus.notify(Event("1", "a", "x" * 100_000, source="s"))
        assert kept.texts(1) == ["a 1"]


def test_json_redaction_and_the_bound(bus: EventBus, kept: Kept) -> None:
    with EventLogger(bus, json=True, redact=["Password"], bytes_max=512, logger=logger_with(kept)):
        bus.notify(Event("1\n2", "a", {"password": "x", "text": "y" * 5_000}, headers={"password": "x"}))
        line = kept.next().getMessage()
    found = json.loads(line)
    assert len(line) <= 512
    assert found["event_id"] == "1\n2"
    assert found["headers"] == {"password": "[redacted]"}
    assert found["data"].startswith('{"password": "[redacted]", "text": "yyy')


def test_a_sample_is_the_same_each_time(bus: EventBus, kept: Kept) -> None:
    found = []
    for _ in range(2):
        with EventLogger(bus, ["a"], light=True, sample={"a": 0.2}, logger=logger_with(kept)):
            bus.notify_many(Event(str(number), "a", None) for number in range(500))
            bus.drain(timeout_s=20)
        found.append([kept.next().event_id for _ in range(kept.records.qsize())])
    assert found[0] == found[1]
    assert 50 < len(found[0]) < 150


def test_what_is_over_the_rate_is_counted_in_the_next_line(bus: EventBus, kept: Kept) -> None:
    with EventLogger(bus, light=True, per_second={"a": 0}, logger=logger_with(kept)) as logger:
        bus.notify_many(Event(str(number), "a", None) for number in range(20))
        bus.notify(Event("1", "b", None))
        assert kept.texts(1) == ["b 1"]
        assert logger.counts == LineCounts(1, 0, 0)
    with EventLogger(bus, ["a"], light=True, per_second=3, logger=logger_with(kept)):
        bus.notify_many(Event(str(number), "a", None) for number in range(20))
        texts = kept.texts(3)
        assert texts[:2] == ["a 0", "a 1"]
        bus.drain(timeout_s=20)
        for number in range(20, 1_000_000):  # Until a second has passed.
            bus.notify_and_wait(Event(str(number), "a", None), timeout_s=20)
            if not kept.records.empty() and "omitted" in kept.next().getMessage():
                break


class Secret:
    """Its decoder raises."""


def _raise(value: Any) -> Any:
    raise RuntimeError("no key\nfor it")


def test_data_that_cannot_be_decoded(bus: EventBus, kept: Kept) -> None:
    register_type(Secret, lambda value: 1, _raise, name="tests.addons.Secret")
    with EventLogger(bus, logger=logger_with(kept)):
        bus.notify_many([Event("1", "a", Secret()), Event("2", "a", 2)])
        assert kept.texts(2) == [
            'a 1 error="DecodeError: a tests.addons.Secret cannot be made of 1: RuntimeError: no key\\nfor it"',
            "a 2 data=2",
        ]
        bus.drain(timeout_s=20)


def test_large_data(make_bus: Make, kept: Kept) -> None:
    """What is large is not decoded, and what lies beside the data is not read."""
    bus = make_bus(topics=["a"], memory_bytes_max=160 << 20)
    with EventLogger(bus, logger=logger_with(kept)):
        bus.notify(Event("1", "a", "x" * 1_000_000))
        bus.notify(Event("2", "a", np.zeros(64 << 17)))  # 64 MiB
        assert kept.texts(2) == ['a 1 data="<1,000,005 bytes>"', 'a 2 data="<ndarray float64 [8388608]>"']
        bus.drain(timeout_s=20)


def test_an_event_that_is_gone(bus: EventBus) -> None:
    handler = Blocking()
    with EventLogger(bus, logger=logger_with(handler), patience_s=0) as logger:
        bus.notify(Event("STOP", "a", 1))
        assert handler.entered.wait(20)
        bus.drain(timeout_s=20)
        shadow = bus.notify(Event("2", "a", 2))
        bus.drain(timeout_s=20)
        logger._log(shadow)  # As of one that another process has settled.
        handler.go.set()
        assert handler.texts(3) == ["a STOP data=1", "a 2 data=2", 'a 2 error="the event is gone"']


def test_a_handler_that_raises_costs_its_line(
    bus: EventBus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Raising()
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(sys.stderr))
    with EventLogger(bus, logger=logger_with(handler)) as logger:
        bus.notify_many([Event("STOP", "a", 1), Event("STOP2", "a", 1), Event("3", "a", 1)])
        assert handler.texts(1) == ["a 3 data=1"]
        bus.drain(timeout_s=20)
        assert logger.counts == LineCounts(1, 2, 0)
    assert capsys.readouterr().err == (
        "a handler of logging raised, and a line is lost (1 so far): SystemExit('no disk')\n"
    )
    assert [item.skipped for item in bus.statistics().subscribers] == []


def test_a_disk_that_is_full(bus: EventBus, capsys: pytest.CaptureFixture[str]) -> None:
    """A file handler of `logging` says on standard error what it cannot write, and takes the next line."""
    handler = logging.FileHandler("/dev/full")
    with EventLogger(bus, logger=logger_with(handler)) as logger:
        bus.notify_many(Event(str(number), "a", 1) for number in range(100))
        bus.drain(timeout_s=20)
        assert logger.error is None
    with contextlib.suppress(OSError):
        handler.close()  # It tries once more.
    assert "No space left on device" in capsys.readouterr().err
    assert [item.skipped for item in bus.statistics().subscribers] == []


def test_a_handler_that_blocks_costs_lines_and_no_event(bus: EventBus) -> None:
    """Far more events than the memory holds go by while it blocks."""
    handler = Blocking()
    with EventLogger(bus, logger=logger_with(handler), patience_s=0.05) as logger:
        bus.notify(Event("STOP", "a", 1))
        assert handler.entered.wait(20)
        for _ in range(40):
            bus.notify_many(Event(str(number), "a", "x" * 1_000) for number in range(500))
        bus.drain(timeout_s=60)
        counts = logger.counts
        assert (counts.written, counts.failed) == (0, 0)
        assert counts.missed > 15_000
        handler.go.set()
        assert handler.next().getMessage() == "a STOP data=1"
        assert handler.next().getMessage() == f"{counts.missed:,} lines are missing here: a handler of logging blocked"
        bus.notify(Event("after", "b", None))
        assert "b after data=null" in iter(lambda: str(handler.next().getMessage()), "")  # After those that waited.


def test_closing_while_a_handler_blocks(bus: EventBus) -> None:
    handler = Blocking()
    logger = EventLogger(bus, logger=logger_with(handler), patience_s=0.05).start()
    bus.notify(Event("STOP", "a", 1))
    assert handler.entered.wait(20)
    logger.close()
    logger.close()
    assert bus.subscribers() == []
    handler.go.set()


def test_completed_after_the_call(bus: EventBus) -> None:
    handler = Blocking()
    with EventLogger(bus, logger=logger_with(handler), patience_s=60):
        shadow = bus.notify(Event("STOP", "a", 1))
        assert handler.entered.wait(20)
        watcher = bus.watcher(shadow)
        assert watcher is not None
        assert [key.name for key in watcher.waiting] == ["event_logger"]
        handler.go.set()
        bus.drain(timeout_s=20)


def test_logging_that_is_set_up_anew(bus: EventBus, kept: Kept) -> None:
    lines = logger_with(kept, level=logging.WARNING)
    with EventLogger(bus, logger=lines, sample=1):
        bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)
        lines.setLevel(logging.INFO)
        bus.notify_and_wait(Event("2", "a", 1), timeout_s=20)
        other = Kept()
        lines.handlers[:] = [other]
        bus.notify_and_wait(Event("3", "a", 1), timeout_s=20)
    assert kept.records.qsize() == 1
    assert kept.texts(1) + other.texts(1) == ["a 2 data=1", "a 3 data=1"]


def test_processes_with_one_name_share_the_events(bus: EventBus, kept: Kept) -> None:
    others = [EventBus(bus.name, run_dir=bus.config.run_dir) for _ in range(2)]
    loggers = [EventLogger(handle, light=True, logger=logger_with(kept)).start() for handle in (bus, *others)]
    bus.notify_many(Event(str(number), "a", None) for number in range(300))
    bus.drain(timeout_s=20)
    for logger in loggers:
        logger.close()
    for handle in others:
        handle.close()
    assert sum(logger.counts.written for logger in loggers) == 300


def test_it_goes_on_after_a_takeover_and_a_lost_bus(bus: EventBus, kept: Kept, kill_bus: Callable[[], None]) -> None:
    with EventLogger(bus, light=True, logger=logger_with(kept)) as logger:
        os.kill(bus.statistics().manager_pid, signal.SIGKILL)
        bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)
        kill_bus()
        bus.topics()
        bus.notify_and_wait(Event("2", "a", 1), timeout_s=20)
        assert kept.texts(2) == ["a 1", "a 2"]
        assert logger.error is None


def test_the_bus_ends(make_bus: Make, kept: Kept) -> None:
    bus = make_bus(topics=["a"], reconnect=False)
    with EventLogger(bus, logger=logger_with(kept)) as logger:
        EventBus(bus.name, run_dir=bus.config.run_dir).shutdown()
        assert logger.wait(20)
        assert isinstance(logger.error, ManagerLost)


def test_the_environment(bus: EventBus, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_MP_LOGGER_TOPICS", "a{1,1}$; x")
    monkeypatch.setenv("EVENTBUS_MP_LOGGER_LEVEL", "error")
    monkeypatch.setenv("EVENTBUS_MP_LOGGER_LIGHT", "yes")
    with EventLogger(bus, logger=logger_with(kept)):
        bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)
        record = kept.next()
        assert (record.getMessage(), record.levelno) == ("a 1", logging.ERROR)
        assert [item.patterns for item in bus.subscribers()] == [("a{1,1}$", "x")]
    monkeypatch.setenv("EVENTBUS_MP_LOGGER_ENABLED", "0")
    with EventLogger(bus, level="info"):
        assert bus.subscribers() == []
    monkeypatch.setenv("EVENTBUS_MP_LOGGER_ENABLED", "perhaps")
    with pytest.raises(UsageError, match="EVENTBUS_MP_LOGGER_ENABLED='perhaps' is neither true nor false"):
        EventLogger(bus)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"topics": ["("]}, r"topics: pattern '\(' is not a regular expression"),
        ({"topics": "a"}, "give a list of texts; .text. for one"),
        ({"level": "loud"}, "level='loud' is not a level"),
        ({"levels": {"a": "loud"}}, "levels='loud' is not a level"),
        ({"sample": 2}, "sample=2 is not a share"),
        ({"per_second": -1}, "per_second=-1 is not a whole number"),
        ({"bytes_max": 10}, "bytes_max=10 is not a whole number of 256"),
        ({"patience_s": "x"}, "patience_s='x' is not a time"),
    ],
)
def test_arguments_that_are_not_of_their_kind(arguments: dict[str, Any], text: str, bus: EventBus) -> None:
    with pytest.raises(UsageError, match=text):
        EventLogger(bus, **arguments)


def test_a_forked_child_writes_with_a_thread_of_its_own(bus: EventBus, run_dir: Path, fork: Any) -> None:
    with EventLogger(bus, light=True, logger=logger_with(Kept())) as logger:
        bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)

        def work(to_parent: Any) -> None:
            kept = Kept()
            lines = logger_with(kept)
            own = EventLogger(bus, light=True, logger=lines, name="child").start()
            bus.notify(Event("2", "a", 1))
            assert "a 2" in kept.texts(1)
            own.close()
            bus.close()
            to_parent.send(threading.active_count())

        child = fork(work)
        child.hear()
        bus.drain(timeout_s=20)
        assert logger.counts.written == 2
