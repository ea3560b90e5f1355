"""Large payloads, straight from the memory of one host into that of another, over a TCP connection of their own.

A payload over `BULK_FROM` need not travel through NATS: it stays in the memory of its origin, which keeps it until the
other host has settled it anyway, and the receiving bridge fetches it. If it cannot, it comes in parts instead.
"""

from eventbus_mp.addons.bridge.bulk.client import BulkClient
from eventbus_mp.addons.bridge.bulk.server import BulkServer
from eventbus_mp.addons.bridge.bulk.wire import BULK_FROM, BulkGone, BulkUnavailable

__all__ = ["BULK_FROM", "BulkClient", "BulkGone", "BulkServer", "BulkUnavailable"]
