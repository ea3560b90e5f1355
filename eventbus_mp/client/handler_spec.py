"""A handler as it was asked for: the one place where what users subscribe is checked, and where it is hosted.

`EventBus.on`, `EventBus.subscribe` and their twins of `WorkerPool` all make a `HandlerSpec`. A bus hosts it on its own
session at once. A pool sends it to its workers, and each of them hosts it on the worker's session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.handlers import Handler
from eventbus_mp.client.listeners import broadcast_key, listener_of, pack_config
from eventbus_mp.client.plain_calls import check_runs
from eventbus_mp.client.retries import Retries
from eventbus_mp.client.session import Session
from eventbus_mp.client.subscription import NO_BOUND, BacklogBound, Subscription
from eventbus_mp.client.validation import (
    check_batch,
    check_concurrency,
    check_credit,
    check_name,
    check_patterns,
    check_scope,
    check_threads,
    check_time_limit,
)
from eventbus_mp.errors import UsageError
from eventbus_mp.statistics import SubscriberKey

__all__ = ["HandlerSpec", "handler_decorator"]

NO_RETRIES = Retries()

Function = TypeVar("Function", bound=Callable[..., Any])
Around = Callable[[ClientEndpoint, Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class HandlerSpec:
    """A listener, whom it is subscribed as, and to what. Make it with `from_function` or `from_listener`.

    It holds nothing of a bus or a session, so it can be hosted in any process that it is sent to.
    """

    listener: Any
    """What the user gave: a function of an event, or anything that `listener_of` takes apart."""
    key: SubscriberKey
    """The subscriber, without what a broadcasting one adds."""
    patterns: tuple[str, ...]
    credit: int
    """0: automatic."""
    retries: Retries | None
    """When a function of an event is called again; None: the listener gets shadows and settles by itself."""
    broadcast: bool
    batch: int = 0
    """How many events the function gets at most, in a list; 0: one, and no list."""
    within_s: float = 0.0
    """How long an event waits for the batch to become full."""
    threads: int = 1
    """How many threads of its own call it; 1: it has none, and shares one with other handlers."""
    concurrency: int = 1
    """How many calls may be under way at once, as tasks of an event loop."""
    time_limit_s: float | None = None
    """How long a call may take; the pool ends its process then. None: as long as it likes."""
    scope: str = "host"
    """Who shares its events where several hosts are joined."""
    bound: BacklogBound = NO_BOUND

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        patterns: Iterable[str],
        *,
        retries: Retries = NO_RETRIES,
        name: str | None = None,
        broadcast: bool = False,
        credit: int | str = "auto",
        batch: int | None = None,
        within_s: float | None = None,
        threads: int = 1,
        concurrency: int = 1,
        may_await: bool = False,
        time_limit_s: float | None = None,
        scope: str = "host",
        bound: BacklogBound = NO_BOUND,
    ) -> HandlerSpec:
        """A function that is called with each event and settles it by returning or raising: see `EventBus.on`.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: There is no pattern, the function cannot be called, calling it would not run it (it is a
                coroutine or generator function), or another argument is not valid.
        """
        wanted = check_patterns(patterns)
        if not wanted:
            raise UsageError("on() needs a pattern, as in @bus.on('order_.*')")
        key = SubscriberKey(check_name(name)) if name is not None else listener_of(function).key
        if not callable(function):
            raise UsageError(f"{function!r} cannot be called; on() decorates a function of an event")
        check_runs("handler", function, may_await=may_await)
        shadows = check_credit(credit)
        size, time_s = check_batch(batch, within_s, shadows)
        calls, count = check_concurrency(concurrency), check_threads(threads, shadows, size)
        return cls(
            function,
            key,
            tuple(wanted),
            shadows,
            retries,
            broadcast,
            size,
            time_s,
            count,
            calls,
            check_time_limit(time_limit_s),
            check_scope(scope, broadcast=broadcast),
            bound,
        )

    @classmethod
    def from_listener(
        cls,
        listener: Any,
        patterns: Iterable[str],
        *,
        broadcast: bool = False,
        credit: int | str = "auto",
        threads: int = 1,
        concurrency: int = 1,
        may_await: bool = False,
        scope: str = "host",
        bound: BacklogBound = NO_BOUND,
    ) -> HandlerSpec:
        """A listener that is called with shadows and settles by itself: see `EventBus.subscribe`.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: The listener cannot be called, calling it would not run it, its config cannot travel, or another
                argument is not valid.
        """
        parts = listener_of(listener)
        if parts.call is None:
            raise UsageError(
                f"listener {listener!r} cannot be called; give a callable or something with process(shadow)"
            )
        check_runs("listener", parts.call, may_await=may_await)
        pack_config(parts.key.config)
        wanted, shadows, calls = tuple(check_patterns(patterns)), check_credit(credit), check_concurrency(concurrency)
        count = check_threads(threads, shadows)
        shared = check_scope(scope, broadcast=broadcast)
        return cls(
            listener,
            parts.key,
            wanted,
            shadows,
            None,
            broadcast,
            threads=count,
            concurrency=calls,
            scope=shared,
            bound=bound,
        )

    def host(self, session: Session, around: Around | None = None) -> SubscriberKey:
        """Subscribe it on this session, and have the session run it; as which subscriber.

        Blocks for one round trip to the manager. `around` makes what is called in place of the function.

        Raises:
            ManagerLost, BusClosed: The session has ended.
            EventBusError: The system has no thread for handlers.
        """
        key = broadcast_key(self.key, session.identity) if self.broadcast else self.key
        with session.crews.hired(key, self.threads, broadcast=self.broadcast) as crew:
            endpoint = session.host(key, self.subscription)
            handler = self._handler(session, endpoint)
            if around is not None:
                handler.call = around(endpoint, handler.call)
            session.crews.assign(handler, crew)
        return key

    def _handler(self, session: Session, endpoint: ClientEndpoint) -> Handler:
        if self.retries is None:
            return session.shadow_handler(endpoint, listener_of(self.listener))
        if self.batch:
            return session.batch_handler(endpoint, self.listener, self.retries, self.batch, self.within_s)
        return session.event_handler(endpoint, self.listener, self.retries)

    @property
    def subscription(self) -> Subscription:
        """What to ask the manager for. Batches of automatic credit get two: one to work on, one that arrives
        meanwhile."""
        credit = self.credit or 2 * self.batch * self.concurrency
        return Subscription(self.patterns, credit, self.broadcast, self.threads, self.scope, bound=self.bound)


def handler_decorator(
    add: Callable[[HandlerSpec], object],
    patterns: Iterable[str],
    *,
    retries: Retries,
    name: str | None,
    broadcast: bool,
    credit: int | str,
    batch: int | None = None,
    within_s: float | None = None,
    threads: int = 1,
    concurrency: int = 1,
    may_await: bool = False,
    time_limit_s: float | None = None,
    scope: str = "host",
    bound: BacklogBound = NO_BOUND,
) -> Callable[[Function], Function]:
    """The decorator that every `on` returns: it makes a spec of the decorated function, and gives it to `add`.

    Raises:
        UsageError: As `HandlerSpec.from_function`; already here if it does not depend on the function.
    """
    wanted = check_patterns(patterns)

    def spec_of(function: Callable[..., Any]) -> HandlerSpec:
        return HandlerSpec.from_function(
            function,
            wanted,
            retries=retries,
            name=name,
            broadcast=broadcast,
            credit=credit,
            batch=batch,
            within_s=within_s,
            threads=threads,
            concurrency=concurrency,
            may_await=may_await,
            time_limit_s=time_limit_s,
            scope=scope,
            bound=bound,
        )

    def decorate(function: Function) -> Function:
        add(spec_of(function))
        return function

    # With a function that is certainly one, so that a mistake is reported where `on` is called.
    spec_of(print)

    return decorate
