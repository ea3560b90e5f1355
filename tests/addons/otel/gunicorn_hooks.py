"""gunicorn's settings: the SDK is set up in each worker, as OpenTelemetry documents it."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["post_fork", "worker_exit"]


def post_fork(server: Any, worker: Any) -> None:
    """In a worker, just forked."""
    from tests.addons.otel.programs import configure

    configure(os.environ["TEST_OTLP_URL"], "web")


def worker_exit(server: Any, worker: Any) -> None:
    """In a worker that leaves."""
    from tests.addons.otel.programs import flush

    flush()
