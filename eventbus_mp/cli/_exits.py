"""Exit codes of all commands, for scripts. docs/reference/command-line.md has them as a table."""

from __future__ import annotations

from enum import IntEnum

from eventbus_mp.errors import EventBusError, NoSuchBus, UnknownTopic, UsageError, WaitTimeout

__all__ = ["Exit", "exit_of"]


class Exit(IntEnum):
    """What a command returns."""

    DONE = 0
    FAILED = 1
    """An error of the bus; or `doctor` has found something, or `demo --check` a difference."""
    USAGE = 2
    """Wrong arguments."""
    NO_BUS = 3
    """The bus is not running."""
    NOT_FOUND = 4
    """The bus has no such topic, event or dead letter, or nobody is subscribed to what was to be published."""
    TIMED_OUT = 5
    """`--timeout` is over."""
    INTERRUPTED = 130
    """Ctrl-C, in a command that does not run until Ctrl-C."""
    PIPE_CLOSED = 141
    """The reader of the output has gone, as `head` does: what a program that SIGPIPE ends has in a shell."""


_OF_ERRORS = (
    (NoSuchBus, Exit.NO_BUS),
    (UnknownTopic, Exit.NOT_FOUND),
    (WaitTimeout, Exit.TIMED_OUT),
    (UsageError, Exit.USAGE),
)


def exit_of(error: EventBusError) -> Exit:
    """The exit code of a command that ends with this error."""
    return next((code for kind, code in _OF_ERRORS if isinstance(error, kind)), Exit.FAILED)
