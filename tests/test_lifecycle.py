"""Hooks of forks and of the end: their order, and that nothing else registers with Python."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventbus_mp
from eventbus_mp import lifecycle
from eventbus_mp.lifecycle import ExitStage, ForkStage

PACKAGE = Path(eventbus_mp.__file__).parent


def test_the_written_order() -> None:
    assert list(ForkStage) == [ForkStage.IDS, ForkStage.FILE_LOCKS, ForkStage.SESSIONS, ForkStage.WORKERS]
    assert list(ExitStage) == [ExitStage.POOLS, ExitStage.SESSIONS]


@pytest.mark.parametrize("statement", ["from eventbus_mp import WorkerPool", "from eventbus_mp import *"])
def test_each_stage_has_its_hooks_whatever_is_imported_first(statement: str) -> None:
    code = f"""
        import eventbus_mp.client.sessions
        {statement}
        from eventbus_mp import lifecycle
        for stage, hooks in [*lifecycle._fork_hooks.items(), *lifecycle._exit_hooks.items()]:
            print(stage.name, *(f"{{hook.__module__}}.{{hook.__name__}}" for hook in hooks))
    """
    assert run(code).splitlines() == [
        "IDS eventbus_mp.ids._after_fork",
        "FILE_LOCKS eventbus_mp.runtime.filelocks._close_in_child",
        "SESSIONS eventbus_mp.client.sessions._abandon_all",
        "WORKERS eventbus_mp.worker.process._close_in_child",
        "POOLS",
        "SESSIONS eventbus_mp.client.sessions._close_all",
    ]


def test_a_forked_child_runs_the_stages_in_their_order() -> None:
    code = """
        import os
        from eventbus_mp.lifecycle import ForkStage, after_fork_in_child
        for stage in reversed(ForkStage):
            after_fork_in_child(stage, lambda stage=stage: print(stage.name, flush=True))
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        print("parent")
    """
    assert run(code).split() == ["IDS", "FILE_LOCKS", "SESSIONS", "WORKERS", "parent"]


def test_a_hook_that_raises_keeps_no_other_one_from_running(
    monkeypatch: pytest.MonkeyPatch, fork: Callable[..., Any]
) -> None:
    ran: list[str] = []

    def fail() -> None:
        raise ValueError("the first hook")

    monkeypatch.setitem(lifecycle._fork_hooks, ForkStage.IDS, [fail, *lifecycle._fork_hooks[ForkStage.IDS]])
    monkeypatch.setitem(lifecycle._fork_hooks, ForkStage.SESSIONS, [lambda: ran.append("last")])
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: errors.append(unraisable.exc_value))
    child = fork(lambda to_parent: to_parent.send((ran, [str(error) for error in errors])))
    assert child.hear() == (["last"], ["the first hook"])
    assert child.wait() == 0
    assert (ran, errors) == ([], [])


EXIT_HOOKS = """
    import atexit, os, sys
    from functools import partial
    from eventbus_mp.lifecycle import ExitStage, at_exit, cancel_at_exit, run_exit_hooks_in_child

    def work():
        at_exit(ExitStage.SESSIONS, partial(print, "session 1", flush=True))
        at_exit(ExitStage.POOLS, partial(print, "pool 1", flush=True))
        cancelled = partial(print, "cancelled", flush=True)
        at_exit(ExitStage.POOLS, cancelled)
        cancel_at_exit(cancelled)
        cancel_at_exit(cancelled)
        at_exit(ExitStage.POOLS, partial(print, "pool 2", flush=True))
        at_exit(ExitStage.SESSIONS, partial(print, "session 2", flush=True))
"""
IN_ORDER = ["pool 2", "pool 1", "session 2", "session 1"]


def test_the_end_of_a_program_runs_the_stages_in_their_order() -> None:
    lines = run(EXIT_HOOKS + "\n    work()").splitlines()
    assert lines[:4] == IN_ORDER


@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_the_end_of_a_child_of_multiprocessing_does_so_too(package: str, start_method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(EXIT_HOOKS)
        + textwrap.dedent(f"""
            if __name__ == "__main__":
                from {package} import get_context
                child = get_context({start_method!r}).Process(target=work)
                child.start()
                child.join()
        """)
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[:4] == IN_ORDER


def test_a_users_exit_hook_still_has_the_bus(run_dir: Path) -> None:
    """Registered after the import and before the pool starts: it runs after the pool and before the session ends."""
    code = f"""
        import atexit
        from eventbus_mp import Event, EventBus, WorkerPool
        if __name__ == "__main__":
            bus = EventBus("test", ["a"], run_dir={str(run_dir)!r}, manager_idle_s=0)
            pool = WorkerPool(bus, 1)
            pool.on("a", name="one")(lambda event: None)
            atexit.register(lambda: print(pool.pids, bus.topics()))
            pool.start()
    """
    program = run_dir.parent / "program.py"
    program.write_text(textwrap.dedent(code))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[] ['a']\n", "")


def test_nothing_else_registers_with_python() -> None:
    """But for the addons: they import public names only, and let go of what is theirs alone, in any order."""
    offenders = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "lifecycle.py" and PACKAGE / "addons" not in path.parents
        for line in registrations(path.read_text())
    ]
    assert offenders == []
    assert len(list(registrations((PACKAGE / "lifecycle.py").read_text()))) >= 3


@pytest.mark.parametrize(
    "source",
    [
        "import atexit",
        "from atexit import register",
        "import os\nos.register_at_fork(after_in_child=print)",
        "from os import register_at_fork",
        "def f(util):\n    util.Finalize(None, print)",
        "from multiprocessing.util import Finalize",
    ],
)
def test_what_registers_with_python(source: str) -> None:
    assert len(list(registrations(source))) == 1


def registrations(source: str) -> Iterator[int]:
    """The lines that import `atexit`, or name `register_at_fork` or multiprocessing's `Finalize`."""
    names = {"register_at_fork", "Finalize"}
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases) if any(alias.name == "atexit" for alias in aliases):
                yield node.lineno
            case ast.ImportFrom(module=module, names=aliases):
                if module == "atexit" or any(alias.name in names for alias in aliases):
                    yield node.lineno
            case ast.Attribute(attr=attribute) if attribute in names:
                yield node.lineno


def run(code: str) -> str:
    """What a program of its own prints."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
