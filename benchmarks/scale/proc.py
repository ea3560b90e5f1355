"""What the kernel says of a process."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_ns", "private_bytes", "voluntary_switches"]


def cpu_ns(pid: int) -> int:
    """The time that its living threads have computed; exact, where `/proc/<pid>/stat` counts hundredths of a second."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def private_bytes(pid: int) -> int:
    """Resident memory that is its own: shared memory, where payloads lie, does not count."""
    return _status(pid, "RssAnon") * 1024


def voluntary_switches(pid: int) -> int:
    """How often it has gone to sleep."""
    return _status(pid, "voluntary_ctxt_switches")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise KeyError(f"the kernel does not tell {name} of process {pid}")
