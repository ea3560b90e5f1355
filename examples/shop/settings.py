"""What all programs of the shop share: where its files are, its ports, and its bus.

Making the handle connects nothing, so every program may import this module. The bus refuses an event, by raising
`NoSubscriber`, while no journal would store it.
"""

import os
from pathlib import Path

from eventbus_mp import EventBus
from eventbus_mp.addons.otel import instrument

FOLDER = Path(os.environ.get("SHOP_FOLDER", "shop-data")).resolve()
PORT = int(os.environ.get("SHOP_PORT", "8000"))
PAGE_PORT = int(os.environ.get("SHOP_PAGE_PORT", "8321"))

JOURNAL = os.environ.get("SHOP_JOURNAL", f"sqlite:///{FOLDER / 'events.db'}")
BANK = FOLDER / "bank.db"
TRACES = FOLDER / "traces.jsonl"

bus = EventBus(
    "example-shop",
    topics=["order_placed", "order_paid", "order_packed", "failed"],
    require=["journal"],
    dead_letter_topic="failed",
    notify_timeout_s=5,  # shorter than gunicorn's patience with a request
)
instrument(bus)
