"""Completion of live names by tab: the only module that imports argcomplete, an optional library.

The shell runs the command with variables that argcomplete reads, and what it prints are the words that fit. Nothing of
this does anything in a command that a user has typed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from eventbus_mp.cli._running import run_root, running_bus, running_names
from eventbus_mp.errors import EventBusError
from eventbus_mp.extras import not_installed

__all__ = ["answer_shell", "completes_buses", "completes_topics", "shell_code"]

ASKED_BY_SHELL = "_ARGCOMPLETE"
SHELLS = ("bash", "zsh", "fish")
CONNECT_TIMEOUT_S = 1.0
"""Somebody has pressed the tab key and waits."""


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """If a shell asks for words, print them and end the program.

    Raises:
        UsageError: The package argcomplete is not installed.
    """
    if ASKED_BY_SHELL not in os.environ:
        return
    _argcomplete().autocomplete(parser, always_complete_options="long")


def shell_code(shell: str) -> str:
    """What a shell has to evaluate for `eventbus-mp` to be completed."""
    return str(_argcomplete().shellcode(["eventbus-mp"], shell=shell))


def completes_buses(argument: argparse.Action) -> None:
    """The argument names a running bus."""
    _complete(argument, lambda options: running_names(run_root(options)))


def completes_topics(argument: argparse.Action) -> None:
    """The argument names a topic of the bus that was named before."""
    _complete(argument, _topics)


def _complete(argument: argparse.Action, words: Callable[[argparse.Namespace], list[str]]) -> None:
    def completer(parsed_args: argparse.Namespace, **others: Any) -> list[str]:
        return words(parsed_args)

    argument.completer = completer  # type: ignore[attr-defined]  # It is argcomplete's own attribute.


def _topics(options: argparse.Namespace) -> list[str]:
    try:
        with running_bus(options, connect_timeout_s=CONNECT_TIMEOUT_S, show_stacks=False) as bus:
            return bus.topics()
    except EventBusError:
        return []  # Between the words of a command line there is no place for an error.


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError as cause:
        raise not_installed("completion", "argcomplete", "cli") from cause
    return argcomplete
