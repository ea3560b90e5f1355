"""What the kernel says of a process."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_ns", "private_bytes", "voluntary_switches", "waited_ns"]


def cpu_ns(pid: int) -> int:
    """The time that its living threads have computed; exact, where `/proc/<pid>/stat` counts hundredths of a second."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def waited_ns(pid: int) -> int:
    """The time that its living threads could have computed, and others had the cores."""
    return sum(int(path.read_text().split()[1]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def private_bytes(pid: int) -> int:
    """Memory that it and its children have for themselves; shared memory, where payloads lie, does not count.

    A manager has a forked copy of itself that stands by: pages that the two still share count once.
    """
    return sum(_anonymous_bytes(each) for each in (pid, *_children(pid)))


def voluntary_switches(pid: int) -> int:
    """How often it has gone to sleep."""
    return _status(pid, "voluntary_ctxt_switches")


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _anonymous_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # A copy that was just replaced by a newer one.
    for line in rollup.splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise KeyError(f"the kernel does not tell Pss_Anon of process {pid}")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise KeyError(f"the kernel does not tell {name} of process {pid}")
