"""The command line: `eventbus-mp demo`, `status`, `clean`.

Each module of this folder whose name has no underscore in front is a command of that name. To add one, add a file:

    def add_parser(commands: Commands) -> argparse.ArgumentParser:   make the command's parser, and return it
    def run(options: argparse.Namespace) -> int:                     run the command, and return its exit code

Every module here is imported to make the parser, so a command imports what takes long where it uses it.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from eventbus_mp import __version__
from eventbus_mp.errors import EventBusError

__all__ = ["Commands", "main"]

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code: 0, 1 if it failed, 2 for wrong arguments, 130 after Ctrl-C.

    Args:
        arguments: What was typed after `eventbus-mp`; None: `sys.argv`.

    Raises:
        SystemExit: The arguments are wrong, or ask for help or the version, which was printed.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except EventBusError as error:
        print(f"eventbus-mp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("eventbus-mp: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="eventbus-mp", description="An event bus for many processes on one machine.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name in _command_names():
        module = importlib.import_module(f"{__name__}.{name}")
        module.add_parser(commands).set_defaults(run=module.run)
    return parser


def _command_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
