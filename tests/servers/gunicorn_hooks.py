"""gunicorn's settings for the trials in which the application is loaded before the fork: subscribe in each worker."""

from __future__ import annotations

from typing import Any

__all__ = ["post_worker_init"]


def post_worker_init(worker: Any) -> None:
    """Called in each worker when it has loaded the application, and gevent has patched what it patches."""
    from tests.servers.app import subscribe

    subscribe()
