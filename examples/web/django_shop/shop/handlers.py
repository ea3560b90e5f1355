"""What is done with events."""

import os

from django.apps import apps

prices = {}  # each worker's cache


def bill(event):
    print(f"process {os.getpid()} bills order {event.data}", flush=True)


def forget_price(event):
    prices.pop(event.data, None)
    print(f"process {os.getpid()} forgets the price of {event.data}", flush=True)


def subscribe():
    """Host the subscribers in this process."""
    bus = apps.get_app_config("shop").bus
    bus.on("order_paid")(bill)  # one of the workers gets each event
    bus.on("price_changed", broadcast=True)(forget_price)  # every worker gets each event
