"""Flask on gunicorn. In this folder:

    $ gunicorn --bind 127.0.0.1:8001 --workers 3 flask_app:app
    $ python reports.py example-flask

Each worker imports this module after the fork, and so hosts its subscribers. With `--preload` the module is imported
before the fork, where nobody is to subscribe: then gunicorn_preload.py does it in each worker.

    $ gunicorn --bind 127.0.0.1:8001 --workers 3 --preload --config gunicorn_preload.py flask_app:app
"""

import os

from flask import Flask

from eventbus_mp import Event, EventBus, unique_id

app = Flask(__name__)
bus = EventBus("example-flask", topics=["order_paid", "price_changed", "report_wanted"])
prices = {}  # each worker's cache


def bill(event):
    print(f"process {os.getpid()} bills order {event.data}", flush=True)


def forget_price(event):
    prices.pop(event.data, None)
    print(f"process {os.getpid()} forgets the price of {event.data}", flush=True)


def subscribe():
    bus.on("order_paid")(bill)  # one of the workers gets each event
    bus.on("price_changed", broadcast=True)(forget_price)  # every worker gets each event


if not os.environ.get("SUBSCRIBES_LATER"):  # gunicorn_preload.py sets it
    subscribe()


@app.post("/orders/<order>/paid")
def order_paid(order):
    bus.notify(Event(unique_id(), "order_paid", order))  # does not wait for the handler
    return {"order": order}


@app.post("/prices/<product>/changed")
def price_changed(product):
    bus.notify_and_wait(Event(unique_id(), "price_changed", product), timeout_s=10)  # no worker has the old one now
    return {"product": product}


@app.post("/reports/<name>")
def report_wanted(name):
    bus.notify(Event(unique_id(), "report_wanted", name))  # only the pool of reports.py gets it
    return {"report": name}
