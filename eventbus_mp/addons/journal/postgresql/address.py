"""The URL of a PostgreSQL journal. Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_plus

from eventbus_mp import UsageError
from eventbus_mp.addons.journal.urls import shown_url

__all__ = ["Address", "address_of"]

SCHEMA = "eventbus_journal"
NAME_BYTES_MAX = 63


class Address(NamedTuple):
    """Where a journal is."""

    database: str
    """The URL as libpq reads it."""
    schema: str
    shown: str
    """The URL as it may be shown: without a password."""

    @property
    def quoted_schema(self) -> str:
        """The name of the schema, as SQL has it."""
        return '"' + self.schema.replace('"', '""') + '"'


def address_of(url: str) -> Address:
    """The address that a URL gives: libpq's own, and `schema=NAME` among its parameters.

    Raises:
        UsageError: The name of the schema is not valid.
    """
    place, _, query = url.partition("?")
    parameters = query.split("&") if query else []
    named = [one for one in parameters if one.startswith("schema=")]
    schema = unquote_plus(named[-1].removeprefix("schema=")) if named else SCHEMA
    if not 1 <= len(schema.encode(errors="replace")) <= NAME_BYTES_MAX or "\0" in schema:
        raise UsageError(f"{shown_url(url)}: schema={schema!r:.80} is not a name of 1 to {NAME_BYTES_MAX} bytes")
    rest = "&".join(one for one in parameters if one not in named)
    return Address(f"{place}?{rest}" if rest else place, schema, shown_url(url))
