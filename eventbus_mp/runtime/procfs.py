"""What /proc says of other processes."""

from __future__ import annotations

__all__ = ["command_of", "parent_of"]

COMMAND_LENGTH_MAX = 1_000


def command_of(pid: int) -> str:
    """The command line of a process, shortened; empty if there is none to read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4 * COMMAND_LENGTH_MAX).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace")[:COMMAND_LENGTH_MAX]


def parent_of(pid: int) -> int:
    """The pid of a process's parent; 0 if there is none to read, or it is of another pid namespace."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])  # Its name, in brackets, may have spaces in it.
    except OSError:
        return 0
