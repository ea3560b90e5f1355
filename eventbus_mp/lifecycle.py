"""What this process does when it has been forked, and when it ends: registered here, run in one written order.

    a forked child        IDS, then FILE_LOCKS, then SESSIONS       `ForkStage`
    the end               POOLS, then SESSIONS                      `ExitStage`

Python runs fork hooks in the order of their registration, which is the order in which modules happen to be imported,
and runs exit hooks in the reverse of it. A part of the bus that has to know which hook comes first therefore registers
with a stage, and this is the only module that registers with Python itself.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from typing import Any

__all__ = [
    "ExitStage",
    "ForkStage",
    "after_fork_in_child",
    "at_exit",
    "cancel_at_exit",
    "imports_program",
    "run_exit_hooks_in_child",
]

Hook = Callable[[], None]

PACKAGES = ("multiprocessing", "multiprocess")
"""The packages whose children end without `atexit`. They are looked at only if the program has imported them."""


class ForkStage(IntEnum):
    """What a forked child does, in this order: a later stage may use what an earlier one has put right."""

    IDS = 1
    """Ids that the parent does not make as well."""
    FILE_LOCKS = 2
    """Close the copies of locked files, which would keep the locks of a parent that is killed."""
    SESSIONS = 3
    """Give up the parent's pipes and memory. From here on a handle may connect, which needs the two above."""


class ExitStage(IntEnum):
    """What a process does at its end, in this order."""

    POOLS = 1
    """Stop the workers while the bus that they return their deliveries to is still there."""
    SESSIONS = 2
    """Leave the bus. To the manager it would be a crash otherwise, and every unsettled event would be suspect."""


_fork_hooks: dict[ForkStage, list[Hook]] = {stage: [] for stage in ForkStage}
_exit_hooks: dict[ExitStage, list[Hook]] = {stage: [] for stage in ExitStage}
_ready_pid = 0
"""The child of multiprocessing in which `run_exit_hooks_in_child` has done its work; 0: it has not."""


def after_fork_in_child(stage: ForkStage, hook: Hook) -> None:
    """Call `hook` in every child that this process forks, before the child's own code runs; never blocks.

    If a hook raises, the others run all the same, and Python reports the error of the last one on standard error, with
    those before it as its context.
    """
    _fork_hooks[stage].append(hook)


def at_exit(stage: ExitStage, hook: Hook) -> None:
    """Call `hook` when this process ends, even if it is a child of multiprocessing; never blocks.

    Within a stage, what was registered last runs first. A hook must be harmless when there is nothing left to end: it
    may run twice, and a forked child has a copy of it although what it ends is the parent's.
    """
    _exit_hooks[stage].append(hook)
    # Python runs last what was registered first. So a stage counts from its newest hook: workers that were started
    # after the program's own exit hooks were registered end before these run.
    atexit.unregister(_EXIT_RUNNERS[stage])
    atexit.register(_EXIT_RUNNERS[stage])
    run_exit_hooks_in_child()


def cancel_at_exit(hook: Hook) -> None:
    """Do not call `hook` at the end any more; does nothing if it is not registered."""
    for hooks in _exit_hooks.values():
        if hook in hooks:
            hooks.remove(hook)


def run_exit_hooks_in_child() -> None:
    """Have the exit hooks run if this process is a child of multiprocessing, or of multiprocess; never blocks.

    Such a child ends with `os._exit`, and forgets at its start what its parent had registered for the end. What opens
    something that a hook has to close therefore calls this in the process that opens it.
    """
    global _ready_pid
    if _ready_pid == os.getpid():
        return
    for package in PACKAGES:
        process, util = sys.modules.get(f"{package}.process"), sys.modules.get(f"{package}.util")
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, _EXIT_RUNNERS[ExitStage.SESSIONS], exitpriority=0)
            # Not before: a child that still imports its program does not know its parent yet.
            _ready_pid = os.getpid()


def imports_program() -> bool:
    """Whether this is a child of multiprocessing, or its fork server, that is only importing the program again."""
    modules = [sys.modules.get(f"{package}.process") for package in PACKAGES]
    return any(getattr(module.current_process(), "_inheriting", False) for module in modules if module is not None)


def _run_fork_hooks() -> None:
    _run_all(iter([hook for stage in ForkStage for hook in _fork_hooks[stage]]))


def _run_exit_hooks(last_stage: ExitStage) -> None:
    """Run the hooks of every stage up to and including `last_stage`."""
    _run_all(iter([hook for stage in ExitStage if stage <= last_stage for hook in reversed(_exit_hooks[stage])]))


def _run_all(hooks: Iterator[Hook]) -> None:
    """Run every hook, even if one before it raises; several errors are chained by their contexts."""
    for hook in hooks:
        try:
            hook()
        finally:
            _run_all(hooks)


_EXIT_RUNNERS: dict[ExitStage, Callable[[], Any]] = {stage: partial(_run_exit_hooks, stage) for stage in ExitStage}

os.register_at_fork(after_in_child=_run_fork_hooks)
