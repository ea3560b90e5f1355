"""A `Run` to and from the columns of a store. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from eventbus_mp.addons.journal.store import Run

__all__ = ["RUN_COLUMNS", "run_of", "values_of"]

RUN_COLUMNS = (
    "bus, incarnation, time_unit, subscriber, patterns, continues, started_ns, notified_first, noted_ns, "
    "notified_last, waiting, ended_ns, stored, duplicates, rejected"
)
"""All but the number, which the store gives."""


def values_of(run: Run) -> tuple[Any, ...]:
    """The values of `RUN_COLUMNS`."""
    return (
        run.bus,
        run.incarnation,
        run.time_unit,
        run.subscriber,
        json.dumps(run.patterns),
        run.continues,
        run.started_ns,
        json.dumps(dict(run.notified_first)),
        run.noted_ns,
        json.dumps(dict(run.notified_last)),
        run.waiting,
        run.ended_ns,
        run.stored,
        run.duplicates,
        run.rejected,
    )


def run_of(found: Sequence[Any]) -> Run:
    """The run of the values of `RUN_COLUMNS`, and its number."""
    bus, incarnation, unit, subscriber, patterns, continues, started, first, noted, last, *rest = found
    return Run(
        bus,
        incarnation,
        unit,
        subscriber,
        tuple(json.loads(patterns)),
        bool(continues),
        started,
        json.loads(first),
        noted,
        json.loads(last),
        *rest,
    )
