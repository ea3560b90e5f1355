"""Which Python runs the manager, and how it finds this package: whatever program this process is.

The manager is a plain interpreter, which has its own standard library first. It gets the packages that it needs by
their places (launcher/run_manager.py), and nothing else of this process's path. So what lies beside them, where a
package may be called as a module of the standard library, does not come before that.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from eventbus_mp.errors import ManagerLost

__all__ = ["is_frozen", "manager_command", "manager_environment", "manager_packages"]

_LAUNCHER = Path(__file__).absolute().parent / "launcher"
_NEEDED = ("eventbus_mp", "msgpack", "filelock")
_IS_PYTHON = re.compile(r"(python|pypy)[\d.]*[a-z]?(-dbg)?")
_MEANT_FOR_PROGRAMS = ("PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONBREAKPOINT")
"""Variables that would have the manager wait for somebody who types, or end of a warning."""


def manager_command(bus: str) -> list[str]:
    """The command that runs the manager, up to its arguments.

    Raises:
        ManagerLost: There is no Python to run it with.
    """
    return [_python(bus), "-m", "run_manager", "eventbus_mp.manager"]


def is_frozen() -> bool:
    """Whether this program was made into an executable that is not a Python: it cannot start one of itself."""
    return bool(getattr(sys, "frozen", False))


def manager_environment() -> dict[str, str]:
    """The environment of the manager: ours, without what is meant for the program."""
    kept = {name: value for name, value in os.environ.items() if name not in _MEANT_FOR_PROGRAMS}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [str(_LAUNCHER), kept.get("PYTHONPATH")]))}


def manager_packages() -> bytes:
    """What is sent first to the manager's process: where the packages are that it needs."""
    return json.dumps(_places()).encode() + b"\n"


def _python(bus: str) -> str:
    """A Python of this version. `sys.executable` is none where Python is embedded, as in uWSGI, or is empty."""
    if is_frozen() or PathFinder.find_spec("run_manager", [str(_LAUNCHER)]) is None:
        raise ManagerLost(
            f"this program is frozen, as by PyInstaller: it has no Python to run the manager of bus {bus!r} with. "
            f"Start the bus before it (eventbus-mp serve {bus}), from a Python that has the same version of eventbus_mp"
        )
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise ManagerLost(
        f"no Python was found to run the manager of bus {bus!r} with: sys.executable is {sys.executable!r}, and there "
        f"is none in {sys.prefix}/bin; set sys.executable to one, or start the bus first (eventbus-mp serve {bus})"
    )


def _candidates() -> Iterator[Path]:
    names = [f"python{sys.version_info[0]}.{sys.version_info[1]}", f"python{sys.version_info[0]}", "python"]
    given = [Path(path) for path in (sys.executable, getattr(sys, "_base_executable", None)) if path]
    yield from given[:1] if given and _IS_PYTHON.fullmatch(given[0].name) else ()
    # In a virtual environment any of the names is its Python; elsewhere they may be other versions.
    if sys.prefix != sys.base_prefix:
        yield from (Path(sys.prefix, "bin", name) for name in names)
    folders = (f"{sys.prefix}/bin", f"{sys.exec_prefix}/bin", sysconfig.get_config_var("BINDIR"))
    yield from (Path(folder, names[0]) for folder in dict.fromkeys(folders) if folder)
    yield from (path for path in given[1:] if _IS_PYTHON.fullmatch(path.name))


def _places() -> dict[str, str]:
    """Where the packages lie that the manager needs, as this process finds them."""
    places = {}
    for name in _NEEDED:
        module = sys.modules.get(name)
        spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            places[name] = str(Path(spec.origin).parent.parent.absolute())
    return places
