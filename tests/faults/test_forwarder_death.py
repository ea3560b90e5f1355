"""A process that forwards events dies again and again: it accuses no event, loses none, and none that it had settled
comes again."""

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import EventBus, SubscriberKey
from tests.faults.helpers import death_of, end_with_parent
from tests.helpers import publish, statistics_of

BILL = SubscriberKey("bill", host="B")
EVENTS, KILLS = 3_000, 20


def forward(bus: EventBus, seed: int, to_parent: Any) -> None:
    """Take and settle; and say what was taken, before, and what was settled, after that."""
    end_with_parent()
    chance = random.Random(seed)
    forwarder = bus.forwarder(BILL, ["a"])
    while True:
        taken = [raw.sequence for raw in forwarder.take(chance.randint(1, 60), 0.1)]
        to_parent.send(("taken", taken))
        unsettled = [raw.sequence for raw in forwarder.unsettled()]
        settled = chance.sample(unsettled, chance.randint(0, len(unsettled)))
        forwarder.settle([(sequence, 1) for sequence in settled])
        to_parent.send(("settled", settled))


@pytest.mark.parametrize("kills_managers", [False, True], ids=["a manager that lives", "managers die as well"])
def test_events_survive_it_unaccused(bus: EventBus, fork: Callable[..., Any], kills_managers: bool) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    bus.forwarder(BILL, ["a"]).close(keep=True)
    publish(bus, EVENTS)
    seen: set[int] = set()
    settled: set[int] = set()

    def note(what: str, numbers: list[int]) -> None:
        if what == "settled":
            settled.update(numbers)
        else:
            assert not settled & set(numbers), "what was settled came again"
            seen.update(numbers)

    def end(child: Any) -> None:
        os.kill(child.pid, signal.SIGKILL)
        for said in death_of(child):
            note(*said)

    for number in range(KILLS):
        child = fork(lambda to_parent, number=number: forward(bus, seed + number, to_parent))
        for _ in range(chance.randint(1, 12)):
            note(*child.hear())
        if kills_managers and number % 3 == 0:
            os.kill(bus.statistics().manager_pid, signal.SIGKILL)
            note(*child.hear())
        end(child)
    last = fork(lambda to_parent: forward(bus, seed + KILLS, to_parent))
    while bus.statistics().events_unsettled:
        note(*last.hear())
    end(last)
    assert len(seen) == EVENTS
    found = statistics_of(bus, "bill")
    assert (found.completed, found.skipped) == (EVENTS, 0)
    assert "crashed" not in bus.history(limit=1_000).counts
