"""The web application, in gunicorn's workers: it takes orders, and says what has become of one.

An order is placed with `PUT` and an id that the client has chosen. A client that got no answer, because the worker was
killed for example, may send the request again: the journal has each event once.
"""

from flask import Flask, request
from opentelemetry import propagate, trace

from eventbus_mp import BusFull, Event, NoSubscriber, unique_id
from eventbus_mp.addons.journal import Selection, event_of, open_store
from examples.shop.settings import JOURNAL, bus

app = Flask(__name__)
tracer = trace.get_tracer("shop.web")


@app.put("/orders/<order_id>")
def place(order_id):
    order = request.get_json()
    if not isinstance(order.get("cents"), int) or not isinstance(order.get("card"), str):
        return {"error": "give cents, an integer, and card, a text"}, 400
    event = Event(
        order_id,
        "order_placed",
        {"cents": order["cents"], "card": order["card"]},
        transaction_id=order_id,
        source="web",
        headers={"request-id": request.headers.get("X-Request-Id", unique_id())},
    )
    # A client that traces sends its context along. Without one, the trace begins here.
    parent = propagate.extract(request.headers)
    with tracer.start_as_current_span("PUT /orders", parent, attributes={"order": order_id}):
        bus.notify(event)  # does not wait for handlers
    return {"order": order_id}, 202


@app.get("/orders/<order_id>")
def look_up(order_id):
    with open_store(JOURNAL) as store:
        entries = store.page(Selection(transaction_id=order_id), 10)
    events = [event_of(entry.row) for entry in entries]
    if not events:
        return {"error": "the journal has no such order, or not yet"}, 404
    return {"order": order_id, "cents": events[0].data["cents"], "history": [event.topic for event in events]}


@app.errorhandler(NoSubscriber)  # no journal runs
@app.errorhandler(BusFull)  # the pool does not keep up
def not_now(error):
    return {"error": str(error)}, 503, {"Retry-After": "1"}
