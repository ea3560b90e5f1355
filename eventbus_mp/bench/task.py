"""The work of a CPU-bound handler."""

import time

__all__ = ["burn"]


def burn(task_ns: int) -> None:
    """Compute for `task_ns` of CPU time: a process that has to wait for a core does no less work."""
    until_ns = time.thread_time_ns() + task_ns
    total = 0
    while time.thread_time_ns() < until_ns:
        total += 1
