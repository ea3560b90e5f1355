"""Connecting: what is there afterwards when it fails, and which bus a handle is connected to."""

import contextlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus, EventBusError
from eventbus_mp.runtime.rundir import RunDir
from tests.faults.helpers import await_links

Make = Callable[..., EventBus]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("left", range(8))
def test_too_few_descriptors_to_connect(make_bus: Make, run_dir: Path, left: int) -> None:
    """Whatever step fails, what the ones before it have opened is closed, and the manager keeps no link for us."""
    bus, other = make_bus(), EventBus("other", run_dir=str(run_dir), manager_idle_s=0)
    bus.topics()
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for fd in taken[:left]:
            os.close(fd)
        for handle in (make_bus(), other):
            with contextlib.suppress(EventBusError):
                handle.topics()
            handle.close()
    finally:
        for fd in taken[left:]:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() == before
    await_links(bus, 1)
    RunDir(run_dir, "other").clean()


def test_a_shadow_of_an_earlier_manager_finds_nothing(make_bus: Make) -> None:
    """The new bus's event lies in the same place, and has the same serial."""
    before = make_bus(topics=["a"])
    before.inbox("one", ["a"])
    old = before.notify(Event("1", "a", "old"))
    before.shutdown()
    after = make_bus(topics=["a"])
    inbox = after.inbox("one", ["a"])
    new = after.notify(Event("2", "a", "new"))
    assert old._place is not None
    assert new._place is not None
    assert old._place[:4] == new._place[:4]
    assert after.fetch_event(old) is None
    after.mark_as_completed(inbox, old)
    assert after.watcher(old) is None
    assert after.fetch_event_data(new) == "new"
    assert inbox.get(10) == new
