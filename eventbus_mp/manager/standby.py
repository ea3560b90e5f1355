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
from eventbus_mp.manager.signals import ignore_end_signals, restore_signals

__all__ = ["Standby"]


class Standby:
    """The newest standby, and those before it that are not seen dead yet, as the manager holds them.

    The lifeline is a pipe on which nothing is ever written. The standby reads from it, and the manager holds the end to
    write on. So the read ends when the manager is gone, however it died. It works only while no other process has that
    end: a new standby closes its copy of the lifeline of the one before, before it sleeps.

    Several standbys can wake at once: the manager may die just after it has made a new one and before it has killed
    the one before. `Journal.successor_pid` says which of them takes over; the others leave.

    Args:
        journal: The one that manager and standby share.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lifeline = -1
        """The end to write on, of the newest standby's lifeline."""
        self._pids: dict[int, int] = {}
        """Every standby that is not seen dead yet, by its pidfd."""
        self.pidfd = -1
        """The newest one's: readable when it has died; -1: there is none."""

    @property
    def pid(self) -> int:
        """The newest one's; 0: there is none."""
        return self._pids.get(self.pidfd, 0)

    def fork(self, before_sleeping: Callable[[], None]) -> bool:
        """Make a new standby and dismiss the one before.

        Args:
            before_sleeping: Called in the new one, to let go of what only a manager that is awake may hold.

        Returns:
            False: this is still the manager. True: this is the new standby, the manager is dead, and this process
            takes over.

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
        # The new one is named before the one before is killed: at every moment there is one that takes over.
        self._journal.successor_pid = pid
        self.dismiss()
        self._lifeline, self.pidfd = lifeline, pidfd
        self._pids[pidfd] = pid
        return False

    def _sleep(self, wakes: int) -> None:
        """Wait for the manager's death. A standby that is not its successor ends here."""
        # These signals ask the manager to end. They may go to all processes of a group, and a standby that died of one
        # would be replaced.
        handlers = ignore_end_signals()
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
        restore_signals(handlers)

    def dismiss(self) -> None:
        """End the standby, if there is one: nobody takes over from now on. `reap` it when its pidfd is readable."""
        if self.pidfd >= 0:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.close(self._lifeline)
            self.pidfd = self._lifeline = -1

    def reap(self, pidfd: int) -> bool:
        """Collect one that has died. Returns whether it was the newest, so that there is none now."""
        os.waitpid(self._pids.pop(pidfd), 0)
        os.close(pidfd)
        needed = pidfd == self.pidfd
        if needed:
            os.close(self._lifeline)
            self.pidfd = self._lifeline = -1
        return needed

    def close(self) -> None:
        """End the standby and collect all that are left."""
        self.dismiss()
        for pidfd in list(self._pids):
            self.reap(pidfd)
