"""Every event in a database, and producers that refuse to publish while nothing stores it."""

import tempfile
from pathlib import Path

from eventbus_mp import Event, EventBus, NoSubscriber
from eventbus_mp.addons.journal import Journal, Selection, event_of, open_store

bus = EventBus("example-journal", topics=["order_paid"], require=["journal"])


def main(folder: str) -> None:
    url = f"sqlite:///{Path(folder) / 'events.db'}"
    try:
        bus.notify(Event(1, "order_paid", {"amount": 10}))
    except NoSubscriber as error:
        print("refused:", type(error).__name__)
    with Journal(bus, url):
        for number in range(1, 4):
            bus.notify(Event(number, "order_paid", {"amount": 10 * number}, transaction_id="today"))
        bus.drain()  # Settled is stored.
    with open_store(url) as store:
        print(store.count(Selection()), "events are stored")
        for entry in store.page(Selection(transaction_id="today"), 10, newest_first=True):
            event = event_of(entry.row)
            print(entry.position, event.topic, event.id, event.data)


if __name__ == "__main__":
    with bus, tempfile.TemporaryDirectory() as folder:
        main(folder)
