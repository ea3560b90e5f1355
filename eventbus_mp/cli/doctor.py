"""`eventbus-mp doctor`: what is wrong on this machine, or soon may be, and what to do about it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json, add_run_dir
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import run_root
from eventbus_mp.cli._text import on_one_line, print_json

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.cli._finding import Finding

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("doctor", help="say what is wrong on this machine, and what to do")
    add_json(parser)
    add_run_dir(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Look at everything; the exit code is 1 if there is a problem or a warning."""
    from eventbus_mp.cli._buses import bus_findings
    from eventbus_mp.cli._machine import machine_findings
    from eventbus_mp.cli._program import program_findings

    findings = [*machine_findings(), *program_findings(), *bus_findings(run_root(options))]
    if options.json:
        print_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            print("\n".join(_lines(finding)))
    return Exit.FAILED if any(finding.level != "ok" for finding in findings) else Exit.DONE


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.level:<8} {on_one_line(finding.subject)}: {on_one_line(finding.text)}"]
    return [*lines, f"         -> {on_one_line(finding.advice)}"] if finding.advice else lines
