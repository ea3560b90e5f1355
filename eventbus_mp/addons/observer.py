"""A look at a bus that comes and goes: what the page and the metrics ask through. It starts no bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from eventbus_mp import BusClosed, BusConfig, EventBus, ManagerLost, UsageError
from eventbus_mp.addons.checks import checked_config

__all__ = ["Observer"]

Answer = TypeVar("Answer")
WAITS = 3
"""A look waits at most for connecting, for being noted as one that only looks, and for the answer."""


class Observer:
    """Asks a bus that may not be running, may end, and may start again, without a part in its life.

    It connects when it is first asked and stays connected. It may be used by several threads, and after a fork.

    Args:
        bus: The bus's name, or a handle of it, of which only the name and the settings are used.
        config: The settings; None: those of the handle, or from `EVENTBUS_MP_*` variables.
        timeout_s: How long a look takes at most, in seconds.
    """

    def __init__(self, bus: str | EventBus, *, config: BusConfig | None = None, timeout_s: float = 1.0) -> None:
        if not isinstance(bus, (str, EventBus)):
            raise UsageError(f"bus={bus!r:.80} is a {type(bus).__name__}; give the name of a bus, or a handle of it")
        self.name = EventBus(bus).name if isinstance(bus, str) else bus.name
        if config is None:
            config = BusConfig.from_environment() if isinstance(bus, str) else bus.config
        checked_config(config)
        wait_s = timeout_s / WAITS
        self._config = replace(config, connect_timeout_s=wait_s, request_timeout_s=wait_s, reconnect=False, topics=())
        self._handles: dict[str, EventBus] = {}
        """The handle by the bus's name, or nothing: what is one step in a dictionary needs no lock."""

    def ask(self, question: Callable[[EventBus], Answer]) -> Answer:
        """The answer of the bus. Blocks for `timeout_s` at most, and for twice as long if the bus was lost meanwhile.

        Raises:
            NoSuchBus: The bus is not running.
            ManagerLost: Its manager does not answer.
            EventBusError: As the question does.
        """
        bus = self._handles.get(self.name)
        if bus is not None:
            try:
                return question(bus)
            except (ManagerLost, BusClosed):
                self._forget(bus)  # There may be a new one.
        bus = self._connected()
        try:
            return question(bus)
        except ManagerLost:
            self._forget(bus)
            raise

    def close(self) -> None:
        """Leave the bus; the next question connects again."""
        bus = self._handles.pop(self.name, None)
        if bus is not None:
            bus.close()

    def _connected(self) -> EventBus:
        new = EventBus.attach(self.name, config=self._config)
        kept = self._handles.setdefault(self.name, new)
        if kept is not new:
            new.close()  # Another thread was faster.
        return kept

    def _forget(self, bus: EventBus) -> None:
        if self._handles.get(self.name) is bus:
            self._handles.pop(self.name, None)
        bus.close()
