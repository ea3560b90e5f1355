"""What a worker service logs: a line for each event that a handler has had, and how logging is set up for that."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence

from eventbus_mp.events import Event, EventShadow
from eventbus_mp.instrument import Deliveries, Instrument
from eventbus_mp.statistics import SubscriberKey

__all__ = ["ServiceLog", "set_up_logging"]

log = logging.getLogger("eventbus_mp.service")

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def set_up_logging(level: int) -> None:
    """Log to the standard error stream, unless the program has set up logging itself; our loggers get the level."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=level, format=FORMAT, stream=sys.stderr)
    logging.getLogger("eventbus_mp").setLevel(level)


class ServiceLog(Instrument):
    """Logs each event with the worker and the subscriber, how it ended, and how long that took."""

    def __init__(self) -> None:
        self._local = threading.local()

    def before_handle(self, subscriber: SubscriberKey, items: Deliveries) -> None:
        """See `Instrument`."""
        self._local.began_ns = time.perf_counter_ns()

    def after_handle(
        self,
        subscriber: SubscriberKey,
        items: Deliveries,
        outcomes: Sequence[str],
        error: BaseException | None,
    ) -> None:
        """See `Instrument`."""
        took_ms = (time.perf_counter_ns() - self._local.began_ns) / 1e6
        for item, outcome in zip(items, outcomes, strict=True):
            _log(item, subscriber, outcome, f" ms={took_ms:.3f}" + (f" error={error!r:.200}" if error else ""))

    def after_settle(
        self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str, error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        for shadow in shadows if error is None else ():
            _log(shadow, subscriber, outcome, "")


def _log(item: Event | EventShadow, subscriber: SubscriberKey, outcome: str, rest: str) -> None:
    transaction = item.transaction_id if isinstance(item, Event) else None
    text = "topic=%s id=%r transaction=%r worker=%d subscriber=%s outcome=%s%s"
    log.info(text, item.topic, item.id, transaction, os.getpid(), subscriber.name, outcome, rest)
