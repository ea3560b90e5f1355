"""The fields of an event as they travel: of no subclass of str or int, and within their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventbus_mp.arguments import as_int, as_text
from eventbus_mp.errors import UsageError
from eventbus_mp.ids import INT_IDS, EventId

__all__ = ["checked_headers", "checked_identity", "checked_transaction_id", "plain_field", "plain_id"]

HEADERS_BYTES_MAX = 8 << 10


def checked_identity(id: Any, topic: Any) -> tuple[EventId, str]:
    """These as an event has them: texts and ints, of no subclass.

    Raises:
        UsageError: They cannot be an event's.
    """
    known = plain_id(id)
    if known is None or known == "":
        raise UsageError(f"Event(id={id!r:.80}): an event needs an id, a str that is not empty or an int")
    if type(known) is int:
        _check_int_id("Event(id", known)
    name = as_text(topic)
    if not name:
        raise UsageError(f"Event(id={id!r}, topic={topic!r}): an event needs a topic, a str that is not empty")
    return known, name


def plain_id(value: Any) -> EventId | None:
    """An id as a str or an int, of no subclass; None if it is neither."""
    text = as_text(value)
    return text if text is not None else as_int(value)


def checked_transaction_id(id: EventId, value: Any) -> Any:
    known = plain_id(value)
    if type(known) is int:
        _check_int_id(f"Event(id={id!r}, transaction_id", known)
    return value if known is None else known


def plain_field(value: Any) -> Any:
    """A field of the envelope: what is of a subclass of str or int, or a whole number of numpy's, as Python's own."""
    known = plain_id(value)
    return value if known is None else known


def _check_int_id(what: str, value: int) -> None:
    if value not in INT_IDS:
        raise UsageError(f"{what}={value!r:.40}): an integer has 64 bits, signed; give larger ones as a str")


def checked_headers(id: EventId, headers: Mapping[str, str]) -> dict[str, str]:
    """A copy of the headers.

    Raises:
        UsageError: They are not texts by name, or too long.
    """
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise UsageError(f"Event(id={id!r}, headers={headers!r:.80}): headers are a dict of str to str")
    copied = dict(headers)
    nbytes = 0
    for name, value in copied.items():
        if type(name) is not str or type(value) is not str:
            return checked_headers(id, _plain_headers(id, copied))
        try:
            nbytes += len(name) if name.isascii() else len(name.encode())
            nbytes += len(value) if value.isascii() else len(value.encode())
        except UnicodeEncodeError as cause:
            raise UsageError(f"Event(id={id!r}): header {name!r:.80} is not valid unicode text") from cause
    if nbytes > HEADERS_BYTES_MAX:
        raise UsageError(f"Event(id={id!r}): the headers have {nbytes} bytes of UTF-8; {HEADERS_BYTES_MAX} are allowed")
    return copied


def _plain_headers(id: EventId, headers: Mapping[Any, Any]) -> dict[str, str]:
    """Those with texts of a subclass, as texts of none."""
    plain = {}
    for given_name, given_value in headers.items():
        name, value = as_text(given_name), as_text(given_value)
        if name is None or value is None:
            raise UsageError(
                f"Event(id={id!r}): header {given_name!r:.80} is {given_value!r:.80}; names and values are str"
            )
        plain[name] = value
    return plain
