"""A journal that is killed at each step of its loop: no event is lost, and none is stored twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp.addons.journal import Journal
from tests.addons.journal.mortal import KILLED, POINTS, check_store, mortal_bus, publish, write_until_killed

EVENTS = 300
HAPPENS_ONCE = ("journal: between subscribing and its note", "journal: after the note of a run")


@pytest.mark.parametrize("point", POINTS)
def test_a_journal_is_killed(
    run_dir: Path, tmp_path: Path, fork: Callable[..., Any], make_bus: Callable[..., Any], point: str
) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    make_bus(crashes_max=1_000, topics=["a", "b"]).topics()
    for kill in range(2):
        nth = 1 if point in HAPPENS_ONCE else 1 + kill
        child = fork(lambda say, nth=nth: write_until_killed(run_dir, url, point, nth))
        if point not in HAPPENS_ONCE:
            _await_subscriber(run_dir)
            publish(run_dir, kill * EVENTS, EVENTS)
        assert child.wait() == KILLED
        if point in HAPPENS_ONCE:
            publish(run_dir, kill * EVENTS, EVENTS)
    with mortal_bus(run_dir) as bus, Journal(bus, url, batch_within_s=0.005):
        bus.drain(timeout_s=120)
    check_store(url, 2 * EVENTS)


def _await_subscriber(run_dir: Path) -> None:
    """Until the journal is subscribed, which a producer that comes too early would not see."""
    with mortal_bus(run_dir) as bus:
        while not bus.subscribers():
            bus.drain()
