"""A line of the log: bounded, on one line, without anything that a terminal or a reader of logs would act on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Fields", "for_record", "json_line", "text_line"]

Fields = dict[str, Any]
"""What a line says, by name: values of JSON only. `extra=` of the log record has the same."""

MORE = "..."
BARE = ("topic", "event_id")
"""They come first, without their names."""
SHORT_NAMES = {"transaction_id": "tx"}
_QUOTED = frozenset(" \"'=\\")


def text_line(verb: str, fields: Mapping[str, Any], bytes_max: int) -> str:
    """`VERB TOPIC ID tx=.. source=.. 12 ms data=..`; the verb may be empty.

    A value with a space, a quote or anything unprintable in it is quoted as in JSON, so no value can look like another
    field, or like another line.
    """
    limit = bytes_max // 8
    parts = [verb] if verb else []
    for name, value in fields.items():
        if name == "data":
            continue
        shown = _shortened(_word(value), limit)
        if name in BARE:
            parts.append(shown)
        elif name == "duration_ms":
            parts.append(f"{shown} ms")
        else:
            parts.append(f"{SHORT_NAMES.get(name, name)}={shown}")
    line = " ".join(parts)
    if "data" in fields:
        line += f" data={_visible(json.dumps(fields['data'], ensure_ascii=False))}"
    return _shortened(line, bytes_max)


def json_line(level: int, fields: Mapping[str, Any], bytes_max: int) -> str:
    """The fields as a JSON object on one line, with `time` and `level`; data that does not fit is a text."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
    limit = bytes_max // 8
    head: Fields = {"time": stamp, "level": logging.getLevelName(level)}
    head |= {name: _fitting(value, limit) for name, value in fields.items() if name != "data"}
    if "data" not in fields:
        return json.dumps(head)
    line = json.dumps({**head, "data": fields["data"]})
    if len(line) <= bytes_max:
        return line
    room = bytes_max - len(json.dumps({**head, "data": None, "truncated": True}))
    return json.dumps({**head, "data": _fitting(json.dumps(fields["data"]), room), "truncated": True})


def for_record(fields: Mapping[str, Any], bytes_max: int) -> Fields:
    """The fields for `extra=`: their texts are as short and as harmless as in the line."""
    return {
        name: _shortened(_visible(value), bytes_max) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _fitting(value: Any, limit: int) -> Any:
    """The value; a text that has more characters as JSON, cut."""
    if not isinstance(value, str) or len(json.dumps(value)) <= limit:
        return value
    while value and len(json.dumps(value + MORE)) > limit:
        value = value[: len(value) * 3 // 4]
    return value + MORE


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if not isinstance(value, str):
        return _visible(json.dumps(value, ensure_ascii=False))
    if value.isprintable() and value and _QUOTED.isdisjoint(value):
        return value
    return _visible(json.dumps(value, ensure_ascii=False))


def _visible(text: str) -> str:
    """With escapes in the place of control characters, marks of direction, ends of lines and lone surrogates."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _shortened(text: str, bytes_max: int) -> str:
    """The text, cut to so many bytes of UTF-8."""
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text
    return encoded[: max(bytes_max - len(MORE), 0)].decode(errors="ignore") + MORE
