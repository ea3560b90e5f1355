"""How the commands find the buses of this user. None of it starts a manager."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import NoSuchBus
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import default_root

__all__ = ["joined_bus", "run_root", "running_bus", "running_names"]


def run_root(options: argparse.Namespace) -> Path:
    """The directory that has a directory for each bus."""
    named = options.run_dir or os.environ.get("EVENTBUS_MP_RUN_DIR")
    return Path(named) if named else default_root()


def running_names(root: Path) -> list[str]:
    """The buses that run below `root`."""
    return sorted(path.name for path in root.glob("*") if _answers(path / "socket")) if root.is_dir() else []


def running_bus(options: argparse.Namespace, **settings: Any) -> EventBus:
    """A handle that looks at the bus that `options.bus` names.

    Raises:
        NoSuchBus: It is not running.
    """
    return _found(EventBus.attach, options, settings)


def joined_bus(options: argparse.Namespace) -> EventBus:
    """A handle that publishes and subscribes on the bus that `options.bus` names. It does not outlive that bus.

    Raises:
        NoSuchBus: It is not running.
    """
    # That nobody is subscribed, or that the bus has ended, a command says itself.
    logging.getLogger("eventbus_mp").setLevel(logging.ERROR)
    return _found(EventBus._joined, options, {"reconnect": False})


def _found(connect: Callable[..., EventBus], options: argparse.Namespace, settings: dict[str, Any]) -> EventBus:
    root = run_root(options)
    try:
        return connect(options.bus, run_dir=str(root), **settings)
    except NoSuchBus as cause:
        names = running_names(root)
        others = f"there is {', '.join(names)}" if names else "there is none at all; --run-dir says where to look"
        raise NoSuchBus(f"no bus {options.bus!r} is running below {root}; {others}") from cause


def _answers(address: Path) -> bool:
    """Whether a manager listens there: a manager that was killed leaves its socket behind."""
    try:
        handshake.connect(address, 1.0).close()
    except OSError:
        return False
    return True
