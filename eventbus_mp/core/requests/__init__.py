"""What the core answers to requests: a module for each subject, and in it a handler for each request.

protocol/requests.py has all requests, handling.py says how one finds its handler. Importing this package makes the
table complete.
"""

from __future__ import annotations

from eventbus_mp.core.requests import (
    changes,
    dead_letters,
    directions,
    events,
    explain,
    history,
    processes,
    queries,
    receipts,
    snapshot,
    subscribers,
    takeover,
    topics,
)
from eventbus_mp.core.requests.handling import ANSWERED_LATER, REQUEST_HANDLERS

__all__ = [
    "ANSWERED_LATER",
    "REQUEST_HANDLERS",
    "changes",
    "dead_letters",
    "directions",
    "events",
    "explain",
    "history",
    "processes",
    "queries",
    "receipts",
    "snapshot",
    "subscribers",
    "takeover",
    "topics",
]
