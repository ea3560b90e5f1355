"""What the bus calls has to run when it is called: coroutine and generator functions only make something that could.

They are refused where they are given to the bus. What cannot be seen there (a callable that returns an awaitable) is
seen in what the call returns, and is then the handler's failure.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from eventbus_mp.errors import UsageError

__all__ = ["check_runs", "refuse_unrun"]

AWAITS = "eventbus_mp.aio.EventBus awaits it"
KINDS: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (inspect.iscoroutinefunction, "a coroutine function", AWAITS),
    (inspect.isasyncgenfunction, "an async generator function", "leave out its `yield`"),
    (inspect.isgeneratorfunction, "a generator function", "leave out its `yield`"),
)


def check_runs(what: str, function: Any, *, may_await: bool = False) -> None:
    """Refuse a callable whose body would not run when it is called; `what` says what it was given as.

    With `may_await`, coroutine functions are allowed: what they return is awaited.

    Raises:
        UsageError: It is a coroutine function or a generator function, or an object or a partial that calls one.
    """
    call = function
    while isinstance(call, functools.partial):
        call = call.func
    looked_at = (call, getattr(type(call), "__call__", None))  # noqa: B004  (the method, not whether there is one)
    for is_kind, kind, advice in KINDS:
        if any(map(is_kind, looked_at)) and not (may_await and advice == AWAITS):
            raise UsageError(f"{what} {function!r} is {kind}: the bus would call it, and its body never run; {advice}")


def refuse_unrun(result: Any) -> None:
    """Look at what the user's code returned.

    Raises:
        UsageError: It is something that has not run, and that nobody will run.
    """
    if not isinstance(result, (GeneratorType, AsyncGeneratorType)) and not hasattr(type(result), "__await__"):
        return
    text = f"it returned {result!r:.200}, which the bus does not run; eventbus_mp.aio.EventBus awaits it"
    if isinstance(result, GeneratorType) or inspect.iscoroutine(result):
        result.close()  # Or Python would warn that it was never awaited.
    raise UsageError(text)
