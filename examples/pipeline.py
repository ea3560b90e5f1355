"""A batch pipeline in three stages: lines are read, parsed, and priced.

Each stage publishes the next topic under the same transaction id. An `EventSource` fills in the rest: the id,
the times, the source.
"""

from eventbus_mp import EventBus, EventSource, WorkerPool

LINES = ["3 apples 0.40", "2 pears 0.55", "a lot of plums", "10 figs 0.25", "1 melon 2.90"]

bus = EventBus("example-pipeline", topics=["line_read", "line_parsed", "line_rejected", "order_priced"])
reader = EventSource(bus, topic="line_read", source="reader")
parser = EventSource(bus, topic="line_parsed", error_topic="line_rejected", source="parser")
pricer = EventSource(bus, topic="order_priced", source="pricer")
pool = WorkerPool(bus, processes=2)


@pool.on("line_read", name="parse")
def parse(event):
    with parser.notify(transaction_id=event.transaction_id) as block:
        try:
            count, fruit, price = event.data.split()
            block.data = {"count": int(count), "fruit": fruit, "price": float(price)}
        except ValueError as error:
            block.error = {"line": event.data, "reason": str(error)}  # goes to the error topic


@pool.on("line_parsed", name="price")
def price(event):
    with pricer.notify(transaction_id=event.transaction_id) as block:
        block.data = {**event.data, "total": event.data["count"] * event.data["price"]}


def main():
    with bus.inbox("report", ["order_priced", "line_rejected"]) as inbox, pool:
        for number, line in enumerate(LINES):
            with reader.notify(transaction_id=f"order-{number}") as block:
                block.data = line
        events = []
        for _ in LINES:
            shadow = inbox.get()
            events.append(bus.fetch_event(shadow))
            inbox.complete(shadow)
        bus.drain()
    for event in sorted(events, key=lambda event: event.transaction_id):
        if event.topic == "order_priced":
            print(f"{event.transaction_id}: {event.data['fruit']} cost {event.data['total']:.2f}")
        else:
            print(f"{event.transaction_id}: {event.source} rejected {event.data['line']!r}")
    bus.shutdown()


if __name__ == "__main__":
    main()
