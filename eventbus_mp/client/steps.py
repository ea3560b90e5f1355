"""Steps: a call of the client that has to wait for something, as a generator that says what for.

`EventBus` blocks a thread until it happens, and `aio.EventBus` awaits it. What is asked, in which order, and what is
made of the answers is written once:

    def topic_exists(name):
        number, _ = yield ask(ResolveTopic, name)
        return bool(number)

`Connection.run` does the steps of such a generator for a thread, `Link.run` (aio/link.py) for a task. A generator that
is left in the middle, because a signal handler has raised or because its task was cancelled, gets that exception at
its `yield`, and puts right there what has to be. (psycopg is written in this way for the same reason.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from eventbus_mp.protocol.requests import Request

__all__ = ["Step", "Steps", "apart", "ask", "happening", "reply", "until"]

T = TypeVar("T")


class Step(NamedTuple):
    """One thing to wait for: a method of `Connection` that blocks, which `Link` has as a coroutine function."""

    method: str
    arguments: tuple[Any, ...]


Steps = Generator[Step, Any, T]
"""A call in steps, whose result is a `T`."""


def ask(kind: type[Request], *fields: Any) -> Step:
    """Ask the manager; the answer, as `Connection.request`."""
    return Step("request", (kind, *fields))


def reply(number: int, what: str) -> Step:
    """Wait for the answer to a request that was sent; as `Connection.await_reply`."""
    return Step("await_reply", (number, what))


def happening(number: int, timeout_s: float | None) -> Step:
    """Wait for what is answered when it has happened; False: not in time. As `Connection.await_event`."""
    return Step("await_event", (number, timeout_s))


def until(ready: Callable[[], Any], timeout_s: float | None) -> Step:
    """Wait until `ready()`, which only what arrives makes true; False: not in time. As `Transport.wait`."""
    return Step("wait", (ready, timeout_s))


def apart(call: Callable[..., Any], *arguments: Any) -> Step:
    """Make a call that blocks for something else than the manager, such as another process's answer."""
    return Step("call_apart", (call, *arguments))
