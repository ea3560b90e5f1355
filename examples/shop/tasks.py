"""The pool: it charges what was ordered, and packs what was paid.

An event may come again when a process is killed between its work and its acknowledgement. That does no harm here: the
bank charges an order once, and the events that a handler publishes have the order's id, which the journal has once.
"""

from opentelemetry import trace

from eventbus_mp import Event, Retry, WorkerPool
from examples.shop import bank, tracing
from examples.shop.settings import bus

pool = WorkerPool(bus, processes=2, initializer=tracing.configure, finalizer=tracing.flush)
tracer = trace.get_tracer("shop.tasks")


def follows(event, topic, data):
    """The next event of the same order."""
    headers = {"request-id": event.headers["request-id"]}
    return Event(event.id, topic, data, transaction_id=event.transaction_id, source="tasks", headers=headers)


@pool.on("order_placed", name="billing", retries=3, retry_delay_s=0.1, time_limit_s=30)
def charge(event):
    try:
        with tracer.start_as_current_span("ask the bank"):
            bank.charge(event.id, event.data["cents"], event.data["card"])
    except bank.NoAnswer as error:
        raise Retry(str(error), delay_s=0.2) from error
    # What else the bank raises is tried three times more, and then makes the event a dead letter.
    bus.notify(follows(event, "order_paid", {"cents": event.data["cents"]}))


@pool.on("order_paid", name="packing", retries=3, retry_delay_s=0.1)
def pack(event):
    bus.notify(follows(event, "order_packed", {"parcel": f"P-{event.id}"}))
