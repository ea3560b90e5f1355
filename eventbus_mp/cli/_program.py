"""What `doctor` looks at in this Python and in its variables."""

from __future__ import annotations

import difflib
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import fields

from eventbus_mp import __version__
from eventbus_mp.cli._finding import Finding, fine, problem, warning
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import UsageError

__all__ = ["msgpack_build", "program_findings", "python_build", "start_methods", "variables"]

PREFIX = "EVENTBUS_MP_"


def program_findings() -> Iterator[Finding]:
    """All of them."""
    yield python_build()
    yield msgpack_build()
    yield start_methods()
    yield from variables(os.environ)


def python_build() -> Finding:
    """Whether this interpreter is one that the bus is made for."""
    version = f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}"
    subject, text = "Python", f"{version}, eventbus-mp {__version__}"
    if platform.python_implementation() != "CPython":
        return problem(subject, f"{text}: the bus is made for CPython", "use CPython 3.10 or later")
    if sys.maxsize < 1 << 32:
        return problem(subject, f"{text}, 32 bits: memory of a bus may not fit", "use a build of 64 bits")
    if not hasattr(os, "pidfd_open"):
        return problem(
            subject,
            f"{text}, built without pidfd_open: the end of processes cannot be seen",
            "use a build against Linux 5.3 or later",
        )
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return warning(subject, f"{text}, free-threaded, with which the bus is not tested", "use the default build")
    if sysconfig.get_config_var("Py_DEBUG"):
        return warning(subject, f"{text}, a debug build, which is several times slower", "use a release build")
    return fine(subject, text)


def msgpack_build() -> Finding:
    """Whether msgpack has its C part."""
    import msgpack

    name = ".".join(map(str, msgpack.version))
    if msgpack.Packer.__module__ == "msgpack.fallback":
        return warning(
            "msgpack",
            f"{name} in pure Python: events take many times longer to encode",
            "pip install --force-reinstall msgpack, and unset MSGPACK_PUREPYTHON",
        )
    return fine("msgpack", f"{name}, with its C part")


def start_methods() -> Finding:
    """Which start method pools use, and what this system has."""
    import multiprocessing

    found = multiprocessing.get_all_start_methods()
    if "forkserver" not in found:
        return warning(
            "start method", f"this Python has only {', '.join(found)}", "give WorkerPool(start_method='spawn')"
        )
    return fine("start method", f"pools use forkserver unless told otherwise; there are {', '.join(sorted(found))}")


def variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The variables of this process that set the bus's settings, and those that were meant to."""
    known = {PREFIX + field.name.upper() for field in fields(BusConfig)}
    given = {name: value for name, value in sorted(environment.items()) if name.startswith(PREFIX)}
    for name in given.keys() - known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        yield warning("settings", f"there is no setting for {name}, so it does nothing", f"perhaps {near} is meant")
    try:
        BusConfig.from_environment(environment)
    except UsageError as error:
        yield problem("settings", str(error), "correct or unset it: no process can use a bus with it")
        return
    shown = ", ".join(f"{name}={given[name]}" for name in given if name in known)
    yield fine("settings", shown or f"no variable {PREFIX}... is set")
