"""Entries of a store, one after the other: constant memory, however many there are and however large they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from eventbus_mp.addons.journal.row import Entry, Row
from eventbus_mp.addons.journal.store import Selection, Store

__all__ = ["entries_of", "pages_of", "size_of"]

PAGE_FIRST, PAGE_MAX = 4, 256
"""How many entries are read at a time: few at first, for they may be large. Of more, with the events that are made of
them, the garbage collector would look through most again and again: a tenth of the time of a replay."""
PAGE_BYTES = 4 << 20
"""About so many bytes a page has at most, if its entries are like those of the page before."""


def pages_of(store: Store, selection: Selection, *, newest_first: bool = False) -> Iterator[list[Entry]]:
    """The selected entries in pages, by position. Each page is read when it is asked for, in a transaction of its own.

    Raises:
        StoreUnavailable, StoreUnusable, InvalidPattern: As `Store.page`.
    """
    limit = PAGE_FIRST
    while page := store.page(selection, limit, newest_first=newest_first):
        yield page
        if newest_first:
            selection = replace(selection, before=page[-1].position)
        else:
            selection = replace(selection, after=page[-1].position)
        mean = max(1, sum(size_of(entry.row) for entry in page) // len(page))
        limit = max(1, min(2 * limit, PAGE_MAX, PAGE_BYTES // mean))


def entries_of(store: Store, selection: Selection, *, newest_first: bool = False) -> Iterator[Entry]:
    """The selected entries; raises as `pages_of`."""
    for page in pages_of(store, selection, newest_first=newest_first):
        yield from page


def size_of(row: Row) -> int:
    """How many bytes its data and buffers have."""
    return len(row.data) + (len(row.buffers) if row.buffers is not None else 0)
