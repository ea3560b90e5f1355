"""What this process does when it has been forked, and when it ends: registered here, run in one written order.

    a forked child        IDS, FILE_LOCKS, SESSIONS, then WORKERS   `ForkStage`
    the end               POOLS, then SESSIONS                      `ExitStage`

Python runs fork hooks in the order of their registration, which is the order in which modules happen to be imported,
and runs exit hooks in the reverse of it. A part of the bus that has to know which hook comes first therefore registers
with a stage, and this is the only module that registers with Python itself.
"""

from __future__ import annotations

import atexit
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from types import FrameType
from typing import Any, NoReturn

__all__ = [
    "FORK_MARK",
    "ExitStage",
    "ForkStage",
    "after_fork_in_child",
    "around_fork",
    "at_exit",
    "before_os_exit",
    "cancel_at_exit",
    "importing_program",
    "imports_program",
    "is_multiprocessing_child",
    "notice_fork",
    "run_exit_hooks_in_child",
]

Hook = Callable[[], None]

_MADV_WIPEONFORK = 18
"""From linux/mman.h; `mmap` does not name it."""

PACKAGES = ("multiprocessing", "multiprocess", "billiard")
"""The packages whose children end without `atexit`. They are looked at only if the program has imported them."""


class ForkStage(IntEnum):
    """What a forked child does, in this order: a later stage may use what an earlier one has put right."""

    IDS = 1
    """Ids that the parent does not make as well."""
    FILE_LOCKS = 2
    """Close the copies of locked files, which would keep the locks of a parent that is killed."""
    SESSIONS = 3
    """Give up the parent's pipes and memory. From here on a handle may connect, which needs the two above."""
    WORKERS = 4
    """Give up the parent's workers; and what makes the parent a worker, if it is one."""


class ExitStage(IntEnum):
    """What a process does at its end, in this order."""

    POOLS = 1
    """Stop the workers while the bus that they return their deliveries to is still there."""
    SESSIONS = 2
    """Leave the bus. To the manager it would be a crash otherwise, and every unsettled event would be suspect."""


_fork_hooks: dict[ForkStage, list[Hook]] = {stage: [] for stage in ForkStage}
_before_fork: list[Hook] = []
_after_fork_in_parent: list[Hook] = []
_exit_hooks: dict[ExitStage, list[Hook]] = {stage: [] for stage in ExitStage}
_os_exit = os._exit
_os_exit_hooks: list[Hook] = []
_ready_pid = 0
"""The child of multiprocessing in which `run_exit_hooks_in_child` has done its work; 0: it has not."""


def after_fork_in_child(stage: ForkStage, hook: Hook) -> None:
    """Call `hook` in every child that this process forks, before the child's own code runs; never blocks.

    If a hook raises, the others run all the same, and Python reports the error of the last one on standard error, with
    those before it as its context.
    """
    _fork_hooks[stage].append(hook)


def around_fork(before: Hook, in_parent: Hook) -> None:
    """Call `before` in the thread that forks, before it does, and `in_parent` afterwards; neither blocks."""
    _before_fork.append(before)
    _after_fork_in_parent.append(in_parent)


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
        if process is not None and util is not None and _is_child(process):
            util.Finalize(None, _EXIT_RUNNERS[ExitStage.SESSIONS], exitpriority=0)
            # Not before: a child that still imports its program does not know its parent yet.
            _ready_pid = os.getpid()


def _is_child(process: Any) -> bool:
    """Whether this process is a child of the package with this `process` module."""
    parent = getattr(process, "parent_process", None)  # billiard has none
    return (parent() if parent is not None else process.current_process()._parent_pid) is not None


_importing: list[bool] = []
"""One element for each `importing_program` that is open."""


@contextmanager
def importing_program() -> Iterator[None]:
    """Meanwhile the program is only imported: a process of a worker service looks for its pool."""
    _importing.append(True)
    try:
        yield
    finally:
        _importing.pop()


