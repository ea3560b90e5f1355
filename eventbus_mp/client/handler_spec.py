"""A handler as it was asked for: the one place where what users subscribe is checked, and where it is hosted.

`EventBus.on`, `EventBus.subscribe` and their twins of `WorkerPool` all make a `HandlerSpec`. A bus hosts it on its own
session at once. A pool sends it to its workers, and each of them hosts it on the worker's session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from eventbus_mp.client.listeners import broadcast_key, listener_of, pack_config
from eventbus_mp.client.session import Session
from eventbus_mp.client.validation import check_credit, check_name, check_patterns, check_retries
from eventbus_mp.errors import UsageError
from eventbus_mp.statistics import SubscriberKey

__all__ = ["HandlerSpec", "handler_decorator"]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class HandlerSpec:
    """A listener, whom it is subscribed as, and to what. Make it with `from_function` or `from_listener`.

    It holds nothing of a bus or a session, so it can be hosted in any process that it is sent to.
    """

    listener: Any
    """What the user gave: a function of an event, or anything that `listener_of` takes apart."""
    key: SubscriberKey
    """The subscriber, without the process that a broadcasting one adds."""
    patterns: tuple[str, ...]
    credit: int
    """0: automatic."""
    retries: int | None
    """How often a function of an event is called again; None: the listener gets shadows and settles by itself."""
    broadcast: bool

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        patterns: Iterable[str],
        *,
        retries: int = 0,
        name: str | None = None,
        broadcast: bool = False,
        credit: int | str = "auto",
    ) -> HandlerSpec:
        """A function that is called with each event and settles it by returning or raising: see `EventBus.on`.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: There is no pattern, the function cannot be called, or another argument is not valid.
        """
        wanted = check_patterns(patterns)
        if not wanted:
            raise UsageError("on() needs a pattern, as in @bus.on('order_.*')")
        key = SubscriberKey(check_name(name)) if name is not None else listener_of(function).key
        if not callable(function):
            raise UsageError(f"{function!r} cannot be called; on() decorates a function of an event")
        return cls(function, key, tuple(wanted), check_credit(credit), check_retries(retries), broadcast)

    @classmethod
    def from_listener(
        cls, listener: Any, patterns: Iterable[str], *, broadcast: bool = False, credit: int | str = "auto"
    ) -> HandlerSpec:
        """A listener that is called with shadows and settles by itself: see `EventBus.subscribe`.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: The listener cannot be called, its config cannot travel, or another argument is not valid.
        """
        parts = listener_of(listener)
        if parts.call is None:
            raise UsageError(
                f"listener {listener!r} cannot be called; give a callable or something with process(shadow)"
            )
        pack_config(parts.key.config)
        return cls(listener, parts.key, tuple(check_patterns(patterns)), check_credit(credit), None, broadcast)

    @property
    def subscriber(self) -> SubscriberKey:
        """The subscriber that this process becomes by hosting it."""
        return broadcast_key(self.key) if self.broadcast else self.key

    def host(self, session: Session) -> None:
        """Subscribe it on this session, and have the session run it. Blocks for one round trip to the manager.

        Raises:
            ManagerLost, BusClosed: The session has ended.
        """
        endpoint = session.host(self.subscriber, list(self.patterns), self.credit, self.broadcast)
        if self.retries is None:
            session.listen(session.shadow_handler(endpoint, listener_of(self.listener)))
        else:
            session.listen(session.event_handler(endpoint, self.listener, self.retries))


def handler_decorator(
    add: Callable[[HandlerSpec], None],
    patterns: Iterable[str],
    *,
    retries: int,
    name: str | None,
    broadcast: bool,
    credit: int | str,
) -> Callable[[Function], Function]:
    """The decorator that every `on` returns: it makes a spec of the decorated function, and gives it to `add`.

    Raises:
        UsageError: As `HandlerSpec.from_function`; already here if it does not depend on the function.
    """
    wanted = check_patterns(patterns)

    def spec_of(function: Callable[..., Any]) -> HandlerSpec:
        return HandlerSpec.from_function(
            function, wanted, retries=retries, name=name, broadcast=broadcast, credit=credit
        )

    def decorate(function: Function) -> Function:
        add(spec_of(function))
        return function

    # With a function that is certainly one, so that a mistake is reported where `on` is called.
    spec_of(print)

    return decorate
