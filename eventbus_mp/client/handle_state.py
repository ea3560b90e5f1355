"""What a handle knows of its bus, whether threads (handle.py) or tasks (aio/handle.py) use it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from eventbus_mp.client import sessions
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.client.hooks import Hooks, InstrumentSource, check_instruments
from eventbus_mp.client.listeners import pack_config
from eventbus_mp.client.session import Session
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import UsageError
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.memory.registered import register_type
from eventbus_mp.runtime.rundir import RunDir
from eventbus_mp.statistics import SubscriberKey

__all__ = ["PAUSE_FIRST_S", "PAUSE_MAX_S", "HandleState", "LostBus"]

log = logging.getLogger("eventbus_mp")

Callback = TypeVar("Callback", bound=Callable[["LostBus"], object])
S = TypeVar("S", bound=Session)

PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 1.0
"""How long a handle that comes back by itself waits after an attempt in vain: twice as long each time."""


@dataclass(frozen=True, slots=True)
class LostBus:
    """A bus that was lost, as one handle knew it: see `EventBus.on_lost`."""

    name: str
    reason: str
    """What its calls raise, with the end of the manager's log."""
    was_shut_down: bool
    """Somebody has shut it down; otherwise its manager and its standby have died."""
    held: int
    """Deliveries that this process had and had not settled. They are lost with the bus, as all that waited."""
    subscribers: tuple[SubscriberKey, ...]
    """What this handle had subscribed, and subscribes again."""


class HandleState(Generic[S]):
    """A handle's settings, its session, what it has subscribed, and what it says of a loss.

    Args:
        name: The bus.
        config: This process's settings.
        topics: What is registered on connecting.
        required: Names of subscribers that have to be there.
        instruments: Those of its sessions.
    """

    def __init__(
        self,
        name: str,
        config: BusConfig,
        topics: tuple[str, ...],
        required: tuple[str, ...],
        instruments: tuple[InstrumentSource, ...] = (),
    ) -> None:
        self.name = name
        self.config = config
        self._topics = topics
        self._required = required
        self._instruments = instruments
        self._observes = False
        self._starts = True
        self._closed = False
        self._on_lost: list[Callable[[LostBus], object]] = []
        self._begin()

    def _begin(self) -> None:
        """Nothing is connected, and nothing subscribed."""
        self._session: S | None = None
        self._leaves_later: S | None = None
        """The session of a `close` for which there was no memory."""
        self._lock = NonReentrantLock()
        self._told: S | None = None
        """The session whose loss was said last."""
        self._hooks: Hooks | None = None
        self._clock_ns: Callable[[], int] | None = None
        """The wall-clock time of a bus that stands in for a test; None: the real one."""
        self._specs: dict[tuple[str, bytes], HandlerSpec] = {}
        """What is subscribed again on the next session; and so are the inboxes."""
        self._inboxes: weakref.WeakSet[Any] = weakref.WeakSet()

    # --- for users ---

    @property
    def connected(self) -> bool:
        """Whether this handle is connected. A loss may be noticed only by the next call. Never blocks."""
        session = self._session
        return session is not None and not session.is_lost

    def on_lost(self, callback: Callback) -> Callback:
        """Call the decorated function with a `LostBus` when the bus was lost, once for each time it is.

        That is when its manager and its standby have both died, or when somebody has shut it down. All that was
        unsettled is lost. The function is called before the handle comes back (`reconnect`), in the thread that
        noticed: one that called the bus, or the one that runs the listeners. It may use the bus, which brings the
        handle back. An exception that it raises is logged. Never blocks.
        """
        self._on_lost.append(callback)
        return callback

    @property
    def instruments(self) -> tuple[InstrumentSource, ...]:
        """Those of this handle, in the order in which their `before_` hooks are called."""
        return self._instruments

    def add_instrument(self, instrument: InstrumentSource) -> None:
        """Have one instrument more, as the last one of `instruments`. Never blocks.

        Raises:
            UsageError: This handle is connected: its instruments were chosen when it was. Or it is not an instrument.
        """
        (wanted,) = check_instruments([instrument])
        if self._session is not None:
            raise UsageError(
                f"bus {self.name!r} is connected: add an instrument before the handle's first use, which may be an `on`"
            )
        self._instruments, self._hooks = (*self._instruments, wanted), None

    def remove_instrument(self, instrument: InstrumentSource) -> None:
        """Be without this instrument when this handle connects the next time; if it has none such, this does nothing.

        Until then its hooks are called: a call that has begun has to end for them as well.
        """
        self._instruments = tuple(other for other in self._instruments if other is not instrument)
        if self._session is None:
            self._hooks = None

    @property
    def address(self) -> str:
        """The path of the socket to which processes of this bus connect, whether it runs or not."""
        return str(RunDir(self.config.run_dir, self.name).socket)

    @staticmethod
    def register_type(
        cls: Any,  # noqa: PLW0211  (the class to register, as the function of the same name calls it)
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        *,
        name: str | None = None,
    ) -> Any:
        """Register a class whose values may travel: `eventbus_mp.register_type`, and not only for this bus.

        The registry belongs to the process: a type that is registered here can travel on every bus of this process, and
        each process that reads such values has to register the type as well. Never blocks.
        """
        return register_type(cls, encode, decode, name=name)

    # --- what it knows ---

    def _make_hooks(self) -> Hooks:
        """The hooks of this handle's instruments, of which there are some; they are made once."""
        self._hooks = self._hooks or Hooks(self._instruments)
        return self._hooks

    def _comes_back(self, lost: S) -> bool:
        # A worker ends, and its pool starts another one.
        return self.config.reconnect and not self._observes and not sessions.is_workers(lost)

    def _keep(self, spec: HandlerSpec) -> None:
        """It is subscribed: it comes back with the handle."""
        self._specs[spec.key.name, pack_config(spec.key.config)] = spec

    def _forget(self, key: SubscriberKey) -> None:
        """It was unsubscribed."""
        self._specs.pop((key.name, pack_config(key.config)), None)

    def _tell_lost(self, lost: S) -> None:
        with self._lock.held():
            if self._told is lost:
                return
            self._told = lost
        what = LostBus(
            name=self.name,
            reason=lost.connection.why_lost,
            was_shut_down=lost.connection.was_shut_down(),
            held=sum(len(endpoint.in_flight) + len(endpoint.pending) for endpoint in lost.endpoints()),
            subscribers=tuple(endpoint.key for endpoint in lost.endpoints()),
        )
        log.warning(
            "bus %r was lost, with %d deliveries that this process had and all that waited: %s",
            self.name,
            what.held,
            what.reason,
        )
        for callback in tuple(self._on_lost):
            try:
                callback(what)
            except Exception as error:  # As of a handler: it is the user's, and is not to keep the handle away.
                log.error("bus %r: %r raised", self.name, callback, exc_info=error)
