"""The work of a CPU-bound handler."""

import time

__all__ = ["burn"]


def burn(task_ns: int) -> None:
    """Compute for so long. It is CPU time that counts: who is kept waiting for a core does not work less."""
    until_ns = time.thread_time_ns() + task_ns
    while time.thread_time_ns() < until_ns:
        pass
