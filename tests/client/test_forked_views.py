"""A view never shows other bytes, even in a child that was forked."""

import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus, lifecycle
from eventbus_mp.lifecycle import ForkStage
from tests.client.views import SHOWN, Others, Show, content_of, event_of, taken


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_in_a_forked_child(others: Others, bus: EventBus, fork: Callable[..., Any], show: Show, settled: bool) -> None:
    held = [show(taken(others, bus, settled=settled))]

    def work(to_parent: Any) -> None:
        to_parent.send("here")
        to_parent.recv()
        to_parent.send(content_of(held[0]))

    child = fork(work)
    assert child.hear() == "here"
    assert content_of(held[0]) == content_of(show(event_of(1))), "the parent's is what it was"
    held.clear()
    gc.collect()
    bus.close()
    others.bus.unsubscribe("viewer")
    others.overwrite()
    child.tell()
    assert child.hear() == content_of(show(event_of(1)))
    assert child.wait() == 0


def test_the_parent_may_let_go_before_the_child_does_anything(
    others: Others, bus: EventBus, fork: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is held up before the bus's own hooks, until the parent's view is gone and its memory reused."""
    held = [taken(others, bus)]
    wanted = content_of(held[0])
    go_on, told = os.pipe()
    hooks = [lambda: os.read(go_on, 1), *lifecycle._fork_hooks[ForkStage.IDS]]
    with monkeypatch.context() as patch:
        patch.setitem(lifecycle._fork_hooks, ForkStage.IDS, hooks)
        child = fork(lambda to_parent: to_parent.send(content_of(held[0])))
    held.clear()
    gc.collect()
    bus.drain(timeout_s=20)  # The manager hears that the parent's view is gone.
    others.overwrite()
    os.write(told, b".")
    assert child.hear() == wanted
    assert child.wait() == 0
    os.close(go_on)
    os.close(told)


def test_in_a_child_of_a_child_and_of_multiprocessing(others: Others, bus: EventBus, fork: Callable[..., Any]) -> None:
    held = [taken(others, bus)]
    context = multiprocessing.get_context("fork")

    def work(to_parent: Any) -> None:
        to_parent.send("here")
        to_parent.recv()
        queue = context.SimpleQueue()
        process = context.Process(target=lambda: queue.put(content_of(held[0])))
        process.start()
        to_parent.send(queue.get())
        process.join()

    child = fork(work)
    assert child.hear() == "here"
    wanted = content_of(held[0])
    held.clear()
    gc.collect()
    bus.close()
    others.bus.unsubscribe("viewer")
    others.overwrite()
    child.tell()
    assert child.hear() == wanted
    assert child.wait() == 0


def test_a_child_that_uses_the_bus_itself(others: Others, bus: EventBus, fork: Callable[..., Any]) -> None:
    """Its own connection maps the same memory once more, and does not disturb what it has inherited."""
    held = [taken(others, bus)]
    wanted = content_of(held[0])

    def work(to_parent: Any) -> None:
        inbox = bus.inbox("of the child", ["a"])
        to_parent.send("here")
        shadow = inbox.get(20)
        assert shadow is not None
        own = bus.fetch_event(shadow)
        assert own is not None
        inbox.complete(shadow)
        bus.close()
        to_parent.send("left")
        to_parent.recv()
        to_parent.send((content_of(held[0]), content_of(own)))

    child = fork(work)
    assert child.hear() == "here"
    others.bus.notify(event_of(2))
    assert child.hear() == "left"
    held.clear()
    bus.close()
    for name in ("viewer", "of the child"):
        others.bus.unsubscribe(name)
    others.overwrite()
    child.tell()
    assert child.hear() == (wanted, content_of(event_of(2)))
    assert child.wait() == 0


def test_the_parent_goes_on_after_forks(others: Others, bus: EventBus, fork: Callable[..., Any]) -> None:
    """Its own views stay in place: they keep no copy, and what is read and written beside them is shared."""
    event = taken(others, bus)
    for _ in range(3):
        assert fork(lambda to_parent: content_of(event)).wait() == 0
    inbox = bus.inbox("viewer", ["a"], credit=10)
    for number in range(2, 6):
        bus.notify(event_of(number))
        shadow = inbox.get(20)
        assert shadow is not None
        found = bus.fetch_event(shadow)
        assert found is not None
        assert content_of(found) == content_of(event_of(number))
        inbox.complete(shadow)
    assert content_of(event) == content_of(event_of(1))


def test_threads_that_fork_at_once(run_dir: Path) -> None:
    """In a program of its own, for filelock 4 refuses that where another test has imported it, from Python 3.12 on."""
    code = """
        import os, sys, threading
        from functools import partial
        from eventbus_mp import EventBus
        from tests.client.views import Others, content_of, taken

        make_bus = partial(EventBus, "test", run_dir=sys.argv[1])
        others, bus = Others(make_bus), make_bus()
        held = [taken(others, bus)]
        wanted = content_of(held[0])
        told, tell = os.pipe()
        children = []
        together = threading.Barrier(4)

        def fork():
            together.wait()
            pid = os.fork()
            if pid:
                children.append(pid)
                return
            code = 1
            try:
                os.read(told, 1)
                code = 0 if content_of(held[0]) == wanted else 2
            finally:
                os._exit(code)

        threads = [threading.Thread(target=fork) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        held.clear()
        bus.close()
        others.bus.unsubscribe("viewer")
        others.overwrite()
        os.write(tell, b"....")
        print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
        others.bus.shutdown()
    """
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), str(run_dir)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 0, 0, 0]\n", "")
