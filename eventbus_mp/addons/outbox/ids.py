"""Ids in PostgreSQL, whose columns have one type: a text, and whether it is an integer. 7 and "7" are two ids."""

from __future__ import annotations

__all__ = ["loaded_id", "stored_id"]


def stored_id(id: str | int | None) -> tuple[str | None, bool | None]:
    """The values of the two columns."""
    return (str(id), type(id) is int) if id is not None else (None, None)


def loaded_id(text: str | None, is_integer: bool | None) -> str | int | None:
    """The id of what `stored_id` made; None of what it did not make."""
    if text is None or not is_integer:
        return text
    try:
        return int(text)
    except ValueError:
        return None
