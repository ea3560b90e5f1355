"""The app. `ready` makes the handle, which connects when somebody uses it, and subscribes nothing."""

from django.apps import AppConfig

from eventbus_mp import EventBus


class ShopConfig(AppConfig):
    name = "shop"
    bus: EventBus

    def ready(self):
        self.bus = EventBus("example-django", topics=["order_paid", "price_changed", "report_wanted"])
