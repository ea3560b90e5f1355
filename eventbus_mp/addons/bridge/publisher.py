"""The bridge's threads that publish on the bus what came from other hosts, and hear what became of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue

from eventbus_mp import BusFull, EventBus, EventBusError, ManagerLost, RawEvent, Receipt, Receipts, UsageError
from eventbus_mp.addons.bridge.inward import Import
from eventbus_mp.addons.bridge.targets import key_of
from eventbus_mp.addons.bridge.units import in_unit, is_unit

__all__ = ["Publisher", "Teller"]

log = logging.getLogger("eventbus_mp.bridge")

HEAR_S = 0.5
FULL_RETRY_S = 0.1


class Publisher(threading.Thread):
    """Publishes imports in their order; may wait for memory.

    Args:
        bus: The bus.
        receipts: What they are published through.
        on_refused: Called on this thread with tags of events that could not be published, and why.
        on_failed: Called on this thread with the error that ended it.
    """

    def __init__(
        self,
        bus: EventBus,
        receipts: Receipts,
        on_refused: Callable[[Sequence[bytes], str], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="eventbus_mp bridge, in", daemon=True)
        self._bus = bus
        self._receipts = receipts
        self._unit = bus.config.time_unit
        self._on_refused = on_refused
        self._on_failed = on_failed
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._topics: set[str] = set()
        self._is_ending = threading.Event()

    # --- from any thread ---

    def publish(self, imports: Sequence[Import]) -> None:
        """Publish these after those before them."""
        self._jobs.put(lambda: self._publish_all(imports))

    def register(self, topics: Iterable[str]) -> None:
        """Register these topics, as other hosts have them."""
        names = list(topics)
        self._jobs.put(lambda: self._register(names))

    def confirm(self, tags: Sequence[bytes]) -> None:
        """Have these receipts forgotten."""
        self._jobs.put(lambda: self._receipts.confirm(tags))

    def forget_topics(self) -> None:
        """A topic may have been unregistered here; it is registered again with its next event."""
        self._jobs.put(self._topics.clear)

    def end(self) -> None:
        """End the thread when it has done what is before this and does not have to wait for memory."""
        self._is_ending.set()
        self._jobs.put(None)
        self.join()

    # --- on the thread ---

    def run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except BaseException as error:
            self._on_failed(error)

    def _register(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._topics:
                self._bus.register_topic(name)
                self._topics.add(name)

    def _publish_all(self, imports: Sequence[Import]) -> None:
        for item in imports:
            self._register({topic for topic, _ in item.events})
            left = item
            while left.events and not self._is_ending.is_set():
                left = self._publish_most(left)

    def _publish_most(self, item: Import) -> Import:
        """Publish them: those that are left."""
        try:
            self._publish(item)
        except ManagerLost:
            raise
        except BusFull as error:
            # Their origin has them, and its producers wait in the end. There is nothing to skip.
            log.warning("events from other hosts wait: %s", error)
            self._is_ending.wait(FULL_RETRY_S)
            return _without(item, len(error.published))
        except EventBusError as error:
            done = len(error.published)
            return self._publish_singly(_without(item, done))
        return _without(item, len(item.events))

    def _publish_singly(self, item: Import) -> Import:
        """One of them is at fault: publish up to that one, and refuse it; those that are left."""
        for index in range(len(item.events)):
            try:
                self._publish(item._replace(events=item.events[index : index + 1], tags=item.tags[index : index + 1]))
            except (ManagerLost, BusFull):
                return _without(item, index)
            except EventBusError as error:
                self._on_refused([item.tags[index]], f"it cannot be published there: {error}"[:500])
                return _without(item, index + 1)
        return _without(item, len(item.events))

    def _publish(self, item: Import) -> None:
        events = item.events if item.unit == self._unit else [self._in_our_unit(item.unit, raw) for raw in item.events]
        only = [key_of(target) for target in item.targets]
        self._receipts.notify_raw(events, tags=item.tags, only=only)

    def _in_our_unit(self, unit: str, raw: tuple[str, bytes | memoryview]) -> tuple[str, bytes | memoryview]:
        if not is_unit(unit):
            raise UsageError(f"the time unit {unit!r} of its bus is not known here")
        topic, payload = raw
        event = in_unit(RawEvent(topic, 0, payload).event(), unit, self._unit)
        return topic, RawEvent.of(event).payload


def _without(item: Import, count: int) -> Import:
    """What is left of it behind the first `count`."""
    return item._replace(events=item.events[count:], tags=item.tags[count:])


class Teller(threading.Thread):
    """Hears what became of what was imported.

    Args:
        receipts: Those of the bridge.
        on_settled: Called on this thread with receipts.
        on_failed: Called on this thread with the error that ended it.
    """

    def __init__(
        self,
        receipts: Receipts,
        on_settled: Callable[[list[Receipt]], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="eventbus_mp bridge, outcomes", daemon=True)
        self._receipts = receipts
        self._on_settled = on_settled
        self._on_failed = on_failed
        self._is_ending = False

    def end(self) -> None:
        """End the thread soon."""
        self._is_ending = True
        self.join()

    def run(self) -> None:
        try:
            while not self._is_ending:
                if receipts := self._receipts.get(timeout_s=HEAR_S):
                    self._on_settled(receipts)
        except BaseException as error:
            self._on_failed(error)
