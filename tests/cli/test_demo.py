"""`eventbus-mp demo`."""

import json
from pathlib import Path

import pytest

from tests.cli.shell import run

TREE = {
    "good.py": "def plain(x):\n    return x\n\n"
    "def branching(x):\n    if x and x > 1:\n        return 1\n    return 0\n",
    "package/other.py": "class Thing:\n    def method(self):\n        for _ in range(3):\n            pass\n",
    "broken.py": "def broken(:\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "tree"


def test_demo_with_a_killed_worker_finds_what_the_loop_finds(tree: Path, run_dir: Path) -> None:
    done = run(run_dir, "demo", tree, "--processes", 2, "--check", "--kill")
    assert done.returncode == 0, done.stderr
    assert "exactly the same" in done.stdout
    assert "branching" in done.stdout
    assert "broken.py" in done.stdout  # with its reason
    assert "SyntaxError" in done.stdout
    assert "killed in mid-run" in done.stdout


def test_demo_without_a_bus(tree: Path, run_dir: Path) -> None:
    done = run(run_dir, "demo", tree, "--processes", 0)
    assert done.returncode == 0, done.stderr
    assert "branching" in done.stdout
    assert not run_dir.exists()


def test_demo_json_is_json_and_nothing_else(tree: Path, run_dir: Path) -> None:
    done = run(run_dir, "demo", tree, "--processes", 1, "--json", "--no-baseline")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["totals"]["files"] == 2
    assert result["totals"]["functions"] == 3
    assert {row["name"] for row in result["subscribers"]} == {"measure", "tokens", "collector"}


def test_demo_of_no_directory_says_so(run_dir: Path, tmp_path: Path) -> None:
    done = run(run_dir, "demo", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere is not a directory" in done.stderr


def test_demo_of_an_empty_directory_says_so(run_dir: Path, tmp_path: Path) -> None:
    done = run(run_dir, "demo", tmp_path)
    assert done.returncode == 2
    assert "no .py file" in done.stderr


def test_demo_shows_the_spans_of_all_processes(tree: Path, run_dir: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    done = run(run_dir, "demo", tree, "--processes", 2, "--json", "--no-baseline", "--trace", "console")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["totals"]["files"] == 2
    spans = [line.split(" ", 5) for line in done.stderr.splitlines()]
    assert {"'publish file_found'", "'process file_found'", "'publish file_measured'"} <= {span[5] for span in spans}
    (found,) = [span for span in spans if span[5] == "'publish file_found'"]
    handled = [span for span in spans if span[5] == "'process file_found'"]
    assert len(handled) == 2 * len(TREE)
    assert {(trace, parent) for trace, _, parent, *_ in handled} == {(found[0], found[1])}
    assert found[3] not in {span[3] for span in handled}  # Other processes.
