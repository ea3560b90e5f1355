"""An event that is too large for one parcel: cut into parts by its origin, and put together again. Pure.

    payload   |------ stride ------|------ stride ------|------ stride ------|-- rest --|
    part               0                    1                    2                3

Parts come in any order, repeated, and mixed with those of other events. Each one alone says how long all are, so each
is copied once, to its place. Until all are there, nobody has confirmed any of them: what is forgotten comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from eventbus_mp.addons.bridge.events import ALIGNMENT, Part
from eventbus_mp.addons.bridge.fields import ParcelError, packed_fields

__all__ = ["Assembler", "AssemblerFull", "Whole", "split"]

L = TypeVar("L")

NAMES_BYTES = 2048
"""The topic and the subscribers in a part may be so long beside a chunk of full length; longer ones take from it."""


class AssemblerFull(ParcelError):
    """There is no memory for one more unfinished event. The part was not taken, and can be added later."""


class _Key(NamedTuple):
    """What parts of one event have in common. If a bridge cuts it differently than the one before, these are two."""

    host: str
    life: bytes
    sequence: int
    targets: tuple[tuple[str, bytes], ...]
    total: int
    stride: int


class _Unfinished(Generic[L]):
    """An event of which parts are missing."""

    __slots__ = ("first", "letters", "payload", "touched_s")

    def __init__(self, first: Part) -> None:
        self.first = first
        self.payload = memoryview(bytearray(first.total))
        """A view, for a slice of a bytearray itself is assigned by way of a copy, in fresh pages: 1.4 ms a MiB."""
        self.letters: dict[int, L] = {}
        """By the number of the part."""
        self.touched_s = 0.0

    def put(self, part: Part, letter: L, now_s: float) -> bool:
        """Take a part: whether all are there."""
        if part.index not in self.letters:
            at = part.index * part.stride
            self.payload[at : at + len(part.chunk)] = part.chunk
        self.letters[part.index] = letter
        self.touched_s = now_s
        return len(self.letters) == part.count


@dataclass(frozen=True, slots=True)
class Whole(Generic[L]):
    """An event that was put together again."""

    part: Part
    """As one part: number 0 of 1, its chunk the whole payload."""
    letters: tuple[L, ...]
    """What its parts came with, in their order; of one that came repeatedly, the last."""


def split(whole: Part, part_bytes: int) -> Iterator[Part]:
    """The parts of an event, each of which fits into a message. Their chunks are views of its payload.

    Args:
        whole: The event as one part: number 0 of 1, its chunk the whole payload.
        part_bytes: How long a chunk may be (`Mailboxes.part_bytes`), which leaves room for names of usual length.

    Raises:
        ParcelError: The names of those it is for leave no room for a chunk.
    """
    names = len(packed_fields([whole.topic, whole.targets]))
    stride = (part_bytes - max(0, names - NAMES_BYTES)) & -ALIGNMENT
    if stride < ALIGNMENT:
        raise ParcelError(f"names of {len(whole.targets)} subscribers leave no room in parts of {part_bytes} bytes")
    payload = memoryview(whole.chunk)
    count = -(-len(payload) // stride)
    for index in range(count):
        chunk = payload[index * stride : (index + 1) * stride]
        yield replace(whole, index=index, count=count, total=len(payload), chunk=chunk)


class Assembler(Generic[L]):
    """Puts events together again. One thread uses it.

    Args:
        bytes_max: The most that unfinished events take. The memory of one is set aside with its first part, so those
            that have begun can always be finished.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._unfinished: dict[_Key, _Unfinished[L]] = {}

    @property
    def bytes_used(self) -> int:
        """What unfinished events take."""
        return self._bytes

    @property
    def letters(self) -> list[L]:
        """What came with the parts of unfinished events, the oldest event first."""
        return [letter for item in self._unfinished.values() for letter in item.letters.values()]

    def add(self, part: Part, letter: L, now_s: float) -> Whole[L] | None:
        """Take a part that was decoded: the event, if this was the last one that was missing.

        Of an event that was finished, a part that comes again begins another one: the caller knows what it has.

        Args:
            part: The part; its chunk is copied.
            letter: What it came with, which is given back in the end.
            now_s: The time, for `forget_idle`.

        Raises:
            AssemblerFull: It is one of another event, for which there is no memory now.
            ParcelError: The event is larger than this will ever hold.
        """
        targets = tuple([(name, config) for name, config in part.targets])
        key = _Key(part.host, part.life, part.sequence, targets, part.total, part.stride)
        item = self._unfinished.get(key)
        if item is None:
            item = self._begin(key, part)
        if not item.put(part, letter, now_s):
            return None
        self._remove(key)
        letters = tuple(item.letters[index] for index in range(part.count))
        return Whole(replace(item.first, index=0, count=1, chunk=item.payload), letters)

    def forget_life(self, host: str, life: bytes) -> list[L]:
        """That life of the host's bus is over: what came with the parts of its events."""
        return self._forget(lambda key, _: key.host == host and key.life == life)

    def forget_idle(self, before_s: float) -> list[L]:
        """Forget events of which no part has come since then: what came with their parts."""
        return self._forget(lambda _, item: item.touched_s < before_s)

    def _begin(self, key: _Key, part: Part) -> _Unfinished[L]:
        if part.total > self._bytes_max:
            raise ParcelError(
                f"event {part.sequence} of topic {part.topic!r} has {part.total} bytes; {self._bytes_max} are allowed"
            )
        if self._bytes + part.total > self._bytes_max:
            raise AssemblerFull(f"unfinished events take {self._bytes} of {self._bytes_max} bytes")
        item: _Unfinished[L] = _Unfinished(replace(part, chunk=b""))
        self._unfinished[key] = item
        self._bytes += part.total
        return item

    def _remove(self, key: _Key) -> _Unfinished[L]:
        self._bytes -= key.total
        return self._unfinished.pop(key)

    def _forget(self, is_over: Callable[[_Key, _Unfinished[L]], bool]) -> list[L]:
        over = [key for key, item in self._unfinished.items() if is_over(key, item)]
        return [letter for key in over for letter in self._remove(key).letters.values()]
