"""Replays that are killed, and rows that this version cannot read."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Replay, Store, open_store
from eventbus_mp.addons.journal.pace import Steady
from tests.addons.journal.rows import row, rows


def test_a_replay_that_is_killed_goes_on_and_leaves_nothing_out(
    store: Store,
    store_url: str,
    bus: EventBus,
    run_dir: Path,
    fork: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventbus_mp.addons.journal.replay.CHECKPOINT_S", 0.05)
    store.append(rows(300))
    found: list[Any] = []

    def replay(say: Any) -> None:
        with EventBus("test", run_dir=str(run_dir)) as mine, open_store(store_url) as reader:
            say.recv()
            Replay(reader, mine, pace=Steady(500), name="again").run()

    child = fork(replay)

    @bus.on("order", name="collector")
    def collect(event: Event) -> None:
        found.append(event.id)
        if len(found) == 150:
            os.kill(child.pid, signal.SIGKILL)

    child.tell()
    assert child.wait() == -signal.SIGKILL
    bus.drain(timeout_s=60)
    (checkpoint,) = store.checkpoints()
    assert 1 < checkpoint.next_position <= len(found) + 1
    with open_store(store_url) as reader:
        assert Replay(reader, bus, name="again").run().is_complete
    bus.drain(timeout_s=60)
    assert sorted(set(found), key=int) == [str(number) for number in range(300)]
    assert found[-1] == "299"


def test_a_row_of_a_newer_version_is_left_out_and_said(
    store: Store, bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    store.append([row("1"), row("newer")._replace(format=99), row("3")])
    found: list[Any] = []
    bus.on("order", name="collector")(lambda event: found.append(event.id))
    done = Replay(store, bus).run()
    bus.drain(timeout_s=60)
    assert (done.published, done.refused, done.is_complete) == (2, 1, True)
    assert found == ["1", "3"]
    assert "'newer'" in caplog.text
