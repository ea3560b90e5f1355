"""Each example, and the one in README.md, runs as it is, says what it should, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from eventbus_mp import EventBus
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime.rundir import RunDir
from tests.helpers import until

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

TIMEOUT_S = 60
LEAVE_TIMEOUT_S = 30
EXAMPLE_LINES_MAX = 75
SHORT_WAIT = {"EVENTBUS_MP_MANAGER_IDLE_S": "0.2"}  # An example that leaves its bus to itself leaves a manager.
README_EXAMPLE_LINES_MAX = 20
FIRST_SCREEN_COMMANDS = ("pip install '.[cli]' && eventbus-mp demo", "pip install '.[test]' && pytest")

SQUARES = {f"{number} squared is {number**2}" for number in range(10)}
BATCH_TOTAL = sum(number % 7 * 30 for number in range(20_000))
Expected = list[str | re.Pattern[str]] | set[str]
"""The lines that are printed; a set where their order is open, a pattern where a line is."""
EXPECTED: dict[str, tuple[str, Expected]] = {
    "quickstart": ("quickstart", SQUARES),
    "journal": (
        "example-journal",
        [
            "refused: NoSubscriber",
            "3 events are stored",
            "3 order_paid 3 {'amount': 30}",
            "2 order_paid 2 {'amount': 20}",
            "1 order_paid 1 {'amount': 10}",
        ],
    ),
    "receipts": ("example-receipts", {"row 1 is billed", "row 2 is skipped", "row 3 is billed"}),
    "outbox": (
        "example-outbox",
        [
            "order 2 is rolled back",
            "order 1 is billed: 10",
            "order 3 is billed: 30",
            "0 events are left in the outbox",
        ],
    ),
    "pool": (
        "example-pool",
        [
            "2262 primes from 2 to 20001",
            "20 ranges completed, 2 skipped:",
            "  10 to 1 is empty",
            "  its process crashed 2 times with it",
        ],
    ),
    "pipeline": (
        "example-pipeline",
        [
            "order-0: apples cost 1.20",
            "order-1: pears cost 1.10",
            "order-2: parser rejected 'a lot of plums'",
            "order-3: figs cost 2.50",
            "order-4: melon cost 2.90",
        ],
    ),
    "batch": (
        "example-batch",
        [
            "19800 done, 200 failed",
            "item 7 at price: LookupError: no price yet",
            "200 sent again, 0 failed",
            f"20000 results, {BATCH_TOTAL} in all",
        ],
    ),
    "prefork": (
        "example-prefork",
        [*["a worker has new settings: level=debug"] * 3, "30 of 30 jobs were done by 3 processes"],
    ),
    "asyncio_app": ("example-aio", ["settled by 1 subscriber", "all bills: 272"]),
    "inbox_asyncio": ("example-asyncio", ["collected [0, 1, 2, 3, 4]", "the loop went on meanwhile: True"]),
    "arrays": (
        "example-arrays",
        [
            "frame-1: (480, 640, 3) uint8, writeable: False",
            "face-1: (100, 100, 3) of frame-1, mean 255",
            "settled, and still readable: 25500, for its memory is leased: True",
        ],
    ),
    "audit_shadow": (
        "example-audit",
        [
            "notified order_paid 124",
            "completed by __main__.audit {'region': 'eu'}",
            "skipped by __main__.audit {'region': 'us'}",
            "waits for archive None",
            "watcher when all have settled: None",
            "event when all have settled: None",
            re.compile("story: notified by process [0-9]+"),
            *[re.compile("story: (sent to|completed by|skipped by) .*")] * 5,
            "story: completed by archive",
            "story: settled",
        ],
    ),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_leaves_nothing(example: Path, tmp_path: Path) -> None:
    bus, expected = EXPECTED[example.stem]
    run_and_compare(example, bus, expected, tmp_path / "run")


def test_the_batch_survives_its_workers_and_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    """Killed workers lose no item; what Ctrl-C left out, the next run does, and nothing is in the results twice."""
    results, run_dir = tmp_path / "results", tmp_path / "run"
    command = [sys.executable, str(ROOT / "examples" / "batch.py"), str(results)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=environment(run_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_until(there_is: Callable[[], T]) -> T:
        def look() -> T:
            assert first.poll() is None, first.communicate()
            return there_is()

        return until(look, TIMEOUT_S)

    def wait_for_results(count: int) -> None:
        wait_until(lambda: results.exists() and len(results.read_text().splitlines()) >= count)

    first = start()
    try:
        for count in (1_000, 3_000, 5_000):
            wait_for_results(count)
            with EventBus.attach("example-batch", run_dir=str(run_dir)) as bus:
                # There may be none just then: the one that was killed before this has no successor yet.
                workers = wait_until(lambda: [one.pid for one in bus.snapshot().processes if one.role == "worker"])
            os.kill(workers[0], signal.SIGKILL)
        wait_for_results(8_000)
        first.send_signal(signal.SIGINT)
        said = first.communicate(timeout=TIMEOUT_S)
        assert "stopped; the next run does what is missing" in said[1]
        assert first.returncode == 1
        second = start()
        said = second.communicate(timeout=TIMEOUT_S)
        assert f"20000 results, {BATCH_TOTAL} in all" in said[0], said
        written = [json.loads(line)[0] for line in results.read_text().splitlines()]
        assert sorted(written) == list(range(20_000))
    finally:
        first.kill()
        first.communicate()
        wait_until_nothing_is_left("example-batch", run_dir)


def test_readme_example_runs_when_pasted_into_a_file(tmp_path: Path) -> None:
    pasted = tmp_path / "pasted.py"
    pasted.write_text(readme_example())
    run_and_compare(pasted, "quickstart", SQUARES, tmp_path / "run")


def test_readme_example_is_the_quickstart_and_short() -> None:
    quickstart = (ROOT / "examples" / "quickstart.py").read_text()
    assert quickstart.partition('"""\n\n')[2] == readme_example()
    assert len(readme_example().splitlines()) <= README_EXAMPLE_LINES_MAX


