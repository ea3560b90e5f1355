"""The pipeline on a real bus finds what the loop finds; file names may be any bytes."""

import os
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Inbox
from eventbus_mp.demo import pipeline
from eventbus_mp.demo.measure import python_files


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVENTBUS_MP_RUN_DIR", str(tmp_path / "run"))
    root = tmp_path / "tree"
    root.mkdir()
    for index in range(12):
        (root / f"module_{index}.py").write_text(f"def function_{index}(x):\n    return x if x else {index}\n")
    (root / "broken.py").write_text("def (:\n")
    with open(os.fsencode(root) + b"/not-\xff-text.py", "wb") as strange:
        strange.write(b"x = 1\n")
    return root


def test_the_bus_finds_what_the_loop_finds(tree: Path) -> None:
    files = list(python_files(tree))
    progress: list[int] = []
    plain = pipeline.run_in_loop(tree, files, progress.append)
    assert progress[-1] == 2 * len(files)

    result = pipeline.run_on_bus(tree, files, 2, progress.append, None)
    assert plain.totals.differences(result.totals) == []
    assert result.killed_pid is None
    rows = {row.name: row for row in result.subscribers}
    assert rows["measure"].skipped == rows["tokens"].skipped == 1
    assert rows["measure"].completed == rows["tokens"].completed == len(files) - 1


def test_a_killed_worker_changes_nothing(tree: Path) -> None:
    files = list(python_files(tree))
    killed: list[int] = []
    result = pipeline.run_on_bus(tree, files, 2, lambda done: None, killed.append)
    assert killed == [result.killed_pid]
    assert pipeline.run_in_loop(tree, files, lambda done: None).totals.differences(result.totals) == []


def test_a_result_that_is_repeated_at_the_end_is_settled(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a worker is killed between publishing its result and settling its file."""
    files = list(python_files(tree))
    collect = pipeline._collect

    def collect_before_the_repeat(bus: EventBus, inbox: Inbox, *rest: Any) -> Any:
        found = collect(bus, inbox, *rest)
        data = {"path": os.fsencode(tree / "broken.py"), "step": "measure", "reason": "again"}
        bus.notify_many([Event(f"again-{number}", "file_skipped", data) for number in range(10)])
        return found

    monkeypatch.setattr(pipeline, "_collect", collect_before_the_repeat)
    monkeypatch.setattr(pipeline, "SILENCE_S_MAX", 20.0)
    result = pipeline.run_on_bus(tree, files, 2, lambda count: None, None)
    assert result.totals.outcomes == 2 * len(files)
    assert {row.name: row.completed for row in result.subscribers}["collector"] == 2 * len(files) + 10
