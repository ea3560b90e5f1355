"""The command line as a user runs it: real processes, real output, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import eventbus_mp
from eventbus_mp import EventBus, cli
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import RunDir

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


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def run(run_dir: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EVENTBUS_MP_RUN_DIR": str(run_dir)}
    command = [sys.executable, "-m", "eventbus_mp", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


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


def test_status_lists_and_shows_buses(run_dir: Path) -> None:
    assert "no bus is running" in run(run_dir, "status").stdout
    with EventBus("shop", topics=["a"], run_dir=str(run_dir), manager_idle_s=0.0) as bus:
        bus.register_topic("b")
        assert run(run_dir, "status").stdout.split() == ["shop"]
        assert json.loads(run(run_dir, "status", "shop").stdout)["topics"] == 2
        missing = run(run_dir, "status", "nothing")
        assert missing.returncode == 1
        assert "no bus 'nothing' is running" in missing.stderr
        bus.shutdown()


@pytest.mark.usefixtures("cleans_alone")
def test_clean_removes_what_a_killed_bus_left_and_leaves_a_running_one(run_dir: Path) -> None:
    left = RunDir(run_dir, "dead")
    left.create()
    (Path("/dev/shm") / f"{left.segment_prefix}0123-1").write_bytes(b"left")
    with EventBus("alive", run_dir=str(run_dir), manager_idle_s=0.0) as bus:
        bus.topics()
        done = run(run_dir, "clean")
        assert done.returncode == 0, done.stderr
        assert "dead: removed, with 1 segments" in done.stdout
        assert "alive: running, left alone" in done.stdout
        assert not list(Path("/dev/shm").glob(f"{left.segment_prefix}*"))
        assert not left.path.exists()
        bus.shutdown()


@pytest.mark.usefixtures("cleans_alone")
def test_clean_leaves_what_is_not_a_bus_s(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    for name in ("socket", "program.py"):
        (tmp_path / "project" / name).write_text("of somebody else")
    done = run(tmp_path, "clean")
    assert (done.returncode, done.stdout) == (0, "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "program.py", "project", "socket"]


def test_a_killed_bus_is_not_running(tmp_path: Path) -> None:
    """To ask for its status starts no new one."""
    left = RunDir(tmp_path, "dead")
    left.create()
    handshake.listen(left.socket).close()
    assert "no bus is running" in run(tmp_path, "status").stdout
    assert run(tmp_path, "status", "dead").returncode == 1
    assert list(left.path.iterdir()) == [left.socket]


def test_the_version(run_dir: Path) -> None:
    done = run(run_dir, "--version")
    assert (done.returncode, done.stdout) == (0, f"eventbus-mp {eventbus_mp.__version__}\n")


def test_help_names_every_command(run_dir: Path) -> None:
    done = run(run_dir, "--help")
    assert done.returncode == 0
    for command in ("demo", "status", "clean"):
        assert f"\n    {command} " in done.stdout


GREET = """
def add_parser(commands):
    parser = commands.add_parser("greet", help="greet somebody")
    parser.add_argument("name")
    return parser


def run(options):
    print("good day,", options.name)
    return 3
"""


def test_a_command_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greet.py").write_text(GREET)
    (tmp_path / "_helper.py").write_text("raise AssertionError('this is no command')")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    try:
        assert cli.main(["greet", "Ada"]) == 3
    finally:
        sys.modules.pop("eventbus_mp.cli.greet", None)
    assert capsys.readouterr().out == "good day, Ada\n"


def test_the_command_line_is_there_before_any_worker_is_needed() -> None:
    """What takes long to import is imported by the command that uses it."""
    code = "import sys; from eventbus_mp.cli import _parser; _parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & {"dill", "multiprocess", "rich"}


def test_an_unknown_command_is_explained(run_dir: Path) -> None:
    done = run(run_dir, "dance")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
