"""FastAPI on uvicorn's workers. In this folder:

    $ uvicorn --port 8002 --workers 3 fastapi_app:app
    $ python reports.py example-fastapi

The handle is that of `eventbus_mp.aio`, whose calls are awaited. Each worker imports this module; its lifespan connects
the handle, subscribes what is decorated, and closes it when the worker is to end.
"""

import os
from contextlib import asynccontextmanager

from fastapi import FastAPI

from eventbus_mp import Event, aio, unique_id

bus = aio.EventBus("example-fastapi", topics=["order_paid", "price_changed", "report_wanted"])
prices = {}  # each worker's cache


@bus.on("order_paid")  # one of the workers gets each event
async def bill(event):
    print(f"process {os.getpid()} bills order {event.data}", flush=True)


@bus.on("price_changed", broadcast=True)  # every worker gets each event
async def forget_price(event):
    prices.pop(event.data, None)
    print(f"process {os.getpid()} forgets the price of {event.data}", flush=True)


@asynccontextmanager
async def lifespan(app):
    async with bus:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{order}/paid")
async def order_paid(order: str):
    await bus.notify(Event(unique_id(), "order_paid", order))  # does not wait for the handler
    return {"order": order}


@app.post("/prices/{product}/changed")
async def price_changed(product: str):
    await bus.notify_and_wait(Event(unique_id(), "price_changed", product), timeout_s=10)  # no worker has the old one
    return {"product": product}


@app.post("/reports/{name}")
async def report_wanted(name: str):
    await bus.notify(Event(unique_id(), "report_wanted", name))  # only the pool of reports.py gets it
    return {"report": name}
