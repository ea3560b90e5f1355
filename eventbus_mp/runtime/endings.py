"""The end of a manager, which is not a child of the process that waits for it."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator

__all__ = ["manager_end"]


@contextlib.contextmanager
def manager_end(pid: int) -> Iterator[Callable[[float], bool]]:
    """Watch the manager's process. Gives a function that waits for its end, up to the seconds that it is given."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield lambda timeout_s: True
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        yield lambda timeout_s: bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(pidfd)
