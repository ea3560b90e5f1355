"""The program of a worker service: `package.module:pool`, and how it is found.

The service itself never imports it. A process that is made for that imports it once, and says what it found
(`describe`); then each worker imports it. So a worker that is started later has the code that is there then.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import sys
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import multiprocess
import multiprocess.connection

from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import EventBusError, UsageError
from eventbus_mp.lifecycle import importing_program
from eventbus_mp.worker.leaving import disregard
from eventbus_mp.worker.pool import WorkerPool
from eventbus_mp.worker.service_log import ServiceLog, set_up_logging
from eventbus_mp.worker.worker import WorkerTask, failure_text

__all__ = ["Description", "Program", "describe"]

TARGET = re.compile(r"(\w+(?:\.\w+)*)(?::(\w+(?:\.\w+)*))?")
KNOWN_MAX = 10


@dataclass(frozen=True)
class Program:
    """Where the pool is; it is sent to the workers, which get their task from it."""

    target: str
    """`package.module:pool`, or `package.module` if that has one pool."""
    directory: str
    """The first place where modules are looked for."""
    buses: tuple[str, ...] = ()
    """Only pools of these buses are meant; none: of any."""
    log_level: int = logging.INFO

    def task(self) -> WorkerTask:
        """The task of a worker: in its process.

        Raises:
            UsageError: The program is not there, or its import failed.
        """
        disregard(signal.SIGHUP)  # A closed terminal sends it to all; it means the service.
        task = self.pool()._task()
        set_up_logging(self.log_level)
        if self.log_level <= logging.INFO:
            task.instruments += (ServiceLog(),)
        return task

    def pool(self) -> WorkerPool:
        """Import the program, and find its pool.

        Raises:
            UsageError: There is none; or the import, or the function that makes it, raised: with the traceback.
        """
        matched = TARGET.fullmatch(self.target)
        if matched is None or matched[1].endswith(".py"):
            file = self.target.partition(".py")[0].strip("./").replace("/", ".")
            hint = f"; for this file, {file}:pool" if ".py" in self.target else ""
            raise UsageError(f"{self.target!r} names no pool: give package.module:pool{hint}")
        if self.directory not in sys.path:
            sys.path.insert(0, self.directory)
        with importing_program():
            module = self._imported(matched[1])
            pool = self._made(module, matched[2]) if matched[2] else self._only_pool(module)
        return self._checked(pool)

    def _imported(self, name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                raise UsageError(
                    f"there is no module {error.name!r} in {self.directory} or elsewhere on the path: run the command "
                    "in the directory that has it, or name that with --directory"
                ) from error
            raise _failed(f"the import of {name}") from error
        except BaseException as error:  # A program may do anything, `sys.exit()` as well.
            raise _failed(f"the import of {name}") from error

    def _made(self, module: ModuleType, attribute: str) -> WorkerPool:
        found: Any = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise UsageError(f"{module.__name__} has no {attribute!r}; {_known(module)}")
            found = getattr(found, part)
        if isinstance(found, FunctionType):
            try:
                found = found()
            except BaseException as error:
                raise _failed(f"{self.target}()") from error
            what = f"{self.target}() returned {found!r:.80}"
        else:
            what = f"{self.target} is {found!r:.80}"
        if not isinstance(found, WorkerPool):
            raise UsageError(f"{what}, which is not a WorkerPool; {_known(module)}")
        return found

    def _only_pool(self, module: ModuleType) -> WorkerPool:
        pools = {id(pool): pool for pool in _pools(module).values() if not self.buses or pool.bus.name in self.buses}
        if len(pools) == 1:
            return next(iter(pools.values()))
        of = f" of bus {' or '.join(self.buses)}" if self.buses else ""
        raise UsageError(f"{module.__name__} has {len(pools)} pools{of}, which has to be one; {_known(module)}")

    def _checked(self, pool: WorkerPool) -> WorkerPool:
        if pool.is_running:
            pool.stop()
            raise UsageError(
                f"{self.target} runs already when the module is imported; start it under `if __name__ == '__main__':`, "
                "which is not run here"
            )
        if self.buses and pool.bus.name not in self.buses:
            raise UsageError(f"{self.target} is a pool of bus {pool.bus.name!r}, and --bus names {self.buses}")
        if not pool.specs:
            raise UsageError(f"{self.target} has no handler: decorate functions with @pool.on in its module")
        return pool


def _pools(module: ModuleType) -> dict[str, WorkerPool]:
    return {name: value for name, value in vars(module).items() if isinstance(value, WorkerPool)}


def _known(module: ModuleType) -> str:
    """What could have been meant."""
    names = [f"{module.__name__}:{name} (bus {pool.bus.name})" for name, pool in _pools(module).items()]
    if not names:
        return f"{module.__file__} has no WorkerPool at its top level"
    return f"it has {', '.join(names[:KNOWN_MAX])}"


def _failed(what: str) -> UsageError:
    return UsageError(f"{what} raised:\n{failure_text()}")


# --- a look at it from another process ---


@dataclass(frozen=True)
class Description:
    """What the service has to know of its program."""

    bus: EventBus
    processes: int
    start_method: str
    handlers: tuple[tuple[str, tuple[str, ...], float | None], ...]
    """(name, patterns, time limit) of each."""


def describe(program: Program, stop_fd: int) -> Description | None:
    """Import the program in a process that ends then; None: `stop_fd` was readable first. Blocks meanwhile.

    Raises:
        UsageError: There is no pool, or the import failed.
        EventBusError: The process died.
    """
    context = multiprocess.get_context("forkserver")
    answer, says = context.Pipe(duplex=False)
    process = context.Process(target=_describe, args=(program, says), daemon=False)
    try:
        with says:
            process.start()
        if answer not in multiprocess.connection.wait([answer, stop_fd]):
            process.kill()
            return None
        found: Description | str = answer.recv()
    except EOFError as cause:
        process.join()
        raise EventBusError(f"{program.target}: the process that imported it died: {process.exitcode}") from cause
    finally:
        answer.close()
        if process.pid is not None:
            process.join()
            process.close()
    if isinstance(found, str):
        raise UsageError(found)
    return found


def _describe(program: Program, says: Any) -> None:
    """In that process."""
    try:
        pool = program.pool()
        handlers = tuple((spec.key.name, spec.patterns, spec.time_limit_s) for spec in pool.specs)
        said: Description | str = Description(pool.bus, pool.processes, pool.start_method, handlers)
    except UsageError as error:
        said = str(error)
    says.send(said)
    says.close()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(0)  # Threads and children that the import has started are of no use.
