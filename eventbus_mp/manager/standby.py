"""The standby: a forked copy of the manager, asleep, that goes on in its place when it dies.

A copy made by `fork` costs a millisecond or two and no format: it has every decision so far, and every pipe. What came
in since, it finds in the journal. The manager makes a new one when a process has connected (whose pipes the one before
does not have), when the journal is full, and when the one it has was killed.

Because it holds the pipes, a client does not see the manager's death as the end of a file: its next read just takes a
moment longer.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from eventbus_mp.manager.journal import Journal

__all__ = ["Standby"]


class Standby:
    """The manager's side of it.

    Args:
        journal: Which both share.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lifeline = -1
        """As long as this end of a pipe is open somewhere, the manager lives: only it has it."""
        self._pids: dict[int, int] = {}
        """Every one that is not seen dead yet, by its pidfd."""
        self.pidfd = -1
        """Of the standby: readable when it died; -1: there is none."""

    def fork(self, before_sleeping: Callable[[], None]) -> bool:
        """Make a new one and dismiss the one before. False: this is still the manager.

        True: this is the new one, the manager is dead, and it is the heir. It began with `before_sleeping`, to let go
        of what only a manager that is awake should hold.

        Raises:
            OSError: The kernel has no process or no descriptors for it; the one before is still there.
        """
        wakes, lifeline = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(wakes)
            os.close(lifeline)
            raise
        if not pid:
            os.close(lifeline)
            before_sleeping()
            self._sleep(wakes)
            return True
        os.close(wakes)  # Its number is free for what follows.
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # It is our child and not reaped: the number is its own.
            os.waitpid(pid, 0)
            os.close(lifeline)
            raise
        self._journal.successor_pid = pid
        self.dismiss()
        self._lifeline, self.pidfd = lifeline, pidfd
        self._pids[pidfd] = pid
        return False

    def _sleep(self, wakes: int) -> None:
        """Wait for the manager's death. Whoever is not the heir then ends here."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # The lifeline of the one before, and what watches those before, are the manager's, not ours.
        for fd in (self._lifeline, *self._pids):
            if fd >= 0:
                os.close(fd)
        self._lifeline = self.pidfd = -1
        self._pids.clear()
        os.read(wakes, 1)
        os.close(wakes)
        if self._journal.successor_pid != os.getpid():
            os._exit(0)

    def dismiss(self) -> None:
        """End the standby, if there is one: nobody takes over from now on. `reap` it when its pidfd is readable."""
        if self.pidfd >= 0:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.close(self._lifeline)
            self.pidfd = self._lifeline = -1

    def reap(self, pidfd: int) -> bool:
        """See one gone: whether it was the one that is needed."""
        os.waitpid(self._pids.pop(pidfd), 0)
        os.close(pidfd)
        needed = pidfd == self.pidfd
        if needed:
            os.close(self._lifeline)
            self.pidfd = self._lifeline = -1
        return needed

    def close(self) -> None:
        """End it and see it gone."""
        self.dismiss()
        for pidfd in list(self._pids):
            self.reap(pidfd)
