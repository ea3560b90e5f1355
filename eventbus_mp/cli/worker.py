"""`eventbus-mp worker`: run the workers of a program in the foreground, as a service."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus_mp import __version__
from eventbus_mp.cli._arguments import add_json, add_run_dir, at_least
from eventbus_mp.cli._text import print_json
from eventbus_mp.errors import UsageError

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.worker.program import Description

__all__ = ["add_parser", "run"]

LEVELS = ("debug", "info", "warning", "error")


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("worker", help="run a program's workers until SIGTERM or Ctrl-C")
    parser.add_argument(
        "target", help="package.module:pool, a WorkerPool or a function that returns one; or a module with one pool"
    )
    parser.add_argument("--processes", type=at_least(1), metavar="N", help="workers (default: as the pool says)")
    parser.add_argument("--bus", action="append", default=[], metavar="NAME", help="only a pool of it; may be repeated")
    parser.add_argument("--directory", default=".", metavar="DIR", help="where the module is (default: here)")
    parser.add_argument("--reload", action="store_true", help="restart workers when a source file changes")
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: info, a line for each event")
    parser.add_argument("--quiet", action="store_true", help="no banner, and nothing in the log below a warning")
    add_run_dir(parser)
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the service. Settings are taken from `EVENTBUS_MP_*` variables, where the program gives none."""
    from eventbus_mp.worker.program import Program
    from eventbus_mp.worker.service import Service
    from eventbus_mp.worker.service_log import set_up_logging

    level = logging.WARNING if options.quiet else getattr(logging, options.log_level.upper())
    set_up_logging(level)
    directory = str(Path(options.directory).resolve())
    if not os.path.isdir(directory):
        raise UsageError(f"--directory {options.directory!r} is not a directory; name the one that has the module")
    if options.run_dir:
        os.environ["EVENTBUS_MP_RUN_DIR"] = options.run_dir  # For the program, wherever it is imported.
    # The workers get this process's path.
    sys.path.insert(0, directory)
    program = Program(options.target, directory, tuple(options.bus), level)
    say = partial(_say, options)
    return Service(program, options.processes, say, directory if options.reload else None).run()


def _say(options: argparse.Namespace, described: Description, pids: list[int]) -> None:
    if options.quiet:
        return
    facts = {
        "version": __version__,
        "target": options.target,
        "pid": os.getpid(),
        "bus": described.bus.name,
        "manager_pid": described.bus.statistics().manager_pid,
        "start_method": described.start_method,
        "worker_pids": pids,
        "handlers": [
            {"name": name, "patterns": list(patterns), "time_limit_s": limit_s}
            for name, patterns, limit_s in described.handlers
        ],
    }
    if options.json:
        print_json(facts, line=True)
    else:
        print("\n".join(_banner(facts)), flush=True)


def _banner(facts: dict[str, Any]) -> Iterator[str]:
    yield f"eventbus-mp {facts['version']} worker {facts['target']}"
    yield f"  pid        {facts['pid']}"
    yield f"  bus        {facts['bus']}, manager {facts['manager_pid']}"
    pids = facts["worker_pids"]
    yield f"  processes  {len(pids)} by {facts['start_method']}: {', '.join(map(str, pids))}"
    head = "  handlers   "
    for handler in facts["handlers"]:
        limit_s = handler["time_limit_s"]
        limit = f", at most {limit_s:g} s" if limit_s is not None else ""
        yield f"{head}{handler['name']}: {' '.join(handler['patterns'])}{limit}"
        head = " " * len(head)
    yield "ready; TERM or Ctrl-C stops, HUP restarts with new code"