def test_readme_shows_the_two_commands_first_and_each_on_its_own_line() -> None:
    first_block = next(code_blocks(""))
    assert tuple(first_block.splitlines()) == FIRST_SCREEN_COMMANDS


def test_every_python_block_of_readme_compiles() -> None:
    for block in code_blocks("python"):
        compile(block, "README.md", "exec")


def test_every_example_is_expected_and_short() -> None:
    assert {example.stem for example in EXAMPLES} == set(EXPECTED)
    for example in EXAMPLES:
        assert len(example.read_text().splitlines()) < EXAMPLE_LINES_MAX, example.name


def code_blocks(language: str) -> Iterator[str]:
    """The fenced blocks of README.md in this language, in order."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S):
        if found[1] == language:
            yield found[2]


def readme_example() -> str:
    return next(code_blocks("python"))


def run_and_compare(script: Path, bus: str, expected: Expected, run_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=script.parent,
        env=environment(run_dir),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    try:
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        lines = done.stdout.splitlines()
        if isinstance(expected, set):
            assert set(lines) == expected
        else:
            assert len(lines) == len(expected), done.stdout
            assert [pair for pair in zip(lines, expected, strict=True) if not is_like(*pair)] == []
    finally:
        wait_until_nothing_is_left(bus, run_dir)


def is_like(line: str, expected: str | re.Pattern[str]) -> bool:
    return line == expected if isinstance(expected, str) else expected.fullmatch(line) is not None


def wait_until_nothing_is_left(bus: str, run_dir: Path) -> None:
    """The manager leaves a moment after the example; then no process, segment or file of it may be there."""
    until(lambda: not leftovers(bus, run_dir), LEAVE_TIMEOUT_S, lambda: f"left behind: {leftovers(bus, run_dir)}")


def leftovers(bus: str, run_dir: Path) -> list[str]:
    return [
        *(f"process {pid}" for pid in processes_of(run_dir)),
        *SHARED_MEMORY.leftovers(RunDir(run_dir, bus).segment_prefix),
        *(str(path) for path in run_dir.glob("*")),
    ]


def processes_of(run_dir: Path) -> Iterator[int]:
    """Every process that an example started: it has the example's environment."""
    mark = f"EVENTBUS_MP_RUN_DIR={run_dir}\0".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in file.read_bytes():
                yield int(file.parent.name)
        except OSError:
            continue  # It has gone meanwhile, or belongs to somebody else.


def environment(run_dir: Path) -> dict[str, str]:
    """Ours with a run directory of its own, no other setting of the bus but a short wait, and an importable package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_MP_")}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "EVENTBUS_MP_RUN_DIR": str(run_dir), **SHORT_WAIT}
