"""The first module of a manager's process: `python -m run_manager eventbus_mp.manager ROOT BUS READY_FD`.

It finds the packages that the manager needs by their places, which come as a line of JSON on standard input. What lies
beside them, in a `site-packages` where a package may be called as a module of the standard library, does not come into
the process's path. (Their directories in PYTHONPATH would come before the standard library.)
"""

import gc
import json
import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

__all__ = ["Places", "main"]


class Places:
    """Finds each of these packages in its own directory."""

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As importlib asks for it."""
        return PathFinder.find_spec(name, [self._places[name]]) if name in self._places else None


def main() -> None:
    """Go on as the module that the first argument names."""
    places = sys.stdin.buffer.readline()
    if not places:
        return  # The process that started us is dead, and has not said anything.
    gc.disable()  # A manager does without it, and its imports leave next to nothing to collect.
    sys.meta_path.insert(0, Places(json.loads(places)))
    # The working directory, and the one of this module.
    sys.path[:] = [folder for folder in sys.path if folder and folder != __file__.rpartition("/")[0]]
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
