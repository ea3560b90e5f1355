"""Ids in PostgreSQL, whose columns have one type: 7 and "7" are two ids. Pure."""

from __future__ import annotations

import json

__all__ = ["loaded_id", "stored_id"]


def stored_id(id: str | int | None) -> str | None:
    """The id as JSON, which has both, and has NUL as an escape: 7 is `7`, and "7" is `"7"`."""
    return json.dumps(id, ensure_ascii=False) if id is not None else None


def loaded_id(text: str | None) -> str | int | None:
    """The id of what `stored_id` made; None of what it did not make."""
    if text is None:
        return None
    try:
        id = json.loads(text)
    except ValueError:
        return None
    return id if type(id) is str or type(id) is int else None
