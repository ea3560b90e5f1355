"""What `doctor` says of one thing."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Finding", "fine", "problem", "warning"]


class Finding(NamedTuple):
    """One line of `doctor`."""

    level: str
    """"ok"; "warning": it may become a problem; "problem": something does not work, or will be lost."""
    subject: str
    text: str
    advice: str = ""
    """What to do; empty: nothing."""


def fine(subject: str, text: str) -> Finding:
    """There is nothing to do."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """It may become a problem."""
    return Finding("warning", subject, text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    """Something does not work, or will be lost."""
    return Finding("problem", subject, text, advice)
