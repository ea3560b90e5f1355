"""EventLogger: a subscriber that writes a line for each event."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from eventbus_mp import BusClosed, Event, EventBus, EventBusError, EventShadow, Inbox, UsageError
from eventbus_mp.addons.checks import checked_bus, checked_text, checked_texts
from eventbus_mp.addons.logger.choice import Choice, compiled
from eventbus_mp.addons.logger.lines import Fields, for_record, json_line, text_line
from eventbus_mp.addons.logger.plain import error_text, plain
from eventbus_mp.addons.logger.writer import LineCounts, LineWriter, checked_logger, checked_patience

__all__ = ["EventLogger"]

TAKEN_MAX = 256
BYTES_LEAST = 256
DECODED_BYTES_MAX = 1 << 16
"""Data that takes more is not decoded for a line of two kilobytes. The memory of arrays does not count."""
MS_OF_UNIT = {"second": 1e3, "millisecond": 1.0, "microsecond": 1e-3, "nanosecond": 1e-6}
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

log = logging.getLogger("eventbus_mp.addons.logger")


class EventLogger:
    """Writes a line of `logging` for each event of the topics that match. Start it with `start`, or as `with`.

    It is a subscriber of the bus. Processes that use the same `name` share the events, so each event is logged once.
    Events are completed in the order in which they came, after the call of `logging`. If a handler of `logging`
    raises, its line is lost; if it blocks for longer than `patience_s`, events are completed without it, and what
    comes meanwhile is counted and not logged (`counts`). The bus is not held up in either case.

    Making one only checks the arguments.

    Args:
        bus: A handle of the bus. It stays yours: `close` does not close it.
        topics: Patterns of the topics, as of `EventBus.subscribe`. Default: EVENTBUS_MP_LOGGER_TOPICS (separated by
            `;`), or all.
        level: The level of the lines, a name or a number. Default: EVENTBUS_MP_LOGGER_LEVEL, or "info".
        light: A line has the topic and the id only, and nothing of the event is read. Default:
            EVENTBUS_MP_LOGGER_LIGHT, or False.
        enabled: Whether `start` does anything. Default: EVENTBUS_MP_LOGGER_ENABLED, or True.
        levels: Pattern -> level; the first that matches the topic counts.
        logger: Gets the lines; its name, or itself.
        json: Each line is a JSON object.
        redact: Keys, and names of fields of dataclasses, whose values are not shown, at any depth of the data and in
            the headers; upper and lower case are the same.
        sample: The share of the events that get a line, from 0 to 1; or pattern -> share.
        per_second: How many lines a topic gets in a second at most; or pattern -> number.
        bytes_max: The longest line, in bytes of UTF-8.
        name: The subscriber's name.
        broadcast: Each process that has such a logger gets all events.
        patience_s: For how many seconds a handler of `logging` may hold up this logger.

    Raises:
        UsageError: An argument or a variable is not of its kind; the text names it.
    """

    def __init__(
        self,
        bus: EventBus,
        topics: Iterable[str] | None = None,
        level: str | int | None = None,
        light: bool | None = None,
        *,
        enabled: bool | None = None,
        levels: Mapping[str, str | int] | None = None,
        logger: str | logging.Logger = "eventbus_mp.events",
        json: bool = False,
        redact: Iterable[str] = (),
        sample: float | Mapping[str, float] = 1.0,
        per_second: int | Mapping[str, int] | None = None,
        bytes_max: int = 2048,
        name: str = "event_logger",
        broadcast: bool = False,
        patience_s: float = 1.0,
    ) -> None:
        if type(bytes_max) is not int or bytes_max < BYTES_LEAST:
            raise UsageError(f"bytes_max={bytes_max!r} is not a whole number of {BYTES_LEAST} or more")
        self._bus = checked_bus("bus", bus)
        self._patterns = checked_texts("topics", topics) if topics is not None else _topics_of_environment()
        compiled("topics", self._patterns)
        self._choice = Choice(level if level is not None else _variable("LEVEL") or "info", levels, sample, per_second)
        self._light = light if light is not None else _flag("LIGHT", default=False)
        self._enabled = enabled if enabled is not None else _flag("ENABLED", default=True)
        self._json = json
        self._redact = frozenset(key.lower() for key in checked_texts("redact", redact))
        self._bytes_max = bytes_max
        self._name, self._broadcast = checked_text("name", name), broadcast
        self._writer = LineWriter(checked_logger(logger), checked_patience(patience_s), json=json)
        self._inbox: Inbox | None = None
        self._ended = threading.Event()
        self.error: EventBusError | None = None
        """What ended this logger, if not `close`: the bus was lost."""

    def start(self) -> EventLogger:
        """Subscribe, and log from now on in threads of this process. Repeated, or not enabled, it does nothing.

        Blocks as `EventBus.inbox` does, and raises what that raises. A logger that was closed can be started again.
        """
        if self._enabled and self._inbox is None:
            self._inbox = inbox = self._bus.inbox(self._name, self._patterns, broadcast=self._broadcast)
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, args=(inbox,), name="eventbus_mp logger", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """End the subscription and the threads, after the lines of the events that were taken. Repeated: nothing.

        Blocks for a round trip, and for twice `patience_s` at most if a handler of `logging` blocks.
        """
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.close()
            if self._thread is not threading.current_thread():
                self._thread.join()
            self._writer.close()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the logger has ended: it was closed, or the bus was lost (`error`). Returns whether it has."""
        return self._ended.wait(timeout_s)

    @property
    def counts(self) -> LineCounts:
        """How many lines were written, failed and missed."""
        return self._writer.counts

    def __enter__(self) -> EventLogger:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the logger's thread ---

    def _run(self, inbox: Inbox) -> None:
        try:
            while True:
                shadows = inbox.get_many(TAKEN_MAX)
                for shadow in shadows:
                    self._log(shadow)
                self._writer.wait()
                inbox.complete_many(shadows)
        except BusClosed:
            return  # The inbox was closed.
        except EventBusError as error:
            self.error = error
            log.error("events of bus %r are not logged any more: %s", self._bus.name, error)
        finally:
            inbox.close()  # Whatever ended this thread, no event waits for it.
            self._ended.set()

    def _log(self, shadow: EventShadow) -> None:
        topic, event_id = shadow.topic, shadow.id
        level = self._choice.level(topic)
        if not self._writer.is_wanted(level) or not self._choice.admits(topic, event_id):
            return
        fields: Fields = {"topic": topic, "event_id": event_id}
        if not self._light:
            fields |= self._read(shadow)
        omitted = self._choice.take_omitted(topic)
        if omitted:
            fields["omitted"] = omitted
        line = json_line(level, fields, self._bytes_max) if self._json else text_line("", fields, self._bytes_max)
        self._writer.write(level, line, for_record(fields, self._bytes_max))

    def _read(self, shadow: EventShadow) -> Fields:
        """What the event has beside its topic and its id."""
        event = self._bus.fetch_event(shadow)
        if event is None:
            return {"error": "the event is gone"}  # Somebody has settled it for us.
        try:
            return {**self._envelope(event), **self._data(event)}
        except Exception as error:  # Of a decoder of the user's: its line says so, and the event is completed.
            return {"error": error_text(error)}

    def _envelope(self, event: Event) -> Fields:
        fields: Fields = {"transaction_id": event.transaction_id, "source": event.source}
        fields = {name: self._plain(value) for name, value in fields.items() if value is not None}
        if type(event.initialized_at) is int and type(event.occurred_at) is int:
            fields["duration_ms"] = round(event.duration * MS_OF_UNIT[self._bus.config.time_unit], 6)
        if event.headers:
            fields["headers"] = self._plain(dict(event.headers))
        return fields

    def _data(self, event: Event) -> Fields:
        nbytes = len(event.encoded.data)
        if nbytes > DECODED_BYTES_MAX:
            return {"data": f"<{nbytes:,} bytes>"}
        return {"data": self._plain(event.data)}

    def _plain(self, value: Any) -> Any:
        return plain(value, self._bytes_max, self._redact)


def _variable(name: str) -> str:
    return os.environ.get(f"EVENTBUS_MP_LOGGER_{name}", "").strip()


def _topics_of_environment() -> list[str]:
    return [part.strip() for part in _variable("TOPICS").split(";") if part.strip()] or [""]


def _flag(name: str, *, default: bool) -> bool:
    text = _variable(name).lower()
    if text and text not in (*YES, *NO):
        raise UsageError(f"the variable EVENTBUS_MP_LOGGER_{name}={text!r} is neither true nor false")
    return text in YES if text else default
