"""`eventbus-mp demo`."""

import json
import re
import socket
from pathlib import Path

import pytest

from eventbus_mp.addons.journal import Selection, open_store
from eventbus_mp.cli._beside import Beside
from eventbus_mp.demo.measure import python_files
from eventbus_mp.demo.pipeline import run_on_bus
from tests.addons.web.serving import ask
from tests.cli.shell import run, started

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
    done = run(run_dir, "demo", tree, "--processes", 2, "--json", "--no-baseline", "--trace", "console", "--journal")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["totals"]["files"] == 2
    assert json.loads(done.stdout)["journal"]["differences"] == []
    spans = [line.split(" ", 5) for line in done.stderr.splitlines()]
    assert {"'publish file_found'", "'process file_found'", "'publish file_measured'"} <= {span[5] for span in spans}
    (found,) = [span for span in spans if span[5] == "'publish file_found'"]
    handled = [span for span in spans if span[5] == "'process file_found'"]
    assert len(handled) == 2 * len(TREE)
    assert {(trace, parent) for trace, _, parent, *_ in handled} == {(found[0], found[1])}
    assert found[3] not in {span[3] for span in handled}  # Other processes.


def test_demo_with_a_journal_and_a_killed_worker(tree: Path, run_dir: Path) -> None:
    done = run(run_dir, "demo", tree, "--processes", 2, "--kill", "--no-baseline", "--journal")
    assert done.returncode == 0, done.stderr
    assert "They match: none is missing, and the totals from the journal are exactly the same." in done.stdout
    path = re.search(r"The journal sqlite:///(.*) holds 9 events", done.stdout)
    assert path is not None, done.stdout
    assert not Path(path[1]).parent.exists(), "it was a temporary one"


def test_demo_with_a_journal_that_stays_and_a_page(tree: Path, run_dir: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'demo.db'}"
    command = ("demo", tree, "--processes", 2, "--no-baseline", "--json", "--journal", url, "--web")
    done = run(run_dir, *command)
    assert done.returncode == 0, done.stderr
    address = re.search(r"page: http://127.0.0.1:(\d+)/", done.stderr)
    assert address is not None, done.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address[1])), timeout=10)
    result = json.loads(done.stdout)
    assert result["journal"] == {"url": url, "events": 9, "duplicates": 0, "differences": []}
    assert result["events"] == 9
    with open_store(url) as store:
        assert store.count_per_topic(Selection()) == {
            "file_found": 3,
            "file_measured": 2,
            "file_skipped": 2,
            "file_tokenized": 2,
        }
    again = run(run_dir, *command)
    assert again.returncode == 2
    assert "it has events already" in again.stderr


def test_demo_shows_what_it_does_while_it_runs(tree: Path, run_dir: Path, tmp_path: Path) -> None:
    """A tree of many files, so that there is time to look."""
    for number in range(300):
        (tree / f"file_{number}.py").write_text(TREE["good.py"] * 20)
    with started(run_dir, "demo", tree, "--processes", 1, "--no-baseline", "--json", "--journal", "--web") as demo:
        port = int(demo.stderr.readline().rstrip("/\n").rpartition(":")[2])
        assert ask(port, "/api/bus").json["bus"] == f"demo-{demo.pid}"
        assert ask(port, "/api/journal").json["journal"]["writer"]["pid"] == demo.pid
        said, _ = demo.communicate(timeout=120)
    assert json.loads(said)["journal"]["differences"] == []


def test_demo_says_how_a_journal_differs(tree: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Beside(None, has_page=False)
    monkeypatch.setenv("EVENTBUS_MP_RUN_DIR", str(run_dir))
    files = list(python_files(tree))
    result = run_on_bus(tree, files, 1, lambda done: None, None)
    assert beside.check(result) is None
    beside = Beside(f"sqlite:///{run_dir.parent / 'demo.db'}", has_page=False)
    with open_store(f"sqlite:///{run_dir.parent / 'demo.db'}", writes=True) as store:
        store.take_lock()
    check = beside.check(result)
    assert check is not None
    assert check.differences[0] == "9 events of 9 are missing in the journal"
    assert any("good.py" in line for line in check.differences)


def test_demo_without_a_bus_has_no_journal(tree: Path, run_dir: Path) -> None:
    done = run(run_dir, "demo", tree, "--processes", 0, "--journal")
    assert done.returncode == 2
    assert "need a bus" in done.stderr
