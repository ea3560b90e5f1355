"""The command line: `eventbus-mp demo`, `status`, `clean`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eventbus_mp.client.bus import EventBus
from eventbus_mp.demo import pipeline
from eventbus_mp.demo.measure import python_files
from eventbus_mp.demo.totals import STEPS, DemoResult
from eventbus_mp.errors import EventBusError
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import clean_all, clean_homeless, default_root

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except EventBusError as error:
        print(f"eventbus-mp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("eventbus-mp: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eventbus-mp", description="An event bus for many processes on one machine.")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="measure a tree of Python files on a pool of workers")
    demo.set_defaults(command=_demo)
    demo.add_argument("path", nargs="?", type=Path, help="the tree (default: this Python's standard library)")
    demo.add_argument("--processes", type=_count, metavar="N", help="workers (default: one a CPU); 0: a loop, no bus")
    demo.add_argument("--kill", action="store_true", help="kill a worker in mid-run; the totals must not change")
    demo.add_argument("--check", action="store_true", help="compare with the loop, and exit 1 on any difference")
    demo.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    demo.add_argument("--no-baseline", action="store_true", help="do not run the loop to tell the speed-up")

    status = commands.add_parser("status", help="show a running bus")
    status.set_defaults(command=_status)
    status.add_argument("bus", nargs="?", help="its name; without one, the buses there are")
    status.add_argument("--run-dir", help="where the buses are (default: as EVENTBUS_MP_RUN_DIR or the system says)")

    clean = commands.add_parser("clean", help="remove what killed buses left behind")
    clean.set_defaults(command=_clean)
    clean.add_argument("--run-dir", help="where the buses are (default: as EVENTBUS_MP_RUN_DIR or the system says)")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{count} is below 0")
    return count


# --- demo ---


def _demo(options: argparse.Namespace) -> int:
    root = options.path or Path(sysconfig.get_paths()["stdlib"])
    if not root.is_dir():
        print(f"eventbus-mp: {root} is not a directory; name one with Python files in it", file=sys.stderr)
        return 2
    files = list(python_files(root))
    if not files:
        print(f"eventbus-mp: no .py file below {root}", file=sys.stderr)
        return 2
    processes = len(os.sched_getaffinity(0)) if options.processes is None else options.processes
    result = _run(root, files, processes, options)
    differences: list[str] = []
    if processes and (options.check or not options.no_baseline):
        plain = _run(root, files, 0, options)
        result = replace(result, baseline_seconds=plain.seconds)
        differences = plain.totals.differences(result.totals) if options.check else []
    _show(result, options)
    for difference in differences:
        print(f"difference: {difference}", file=sys.stderr)
    if options.check and processes and not options.json:
        print("check: the loop without the bus finds " + ("something else" if differences else "exactly the same"))
    return 1 if differences else 0


def _run(root: Path, files: list[Path], processes: int, options: argparse.Namespace) -> DemoResult:
    unit = "results on the bus" if processes else "results without it"
    with _progress(len(STEPS) * len(files), unit, options) as progress:
        if not processes:
            return pipeline.run_in_loop(root, files, progress.update)
        on_kill = (lambda pid: progress.note(f"killed worker {pid}")) if options.kill else None
        return pipeline.run_on_bus(root, files, processes, progress.update, on_kill)


def _progress(total: int, unit: str, options: argparse.Namespace) -> Any:
    if options.json:
        return _Silent()
    # Imports rich, which --json does without.
    from eventbus_mp.demo import report

    return report.progress(total, unit=unit)


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing was shown."""

    def update(self, done: int) -> None:
        """Not shown."""

    def note(self, text: str) -> None:
        """Not shown."""


def _show(result: DemoResult, options: argparse.Namespace) -> None:
    if options.json:
        print(result.as_json())
        return
    from eventbus_mp.demo import report

    report.render(result)


# --- status and clean ---


def _run_root(options: argparse.Namespace) -> Path:
    named = options.run_dir or os.environ.get("EVENTBUS_MP_RUN_DIR")
    return Path(named) if named else default_root()


def _answers(address: Path) -> bool:
    """Whether a manager listens there: a killed one leaves its socket."""
    try:
        handshake.connect(address, 1.0).close()
    except OSError:
        return False
    return True


def _status(options: argparse.Namespace) -> int:
    root = _run_root(options)
    running = sorted(path.name for path in root.glob("*") if _answers(path / "socket")) if root.is_dir() else []
    if options.bus is None:
        print("\n".join(running) if running else f"no bus is running below {root}")
        return 0
    if options.bus not in running:
        print(f"eventbus-mp: no bus {options.bus!r} is running below {root}", file=sys.stderr)
        return 1
    with EventBus(options.bus, run_dir=str(root)) as bus:
        print(json.dumps(asdict(bus.statistics()), indent=2, default=str))
    return 0


def _clean(options: argparse.Namespace) -> int:
    for bus, removed in clean_all(_run_root(options)).items():
        if removed is None:
            print(f"{bus}: running, left alone")
        else:
            print(f"{bus}: removed, with {len(removed)} segments of shared memory")
    homeless = clean_homeless()
    if homeless:
        print(f"removed {len(homeless)} segments of shared memory of buses whose directory is elsewhere, or gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
