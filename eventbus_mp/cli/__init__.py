"""The command line: `eventbus-mp status` and its siblings.

Each module of this folder whose name has no underscore in front is a command of that name. To add one, add a file:

    def add_parser(commands: Commands) -> argparse.ArgumentParser:   make the command's parser, and return it
    def run(options: argparse.Namespace) -> int:                     run the command, and return its exit code

Every module here is imported to make the parser, so a command imports what takes long where it uses it.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from eventbus_mp import __version__
from eventbus_mp.cli._completion import answer_shell
from eventbus_mp.cli._exits import Exit, exit_of
from eventbus_mp.cli._text import complain
from eventbus_mp.errors import EventBusError

__all__ = ["Commands", "main"]

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code, one of `Exit`.

    Args:
        arguments: What was typed after `eventbus-mp`; None: `sys.argv`.

    Raises:
        SystemExit: The arguments are wrong, or ask for help or the version, which was printed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name may have letters that the terminal's encoding has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        parser = _parser()
        answer_shell(parser)
        options = parser.parse_args(arguments)
        code = int(options.run(options))
        if sys.stdout is not None:  # It was closed before this process began.
            sys.stdout.flush()
    except EventBusError as error:
        complain(str(error))
        return exit_of(error)
    except KeyboardInterrupt:
        complain("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _let_go_of_output()
        return Exit.PIPE_CLOSED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        complain(f"the output cannot be written: {error.strerror}")
        _let_go_of_output()
        return Exit.FAILED
    return code


def _let_go_of_output() -> None:
    """Nobody reads it. The interpreter would try once more to write the rest, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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
