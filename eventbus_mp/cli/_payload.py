"""An event's fields and data as text and as JSON. Nothing of the program that published it is imported.

JSON has the data as it is if JSON has its types. Anything else is an object with the key `$type`: a set has its items,
bytes are in base64, a value of a registered type has what its `encode` made of it, and others have their `repr`.
"""

from __future__ import annotations

import base64
import math
import pprint
import shutil
from typing import Any

from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._text import complain
from eventbus_mp.errors import DecodeError
from eventbus_mp.events import Event
from eventbus_mp.memory.registered import Unregistered, show_unregistered

__all__ = ["event_json", "json_of", "read_data", "show_event", "shown_data"]

FIELDS = ("transaction_id", "source", "initialized_at", "occurred_at", "ttl")
SHOWN_BYTES_MAX = 100
"""Of one buffer; `repr` would make a megabyte of the other million bytes."""


def read_data(event: Event) -> tuple[Any, str]:
    """(data, ""); or (None, why it cannot be read), as when a package is missing."""
    show_unregistered()
    try:
        return event.data, ""
    except DecodeError as error:
        return None, str(error)


def event_json(event: Event) -> dict[str, Any]:
    """The event as values that JSON has; `error` instead of `data` if that cannot be read."""
    data, error = read_data(event)
    fields: dict[str, Any] = {"topic": event.topic, "id": event.id}
    fields |= {name: value for name in FIELDS if (value := getattr(event, name)) is not None}
    if event.headers:
        fields["headers"] = dict(event.headers)
    return {**fields, "error": error} if error else {**fields, "data": json_of(data)}


def show_event(event: Event) -> Exit:
    """Print its fields, a line each, and its data; on standard error why that cannot be read. The exit code."""
    data, error = read_data(event)
    print("\n".join(_shown_fields(event)))
    if error:
        complain(error)
        return Exit.FAILED
    print(f"{'data':<15}{type(data).__name__}\n{shown_data(data)}")
    return Exit.DONE


def _shown_fields(event: Event) -> list[str]:
    lines = [f"{name:<15}{value!r}" for name in FIELDS if (value := getattr(event, name)) is not None]
    lines += [f"{'header':<15}{name}: {value!r}" for name, value in (event.headers or {}).items()]
    return [f"{'topic':<15}{event.topic!r}", f"{'id':<15}{event.id!r}", *lines]


def shown_data(data: Any, *, line: bool = False) -> str:
    """The data as Python writes it, with buffers shortened; `line`: on one line."""
    short = _short(data)
    if line:
        return repr(short)
    return pprint.pformat(short, width=min(shutil.get_terminal_size().columns, 120), sort_dicts=False)


class _Shown:
    """Something whose `repr` is this text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _short(value: Any) -> Any:
    """The value with a short text in the place of each long buffer."""
    kind = type(value)
    if kind is dict:
        return {key: _short(item) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(map(_short, value))
    if kind is Unregistered:
        return Unregistered(value.name, _short(value.body))
    if kind is memoryview or (kind is bytes and len(value) > SHOWN_BYTES_MAX):
        nbytes = value.nbytes if kind is memoryview else len(value)
        begin = bytes(value.cast("B")[:SHOWN_BYTES_MAX] if kind is memoryview else value[:SHOWN_BYTES_MAX])
        more = "..." if nbytes > SHOWN_BYTES_MAX else ""
        return _Shown(f"<{kind.__name__} of {nbytes:,} bytes: {begin!r}{more}>")
    return value


def json_of(value: Any) -> Any:
    """The value as values that JSON has; see the top of this file."""
    kind = type(value)
    if value is None or kind in (str, bool, int) or (kind is float and math.isfinite(value)):
        return value
    if kind is list:
        return [json_of(item) for item in value]
    if kind is dict and all(type(key) is str for key in value) and "$type" not in value:
        return {key: json_of(item) for key, item in value.items()}
    if kind is dict:
        return {"$type": "dict", "items": [[json_of(key), json_of(item)] for key, item in value.items()]}
    if kind in (tuple, set, frozenset):
        return {"$type": kind.__name__, "items": [json_of(item) for item in value]}
    if kind in (bytes, memoryview):
        return {"$type": kind.__name__, "base64": base64.b64encode(value).decode()}
    if kind is Unregistered:
        return {"$type": value.name, "registered": False, "body": json_of(value.body)}
    return {"$type": f"{kind.__module__}.{kind.__qualname__}", "repr": repr(value)}
