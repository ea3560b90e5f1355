"""How a request finds its handler: by `handles`.

A handler gets the step, the link that asks, and the request. It changes the state, and its return value is the answer.
A `UsageError` that it raises becomes the answer instead, and a `ProtocolError` closes the link. The handler of a
`Notice` returns None, which is not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from eventbus_mp.core.links import LinkState
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.requests import AnyRequest, Request

__all__ = ["ANSWERED_LATER", "REQUEST_HANDLERS", "handles"]

ANSWERED_LATER: Any = object()
"""What a handler returns if the answer depends on something yet to happen; what causes it appends the `Reply`."""

REQUEST_HANDLERS: dict[type[Request], Callable[[Step, LinkState, Any], Any]] = {}
"""Every request that can be asked, and what answers it."""

_Answer = TypeVar("_Answer")
_Handler = Callable[[Step, LinkState, AnyRequest], _Answer]


def handles(kind: type[AnyRequest]) -> Callable[[_Handler[AnyRequest, _Answer]], _Handler[AnyRequest, _Answer]]:
    """A decorator for the handler of requests of this kind."""

    def register(handler: _Handler[AnyRequest, _Answer]) -> _Handler[AnyRequest, _Answer]:
        REQUEST_HANDLERS[kind] = handler
        return handler

    return register
