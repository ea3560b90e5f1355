"""Events that are true: written in the transaction of the order they speak of, and published when it has committed."""

import sqlite3
import tempfile
from pathlib import Path

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.outbox import Outbox, Relay

bus = EventBus("example-outbox")


def place_order(database: sqlite3.Connection, number: int, amount: int) -> None:
    with database:  # Both, or neither.
        database.execute("INSERT INTO orders VALUES (?, ?)", (number, amount))
        Outbox(database).add(Event(number, "order_placed", {"amount": amount}))
        if amount <= 0:
            raise ValueError(f"order {number} is rolled back")


def main(path: str) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE orders (number INTEGER PRIMARY KEY, amount INTEGER)")
    Outbox.create_table(database)
    for number, amount in ((1, 10), (2, 0), (3, 30)):
        try:
            place_order(database, number, amount)
        except ValueError as error:
            print(error)
    with bus.inbox("billing", ["order"]) as inbox, Relay(bus, f"sqlite:///{path}"):  # As `eventbus-mp outbox run`.
        for _ in range(2):
            event = bus.fetch_event(shadow := inbox.get())
            print(f"order {event.id} is billed: {event.data['amount']}")
            inbox.complete(shadow)
    (left,) = database.execute("SELECT count(*) FROM eventbus_outbox").fetchone()
    print(left, "events are left in the outbox")
    database.close()


if __name__ == "__main__":
    with bus, tempfile.TemporaryDirectory() as folder:
        main(str(Path(folder) / "shop.db"))