def imports_program() -> bool:
    """Whether this is a child of multiprocessing that is only importing the program again, or its fork server, which
    imports for its children; or a process of a worker service that does."""
    modules = [sys.modules.get(f"{package}.process") for package in PACKAGES]
    if _importing:
        return True
    inherits = any(getattr(module.current_process(), "_inheriting", False) for module in modules if module is not None)
    return inherits or _is_fork_server()


def is_multiprocessing_child() -> bool:
    """Whether multiprocessing made this process, to call a function of the program in it."""
    modules = [sys.modules.get(f"{package}.process") for package in PACKAGES]
    parents = [getattr(module, "parent_process", None) for module in modules]
    return any(parent is not None and parent() is not None for parent in parents)


def _is_fork_server() -> bool:
    """By a look at the stack: only there is it told from the children that it forks."""
    servers = [sys.modules.get(f"{package}.forkserver") for package in PACKAGES]
    serving = {getattr(getattr(server, "main", None), "__code__", None) for server in servers}
    forked = {getattr(getattr(server, "_serve_one", None), "__code__", None) for server in servers}
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in forked:
            return False
        if frame.f_code in serving:
            return True
        frame = frame.f_back
    return False


def before_os_exit(hook: Hook) -> None:
    """Call `hook` when this process ends by `os._exit(0)`, as children of several packages do when all went well.

    That call runs nothing of Python's own, so it is replaced by one that does this first. A hook must not wait for
    anything that may not come: `os._exit` is what programs resort to.
    """
    _os_exit_hooks[:] = [hook]
    os._exit = _exit_in_order


def _exit_in_order(status: int) -> NoReturn:
    """`os._exit`."""
    try:
        if status == 0 and FORK_MARK[0]:  # else: a child behind Python's back, and all is its parent's
            for hook in _os_exit_hooks:
                hook()
    finally:
        _os_exit(status)


class _PidMark:
    """As `FORK_MARK` where the kernel wipes no memory for a child."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int) -> int:
        return self._pid == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


def _make_fork_mark() -> mmap.mmap | _PidMark:
    mark = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        mark.madvise(_MADV_WIPEONFORK)
    except OSError:  # Before Linux 4.14.
        mark.close()
        return _PidMark()
    mark[0] = 1
    return mark


FORK_MARK = _make_fork_mark()
"""Its first item is 1, and 0 in a child that was forked behind Python's back, as uWSGI forks its workers: then no hook
has run there. The kernel wipes this memory for every child. A look costs 30 ns, and `os.getpid` twice that."""


def notice_fork() -> None:
    """Do what a forked child does, if this is one and has not done it. Called before a handle is used."""
    if not FORK_MARK[0]:
        _run_fork_hooks()


def _run_fork_hooks() -> None:
    FORK_MARK[0] = 1
    _run_all(iter([hook for stage in ForkStage for hook in _fork_hooks[stage]]))


def _run_before_fork() -> None:
    _run_all(iter(_before_fork))


def _run_after_fork_in_parent() -> None:
    _run_all(iter(_after_fork_in_parent))


def _run_exit_hooks(last_stage: ExitStage) -> None:
    """Run the hooks of every stage up to and including `last_stage`."""
    notice_fork()  # What there is to end may be the parent's.
    _run_all(iter([hook for stage in ExitStage if stage <= last_stage for hook in reversed(_exit_hooks[stage])]))


def _run_all(hooks: Iterator[Hook]) -> None:
    """Run every hook, even if one before it raises; several errors are chained by their contexts."""
    for hook in hooks:
        try:
            hook()
        finally:
            _run_all(hooks)


_EXIT_RUNNERS: dict[ExitStage, Callable[[], Any]] = {stage: partial(_run_exit_hooks, stage) for stage in ExitStage}

os.register_at_fork(before=_run_before_fork, after_in_parent=_run_after_fork_in_parent, after_in_child=_run_fork_hooks)
