"""Place orders, then check that each of their events is in the journal once: python -m examples.shop.load 200"""

import http.client
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from eventbus_mp import EventBus, unique_id
from eventbus_mp.addons.journal import Selection, open_store
from examples.shop import bank
from examples.shop.settings import JOURNAL, PORT, bus

CLIENTS = 8
PATIENCE_S = 60


def main(count):
    orders = {unique_id(): card_of(number) for number in range(count)}
    position = last_position()
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        again = sum(clients.map(place, orders, orders.values()))
    print(f"{count} orders in {time.monotonic() - began:.1f} s; {again} requests were sent again", flush=True)

    refused = {order for order, card in orders.items() if card == "blocked"}
    wanted = Counter(("order_placed", order) for order in orders)
    wanted.update((topic, order) for topic in ("order_paid", "order_packed") for order in orders.keys() - refused)
    wait_until(lambda: recorded(orders, position) >= wanted and dead_letters(orders) >= refused)

    found, letters, charges = recorded(orders, position), dead_letters(orders), bank.charges()
    print("in the journal:", ", ".join(f"{n} {topic}" for topic, n in Counter(topic for topic, _ in found).items()))
    print(f"{(wanted - found).total()} are missing, {(found - wanted).total()} are too many")
    print(f"{sum(charges.get(order, 0) for order in orders)} charges by the bank, {len(letters)} dead letters")
    once_each = all(charges[order] == (order not in refused) for order in orders)
    return 0 if found == wanted and letters == refused and once_each else 1


def card_of(number):
    """The bank is asked twice about one of ten, and refuses one of twenty."""
    return "slow" if number % 10 == 3 else "blocked" if number % 20 == 7 else "4111"


def place(order, card):
    """Send the request until it is accepted, and say how often it was sent again."""
    deadline, again = time.monotonic() + PATIENCE_S, 0
    while (status := put(order, card)) != 202:
        if time.monotonic() > deadline:
            raise SystemExit(f"order {order} was not accepted; the last answer was {status}")
        time.sleep(0.1)
        again += 1
    return again


def put(order, card):
    """The status of one request; None: there was no answer, and nobody knows whether the order was placed."""
    client = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    try:
        body = json.dumps({"cents": 250, "card": card})
        client.request("PUT", f"/orders/{order}", body, {"Content-Type": "application/json"})
        return client.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        client.close()


def last_position():
    with open_store(JOURNAL) as store:
        return store.last_position()


def recorded(orders, position):
    """(topic, id) of each event of these orders that the journal has behind a position, and how often."""
    found = Counter()
    with open_store(JOURNAL) as store:
        while entries := store.page(Selection(after=position), 1_000):
            found.update((entry.row.topic, entry.row.id) for entry in entries if entry.row.id in orders)
            position = entries[-1].position
    return found


def dead_letters(orders):
    with EventBus.attach(bus.name) as observer:
        return {letter.shadow.id for letter in observer.dead_letters() if letter.shadow.id in orders}


def wait_until(holds):
    """Look five times a second; after PATIENCE_S, give up."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
