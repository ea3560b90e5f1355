"""`eventbus-mp demo`: measure a tree of Python files on a pool of workers."""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus_mp.cli._arguments import at_least
from eventbus_mp.cli._beside import Beside
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._text import complain

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus_mp import EventBus
    from eventbus_mp.cli import Commands
    from eventbus_mp.demo.totals import DemoResult

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("demo", help="measure a tree of Python files on a pool of workers")
    parser.add_argument("path", nargs="?", type=Path, help="the tree (default: this Python's standard library)")
    parser.add_argument(
        "--processes", type=at_least(0), metavar="N", help="workers (default: one a CPU); 0: a loop, no bus"
    )
    parser.add_argument("--kill", action="store_true", help="kill a worker in mid-run; the totals must not change")
    parser.add_argument("--check", action="store_true", help="compare with the loop, and exit 1 on any difference")
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    parser.add_argument(
        "--trace", choices=["console"], help="print OpenTelemetry's spans of all processes on standard error"
    )
    parser.add_argument(
        "--journal", nargs="?", const="", metavar="URL", help="store every event and compare (no URL: a temporary file)"
    )
    parser.add_argument("--web", action="store_true", help="show the bus on a page while it runs")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the loop to show the speed-up")
    return parser


def run(options: argparse.Namespace) -> int:
    """Measure the tree on the bus, and in a plain loop unless that was refused; show the result."""
    from eventbus_mp.demo.measure import python_files

    root = options.path or Path(sysconfig.get_paths()["stdlib"])
    if not root.is_dir():
        complain(f"{root} is not a directory; name one with Python files in it")
        return Exit.USAGE
    files = list(python_files(root))
    if not files:
        complain(f"no .py file below {root}")
        return Exit.USAGE
    processes = len(os.sched_getaffinity(0)) if options.processes is None else options.processes
    if not processes and (options.journal is not None or options.web):
        complain("--journal and --web need a bus: give --processes 1 or more")
        return Exit.USAGE
    if options.trace:
        _show_spans()
    beside = Beside(options.journal, has_page=options.web)
    with beside.files():
        if processes:
            result = _on_bus(root, files, processes, options, beside)
            result = replace(result, journal=beside.check(result))
        else:
            result = _in_loop(root, files, options)
    differences: list[str] = []
    if processes and (options.check or not options.no_baseline):
        plain = _in_loop(root, files, options)
        result = replace(result, baseline_seconds=plain.seconds)
        differences = plain.totals.differences(result.totals) if options.check else []
    _show(result, options)
    for difference in differences:
        print(f"difference: {difference}", file=sys.stderr)
    if options.check and processes and not options.json:
        print("check: the loop without the bus finds " + ("something else" if differences else "exactly the same"))
    is_wrong = differences or (result.journal is not None and result.journal.differences)
    return Exit.FAILED if is_wrong else Exit.DONE


def _on_bus(root: Path, files: list[Path], processes: int, options: argparse.Namespace, beside: Beside) -> DemoResult:
    from eventbus_mp.demo import pipeline

    is_silent = options.json or options.trace
    with _progress(files, "results on the bus", options) as progress:
        return pipeline.run_on_bus(
            root,
            files,
            processes,
            progress.update,
            (lambda pid: progress.note(f"killed worker {pid}")) if options.kill else None,
            _trace if options.trace else None,
            partial(beside.running, complain if is_silent else progress.note),
        )


def _in_loop(root: Path, files: list[Path], options: argparse.Namespace) -> DemoResult:
    from eventbus_mp.demo import pipeline

    with _progress(files, "results without it", options) as progress:
        return pipeline.run_in_loop(root, files, progress.update)


def _show_spans() -> None:
    from eventbus_mp.addons.otel.console import show_spans

    show_spans()


def _trace(bus: EventBus) -> Callable[[], object]:
    """Have spans for what this process does; what a worker calls to show its own."""
    from eventbus_mp.addons.otel import instrument

    instrument(bus)
    return _show_spans


def _progress(files: list[Path], unit: str, options: argparse.Namespace) -> Any:
    if options.json or options.trace:
        return _Silent()
    # It imports rich, which --json does without.
    from eventbus_mp.demo import report
    from eventbus_mp.demo.totals import STEPS

    return report.progress(len(STEPS) * len(files), unit=unit)


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
