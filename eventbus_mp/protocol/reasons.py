"""Reasons for a skip, as they travel: a number in the settled record.

The reasons of the bus have fixed numbers. Texts of the user's code get one from the process that first gives the text
as a reason: it names the number (`requests.NameReason`) in the same write, before the record. A process names a
bounded number of texts; the oldest number is used again, for a text that the manager hears of before it is used.
"""

from __future__ import annotations

from eventbus_mp.geometry import REASON_LENGTH_MAX

__all__ = ["EXPIRED", "NAMED_FIRST", "NAMED_MAX", "PAYLOAD_GONE", "REASONS", "ReasonNumbers", "text_of"]

EXPIRED = "expired"
PAYLOAD_GONE = "its payload is not where the shadow says"

REASONS = ("", EXPIRED, PAYLOAD_GONE)
"""The place of each is its number: append only. 0: none was given."""
NAMED_FIRST = 64
"""The first number that a process may name."""
NAMED_MAX = 1024
"""How many texts have a number at the same time, for each process."""


def text_of(number: int, named: dict[int, str]) -> str:
    """The text of a number; "" for one that was never named."""
    return REASONS[number] if number < len(REASONS) else named.get(number, "")


class ReasonNumbers:
    """The numbers that this process has given to texts."""

    def __init__(self) -> None:
        self._numbers = {text: number for number, text in enumerate(REASONS)}
        self._named: list[str] = []
        self._next = 0

    def number_of(self, text: str) -> tuple[int, str | None]:
        """The number of a text, and what the manager has to be told that it stands for; None: it knows.

        A long text is cut off. Lone surrogates, as in the names of files that are not UTF-8, cannot travel.
        """
        number = self._numbers.get(text)
        if number is not None:
            return number, None
        text = text[:REASON_LENGTH_MAX].encode(errors="backslashreplace").decode()
        number = self._numbers.get(text)
        if number is not None:
            return number, None
        place = self._next
        self._next = (place + 1) % NAMED_MAX
        if place < len(self._named):
            del self._numbers[self._named[place]]
            self._named[place] = text
        else:
            self._named.append(text)
        self._numbers[text] = NAMED_FIRST + place
        return NAMED_FIRST + place, text
