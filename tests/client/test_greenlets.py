"""gevent and eventlet: a bus that works beside greenlets, or one sentence that says why not and what to do."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NO_GEVENT = pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed; the extra `test` has it")
NO_EVENTLET = pytest.mark.skipif(
    find_spec("eventlet") is None, reason="eventlet is not installed; the extra `test` has it"
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)


LATE = "import runpy, sys, eventbus_mp.client.bus; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
"""Runs a program after eventbus_mp was imported."""


@NO_GEVENT
@pytest.mark.parametrize("scenarios", ["handlers inbox full_pipe threads close", "fork", "end"])
def test_a_program_that_gevent_has_patched(run_dir: Path, scenarios: str) -> None:
    """gevent_program.py says what each of them is."""
    ended = run(str(HERE / "gevent_program.py"), str(run_dir), *scenarios.split())
    assert (ended.stderr, ended.stdout, ended.returncode) == ("", "", 0)


@NO_GEVENT
def test_a_program_that_gevent_has_patched_after_the_bus_was_imported(run_dir: Path) -> None:
    ended = run("-c", LATE, str(HERE / "gevent_program.py"), str(run_dir), "handlers", "inbox", "threads", "close")
    assert (ended.stderr, ended.stdout, ended.returncode) == ("", "", 0)


BUS = """
bus = EventBus("test", topics=["a"], run_dir=sys.argv[1], memory_bytes_max=16 << 20, manager_idle_s=0.05)
"""
GEVENT, EVENTLET = "from gevent import monkey; monkey.patch_all()\n", "import eventlet; eventlet.monkey_patch()\n"
IMPORT = "import sys\nfrom eventbus_mp import Event, EventBus, WorkerPool\n"
BY_HALVES = r"gevent has replaced {} in this process but not {}; .* call gevent.monkey.patch_all\(\), without"
NO_POOL = r"a WorkerPool cannot be started in a process that gevent has patched, .*; start it in a program of its own"
NO_USE = r"eventbus_mp does not work under eventlet, .*; use threads or processes instead"
CONNECTED = r"gevent has replaced Python's threads since this process connected .*; use the bus after monkey.patch_all"

REFUSED = {
    "connected before": (IMPORT + BUS + "bus.topics()\n" + GEVENT + "bus.topics()", CONNECTED),
    "without threads": (
        GEVENT.replace("()", "(thread=False)") + IMPORT + BUS + "bus.topics()",
        BY_HALVES.format("select", "threads"),
    ),
    "without select": (
        GEVENT.replace("()", "(select=False)") + IMPORT + BUS + "bus.topics()",
        BY_HALVES.format("threads", "select"),
    ),
    "a pool": (GEVENT + IMPORT + BUS + "WorkerPool(bus).start()", NO_POOL),
}
REFUSED_EVENTLET = {
    "patched": (EVENTLET + IMPORT + BUS + "bus.topics()", NO_USE),
    "imported before": (IMPORT + EVENTLET + BUS + "bus.topics()", NO_USE),
    "threads only": (EVENTLET.replace("()", "(all=False, thread=True)") + IMPORT + BUS + "bus.topics()", NO_USE),
}


def is_refused(tmp_path: Path, run_dir: Path, program: str, text: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    ended = run("-W", "ignore", str(script), str(run_dir))
    assert ended.returncode == 1, ended.stderr
    error = ended.stderr[ended.stderr.rindex("eventbus_mp.errors.") :].splitlines()[0]
    assert re.match(rf"eventbus_mp.errors.UsageError: {text}", error), ended.stderr


@NO_GEVENT
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_work_under_gevent_is_refused(tmp_path: Path, run_dir: Path, case: str) -> None:
    is_refused(tmp_path, run_dir, *REFUSED[case])


@NO_EVENTLET
@pytest.mark.parametrize("case", REFUSED_EVENTLET)
def test_eventlet_is_refused(tmp_path: Path, run_dir: Path, case: str) -> None:
    is_refused(tmp_path, run_dir, *REFUSED_EVENTLET[case])
