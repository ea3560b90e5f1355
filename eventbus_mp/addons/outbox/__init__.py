"""The transactional outbox: events written in the transaction that makes them true, and published when it committed.

    with connection:
        connection.execute("UPDATE orders SET paid = 1 WHERE id = ?", (17,))
        Outbox(connection).add(Event(17, "order_paid", {"amount": 20}))

`eventbus-mp outbox run BUS --db URL`, or a `Relay`, publishes them. SQLite needs nothing but Python; PostgreSQL needs
an extra.
"""

from eventbus_mp.addons.outbox.opening import open_outbox
from eventbus_mp.addons.outbox.outbox import Outbox, insert_statement
from eventbus_mp.addons.outbox.relay import Relay, RelayStatus
from eventbus_mp.addons.outbox.schema import schema
from eventbus_mp.addons.outbox.store import Item, OutboxStore, TopicCounts

__all__ = [
    "Item",
    "Outbox",
    "OutboxStore",
    "Relay",
    "RelayStatus",
    "TopicCounts",
    "insert_statement",
    "open_outbox",
    "schema",
]
