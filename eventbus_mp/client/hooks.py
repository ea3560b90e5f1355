"""The hooks of a session's instruments: which there are, calling them, and what becomes of one that raises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from operator import attrgetter
from types import GeneratorType
from typing import Any, TypeVar

from eventbus_mp.arguments import as_list
from eventbus_mp.client.plain_calls import refuse_unrun
from eventbus_mp.errors import UsageError
from eventbus_mp.events import Event
from eventbus_mp.instrument import Instrument
from eventbus_mp.locking import NonReentrantLock

__all__ = ["Hooks", "InstrumentSource", "check_instruments"]

log = logging.getLogger("eventbus_mp")

InstrumentSource = Instrument | Callable[[], Instrument]
"""What `EventBus(instruments=...)` takes: an instrument, or what makes one in each process."""

BoundHook = tuple[Instrument, Callable[..., Any]]
"""An instrument and one of its hooks."""
T = TypeVar("T")

KINDS = ("connect", "takeover", "subscribe", "notify", "fetch", "receive", "handle", "settle")

_in_hook: ContextVar[bool] = ContextVar("eventbus_mp_in_hook", default=False)
"""Whether a hook is being called; or, in a task, whether a hook has made it."""


def check_instruments(instruments: Iterable[InstrumentSource]) -> tuple[InstrumentSource, ...]:
    """The instruments as a tuple.

    Raises:
        UsageError: They are not a list, or one is neither an `Instrument` nor can be called to make one.
    """
    wanted = as_list(instruments)
    if wanted is None:
        raise UsageError(f"instruments={instruments!r:.80}: give a list of them")
    for source in wanted:
        if not isinstance(source, Instrument) and not callable(source):
            raise UsageError(f"instruments: {source!r} is not an Instrument; derive its class from that")
    return tuple(wanted)


class Hooks:
    """The hooks of one session, each called only if its instrument overrides it.

    A hook runs user code: nothing here may be called with a lock of the bus held.

    Args:
        sources: The instruments; those that are made here are made now.

    Raises:
        UsageError: What was called to make an instrument made something else.
    """

    def __init__(self, sources: Iterable[InstrumentSource]) -> None:
        self._instruments = tuple(_made(source) for source in sources)
        self.lock: NonReentrantLock | None = None
        """The session's write lock: what a signal handler does while its thread holds it has no hooks."""
        self._before: dict[str, tuple[BoundHook, ...]] = {}
        self._after: dict[str, tuple[BoundHook, ...]] = {}
        self._bind()

    def _bind(self) -> None:
        for kind in KINDS:
            self._before[kind] = tuple(_overridden(self._instruments, f"before_{kind}"))
            self._after[kind] = tuple(_overridden(self._instruments[::-1], f"after_{kind}"))
        self._replacing = tuple((each, partial(_replaced, hook)) for each, hook in self._before["notify"])

    def add(self, instrument: Instrument) -> None:
        """Call the hooks of this one as well, after those of the others; does nothing if it is among them."""
        if instrument not in self._instruments:
            self._instruments = (*self._instruments, instrument)
            self._bind()

    def has(self, kind: str) -> bool:
        """Whether there is a hook of this kind."""
        return bool(self._before[kind] or self._after[kind])

    def before(self, kind: str, *arguments: Any) -> None:
        """Call the hooks before something. Raises nothing that a hook raises."""
        self._call_all(self._before[kind], arguments)

    def after(self, kind: str, *arguments: Any) -> None:
        """Call the hooks after something; else as `before`."""
        self._call_all(self._after[kind], arguments)

    def before_notify(self, events: Sequence[Event]) -> Sequence[Event]:
        """Call these hooks: the events to publish. Each instrument gets what those before it have made of them."""
        if not self._replacing or self._is_silent:
            return events
        for instrument, hook in self._replacing:
            given = self._call(instrument, hook, (events,))
            events = given if given is not None else events
        return events

    def around(self, kind: str, call: Callable[[], T], *arguments: Any) -> T:
        """Make a call with its hooks before and after it."""
        with self.bracket(kind, *arguments):
            return call()

    @contextmanager
    def bracket(self, kind: str, *arguments: Any) -> Iterator[None]:
        """Call the hooks before and after the block."""
        self.before(kind, *arguments)
        try:
            yield
        except BaseException as error:
            self.after(kind, *arguments, error)
            raise
        self.after(kind, *arguments, None)

    @property
    def _is_silent(self) -> bool:
        """Whether a hook does this, or, in a signal handler, in the middle of its own writing."""
        return _in_hook.get() or (self.lock is not None and self.lock.is_mine)

    def _call_all(self, hooks: tuple[BoundHook, ...], arguments: tuple[Any, ...]) -> None:
        if hooks and not self._is_silent:
            for instrument, hook in hooks:
                self._call(instrument, hook, arguments)

    def _call(self, instrument: Instrument, hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What the hook returns; None if it raises, which removes its instrument."""
        token = _in_hook.set(True)
        try:
            result = hook(*arguments)
            if result is not None and type(result) is not list:
                refuse_unrun(result)
            return result
        except KeyboardInterrupt:
            raise  # It is the user's, who meant the program.
        except BaseException as error:
            self._remove(instrument, error)
            return None
        finally:
            _in_hook.reset(token)

    def _remove(self, instrument: Instrument, error: BaseException) -> None:
        self._instruments = tuple(other for other in self._instruments if other is not instrument)
        self._bind()
        log.error(
            "instrument %s raised and is removed; what it was called for goes on",
            type(instrument).__qualname__,
            exc_info=error,
        )


def _made(source: InstrumentSource) -> Instrument:
    made = source if isinstance(source, Instrument) else source()
    if not isinstance(made, Instrument):
        raise UsageError(f"instruments: {source!r} made {made!r}, which is not an Instrument")
    return made


def _overridden(instruments: Iterable[Instrument], name: str) -> Iterator[BoundHook]:
    """This hook of every instrument that does something in it."""
    for instrument in instruments:
        hook = getattr(instrument, name)
        if getattr(hook, "__func__", hook) is not getattr(Instrument, name):
            yield instrument, hook


_identity = attrgetter("topic", "id")


def _replaced(hook: Callable[..., Any], events: Sequence[Event]) -> list[Event] | None:
    """What a hook wants to be published in place of `events`.

    Raises:
        TypeError: It is not the same events with another envelope.
    """
    given = hook(events)
    if given is None:
        return None
    if type(given) not in (list, tuple, GeneratorType):
        refuse_unrun(given)
    wanted = list(given)
    if list(map(_identity, wanted)) != list(map(_identity, events)):
        raise TypeError(f"before_notify returned {wanted!r:.200}: give as many events, with the same topics and ids")
    return wanted
