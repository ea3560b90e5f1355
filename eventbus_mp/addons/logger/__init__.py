"""The logger: events, and what becomes of them, as lines of Python's `logging`.

`EventLogger` is a subscriber that logs the events of a bus. `DeliveryLogger` is an instrument that logs what this
process does: what it publishes, and what its handlers make of it.
"""

from __future__ import annotations

from eventbus_mp.addons.logger.delivery_logger import DeliveryLogger
from eventbus_mp.addons.logger.event_logger import EventLogger
from eventbus_mp.addons.logger.writer import LineCounts

__all__ = ["DeliveryLogger", "EventLogger", "LineCounts"]
