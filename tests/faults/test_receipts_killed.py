"""A producer with receipts is killed again and again: each of its events is told to it or to a successor, none that was
not published is, and what a successor finds unsettled is exactly that."""

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from tests.helpers import pause, until

Make = Callable[..., EventBus]
Fork = Callable[..., Any]

KILLS = 50
CHUNK = 40
UNSETTLED_MAX = 200


class Notes:
    """What a process notes on its way: lines of a file, which its death leaves as they are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *words: object) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(fd, (" ".join(map(str, words)) + "\n").encode())
        finally:
            os.close(fd)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]


def produce(bus: EventBus, notes: Notes, life: int, *, ends: bool) -> None:
    """Publish under load and confirm what is told; or only take what is left."""
    with bus, bus.receipts("orders") as receipts:
        notes.write("opened", life, *(tag.decode() for tag in receipts.left))
        published = told = 0
        missing = set(receipts.left)
        while missing if ends else True:
            if not ends and published - told < UNSETTLED_MAX:
                tags = [b"%d-%d" % (life, published + number) for number in range(CHUNK)]
                receipts.notify_many([Event(tag.decode(), "a", None) for tag in tags], tags=tags)
                published += CHUNK
                notes.write("published", life, published)
            for receipt in receipts.get(1000, timeout_s=20 if ends else 0.01):
                assert [key.name for key in receipt.watcher.completers] == ["bill"]
                missing.difference_update(receipt.tags)
                told += len(receipt.tags)
                notes.write("told", life, *(tag.decode() for tag in receipt.tags))
                receipts.confirm(receipt.tags)
        while ends and (rest := receipts.get(1000, timeout_s=0)):
            for receipt in rest:
                notes.write("told", life, *(tag.decode() for tag in receipt.tags))
                receipts.confirm(receipt.tags)


def check(notes: Notes, handled: list[str], lives: int) -> dict[str, int]:
    """What must be so whatever happened; some counts for a look."""
    told: dict[str, list[int]] = {}
    left: dict[int, list[str]] = {}
    published: dict[int, int] = {}
    for what, number, *words in notes.lines():
        life = int(number)
        if what == "opened":
            left[life] = words
        elif what == "published":
            published[life] = int(words[0])
        else:
            for tag in words:
                told.setdefault(tag, []).append(life)
    known = set(handled)
    assert len(known) == len(handled), "nobody crashed who handles events"
    assert set(told) == known, "each is told, and nothing else"
    for life, count in published.items():
        assert {f"{life}-{number}" for number in range(count)} <= known, "it was published and not handled"
    for life in range(lives):
        unknown = [tag for tag in handled if life_of(tag) < life <= min(told[tag])]
        assert set(left[life]) <= set(unknown), "it was settled, or never published"
        assert left[life] == sorted(left[life], key=numbers_of), "not in the order in which they were published"
        for tag in set(unknown) - set(left[life]):
            assert life in told[tag] or life < lives - 1, "it is in neither"
    again = sum(len(lives_of) > 1 for lives_of in told.values())
    return {"published": len(known), "told again": again, "left": sum(map(len, left.values()))}


def numbers_of(tag: str) -> tuple[int, int]:
    life, _, number = tag.partition("-")
    return int(life), int(number)


def life_of(tag: str) -> int:
    return numbers_of(tag)[0]


def listen(bus: EventBus) -> list[str]:
    handled: list[str] = []

    @bus.on("a", name="bill")
    def bill(event: Event) -> None:
        assert isinstance(event.id, str)
        pause(0.0001)  # A producer is faster, so that there is something left of it.
        handled.append(event.id)

    return handled


@pytest.mark.parametrize("kills_the_manager", [False, True], ids=["the producer", "now and then the manager too"])
def test_a_producer_is_killed_at_random_moments(
    make_bus: Make, fork: Fork, run_dir: Path, tmp_path: Path, kills_the_manager: bool
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    notes, name = Notes(tmp_path / "notes"), "test"
    bus = make_bus(name, ["a"], event_bytes_max=1 << 16, memory_bytes_max=1 << 25)
    handled = listen(bus)
    bus.topics()
    kills = KILLS // 3 if kills_the_manager else KILLS

    def work(life: int, *, ends: bool) -> Callable[[Any], None]:
        return lambda to_parent: produce(EventBus(name, ["a"], run_dir=str(run_dir)), notes, life, ends=ends)

    def has_opened(life: int) -> bool:
        return notes.path.exists() and any(line[:2] == ["opened", str(life)] for line in notes.lines()[-50:])

    for life in range(kills):
        child = fork(work(life, ends=False))
        until(partial(has_opened, life))
        pause(chance.uniform(0, 0.06))
        if kills_the_manager and chance.random() < 0.5:
            os.kill(bus.statistics().manager_pid, signal.SIGKILL)
            pause(chance.uniform(0, 0.02))
        child.kill()
    child = fork(work(kills, ends=True))
    assert child.wait() == 0
    bus.drain(timeout_s=30)
    figures = check(notes, handled, kills + 1)
    print(figures)
    assert figures["published"] > kills * CHUNK / 2
