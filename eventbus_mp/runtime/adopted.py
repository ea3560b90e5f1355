"""Managers that this process has adopted: it collects them when they have ended.

A manager is nobody's child, so the kernel gives it to the nearest process that adopts orphans: process 1, or one that
has asked for that (PR_SET_CHILD_SUBREAPER). An init system collects whatever ends. A program that is process 1 of its
container does not, and would keep a zombie of each manager and of each standby that has taken over.
"""

from __future__ import annotations

import logging
import os
import select
from functools import partial

from eventbus_mp.background import BackgroundThread
from eventbus_mp.runtime.procfs import command_of, parent_of

__all__ = ["collect_when_adopted"]

log = logging.getLogger("eventbus_mp")

_collected: set[tuple[int, int]] = set()
"""This process, and the process group of a manager that it collects: a manager and its standbys are one."""


def collect_when_adopted(manager_pid: int) -> None:
    """If that manager is a child of this process, collect it and those that take over from it, in the background.

    Never blocks. In any other process it reads one file of /proc.
    """
    if parent_of(manager_pid) != os.getpid() or "eventbus_mp.manager" not in command_of(manager_pid):
        return
    try:
        group = os.getpgid(manager_pid)
    except ProcessLookupError:  # It has ended, and the program has collected it.
        return
    key = os.getpid(), group
    if key in _collected:
        return
    _collected.add(key)
    try:
        BackgroundThread(partial(_collect, key), "eventbus_mp-adopted").start()
    except RuntimeError as error:
        _collected.discard(key)
        log.warning("manager %d will stay as a zombie of this process: %s", manager_pid, error)


def _collect(key: tuple[int, int]) -> None:
    _, group = key
    while _reap(group):
        _await_an_end(group)
    _collected.discard(key)


def _reap(group: int) -> bool:
    """Collect the children of this group that have ended; whether a living one is left."""
    pid = -1
    while pid:
        try:
            pid, _ = os.waitpid(-group, os.WNOHANG)
        except ChildProcessError:
            return False
    return True


def _await_an_end(group: int) -> None:
    """Block until one of this process's children of the group has ended."""
    # By poll and not in `waitpid`, which would stop a program that has made its threads cooperative (gevent).
    ends = select.poll()
    pidfds: list[int] = []
    try:
        for pid in _children(group):
            pidfds.append(os.pidfd_open(pid))
            ends.register(pidfds[-1], select.POLLIN)
        if pidfds:
            ends.poll()
    except ProcessLookupError:
        pass  # It has ended.
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _children(group: int) -> list[int]:
    """This process's children of that group, and not theirs."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            if os.getpgid(pid) == group and parent_of(pid) == os.getpid():
                found.append(pid)
        except ProcessLookupError:
            continue
    return found
