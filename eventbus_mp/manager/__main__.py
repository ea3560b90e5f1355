"""The manager's process: `eventbus_mp.manager ROOT BUS READY_FD`, run by `runtime/launcher`.

The bus-wide settings come as msgpack on standard input. `runtime/launch.py` starts it; it is not a command for users.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
import sys
import traceback

import msgpack

from eventbus_mp.config import BusConfig
from eventbus_mp.manager.server import Server
from eventbus_mp.manager.signals import reset_signals
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import Claim, RunDir

LOCK_TIMEOUT_S = 15.0
"""How long to wait for a manager of the same bus that is about to leave."""
CLAIM_TIMEOUT_S = 2.0
"""The same, for one whose lock was removed."""


def main() -> int:
    """Be the manager of a bus until it is over. Returns the exit code."""
    reset_signals()
    root, bus, ready_fd = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = BusConfig(**msgpack.unpackb(sys.stdin.buffer.read()))
    # The process that was started ends here, so that the manager is not the child of the process that started it.
    if os.fork():
        os._exit(0)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    run_dir = RunDir(root, bus)
    lock = run_dir.manager_lock(LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except TimeoutError:
        sys.stderr.write(f"another manager of bus {bus!r} is running and does not answer\n")
        return 1
    home = run_dir.open()
    # First the link: one that leads nowhere while the lock is held says that the manager has another /dev/shm.
    run_dir.socket.unlink(missing_ok=True)
    run_dir.remove_segments()
    claim = run_dir.claim_segments()
    if not claim.is_alone(run_dir.segment_prefix, CLAIM_TIMEOUT_S):
        # It lost its lock file, as to somebody who tidies up, and cannot be seen by it.
        claim.release()
        sys.stderr.write(f"another manager of bus {bus!r} lives, although its lock was removed\n")
        return 1
    serves = False
    try:
        with _listen(run_dir, claim) as listener:
            server = Server(claim.prefix, config, listener)
            if _is_heard(ready_fd):
                _keep_the_collector_away()
                _allow_many_descriptors()
                serves = True
                server.run()
            if run_dir.is_still(home):
                run_dir.socket.unlink(missing_ok=True)
    except Exception:
        if serves:
            # The standby goes on, and needs all that would be cleaned up here.
            traceback.print_exc()
            os._exit(1)
        raise
    finally:
        claim.release()
    if run_dir.is_still(home):  # If somebody has removed it, another manager may live in the one that is there now.
        run_dir.remove_files()
    lock.release()
    return 0


def _listen(run_dir: RunDir, claim: Claim) -> socket.socket:
    """The bus's socket, beside its memory, with a link to it in the run directory."""
    try:
        listener = handshake.listen(claim.socket)
    except OSError:  # There is no room for a name there. Then the bus is found as long as its run directory is.
        return handshake.listen(run_dir.socket)
    run_dir.socket.symlink_to(claim.socket)
    return listener


def _is_heard(ready_fd: int) -> bool:
    """Tell the process that started this one that it is ready. False: that one is dead, or waits no more.

    Then this manager leaves. The next process may have started another one by now, which waits for our lock; and one
    that has just connected here connects again.
    """
    try:
        os.write(ready_fd, handshake.READY)
    except BrokenPipeError:
        return False
    finally:
        os.close(ready_fd)
    return True


def _keep_the_collector_away() -> None:
    """Do without the collector: it would walk a million objects for a million unsettled events, and find no cycles."""
    gc.disable()
    gc.freeze()  # The end of the process would collect as well.


def _allow_many_descriptors() -> None:
    """Raise the soft limit to the hard one: at three a process, the usual 1,024 would do for 340 processes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
