"""`eventbus-mp completion`: what a shell has to evaluate to complete commands, options, buses and topics."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._completion import SHELLS, shell_code
from eventbus_mp.cli._exits import Exit

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("completion", help="print what a shell needs to complete names by tab")
    parser.add_argument("shell", choices=SHELLS)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print it; for bash: `eval "$(eventbus-mp completion bash)"`."""
    print(shell_code(options.shell))
    return Exit.DONE
