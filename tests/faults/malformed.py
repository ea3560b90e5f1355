"""Frames that are almost right, from a seed. `python -m tests.faults.malformed --frames N --seed S` tries many."""

from __future__ import annotations

import random

import msgpack

from eventbus_mp import messages as m
from eventbus_mp.wire import records
from eventbus_mp.wire.records import RECORD
from eventbus_mp.wire.stream import REQUESTS

__all__ = ["Mutator"]

INTERESTING = (0, 1, 2, 3, 7, 40, 63, 64, 255, 256, 1 << 16, 1 << 18, (1 << 18) + 64, 1 << 20, (1 << 31), (1 << 32) - 1)
LARGE = (*INTERESTING, 1 << 40, (1 << 40) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
VALUES = (None, True, -1, 0, 1, 5, 1 << 40, 2**64 - 1, 1.5, "", "a", "b", "(", "x" * 300, b"", b"\xc0", b"\xc1", [], {})
NEVER = {m.ShutDown}
"""Requests that end the bus for everybody: any client may send them, and these must not."""


class Mutator:
    """Makes frames of all kinds with fields that are plausible, borderline or random, some of them damaged."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._requests = [index for index, kind in enumerate(REQUESTS) if kind not in NEVER]

    def frame(self, link: int) -> bytes:
        choice = self._random.random()
        if choice < 0.45:
            frame = self._record(link)
        elif choice < 0.9:
            frame = self._request()
        else:
            frame = self._random.randbytes(self._random.choice((1, 39, 40, 41, 80, 400)))
        return self._damaged(frame) if self._random.random() < 0.3 else frame

    def _record(self, link: int) -> bytes:
        pick = self._random.choice
        kind = pick((*records.NOTIFIED_KINDS, *range(5, 11), *range(5, 11), 17, 20, 99))
        sequence = pick((link << 40, 1 << 40)) + pick(LARGE) if pick((True, False)) else pick(LARGE)
        fields = [pick(INTERESTING) for _ in range(4)]
        return RECORD.pack(kind, *fields, 0, pick(LARGE), sequence % (1 << 64))

    def _request(self) -> bytes:
        pick = self._random.choice
        index = pick(self._requests)
        values = [self._value(expected) for expected in REQUESTS[index].WIRE]
        if self._random.random() < 0.1:
            values.append(pick(VALUES))
        return records.request(index, pick((0, 1, 1 << 62)), msgpack.packb(values))

    def _value(self, expected: object) -> object:
        pick = self._random.choice
        if self._random.random() < 0.15:
            return pick(VALUES)
        kinds = expected if isinstance(expected, tuple) else (expected,)
        fitting = [value for value in VALUES if type(value) in kinds]
        if list in kinds:
            fitting += [["a"], ["b", "("], [[1, [1 << 40, 5]]], [[1, [1, -1]]], [[1, 1 << 18]], [1], [["x", []]]]
        return pick(fitting) if fitting else None

    def _damaged(self, frame: bytes) -> bytes:
        data = bytearray(frame)
        for _ in range(self._random.randint(1, 4)):
            way = self._random.randrange(3)
            at = self._random.randrange(len(data) or 1)
            if way == 0 and data:
                data[at] ^= 1 << self._random.randrange(8)
            elif way == 1:
                del data[at : at + self._random.randint(1, 40)]
            else:
                data[at:at] = self._random.randbytes(self._random.randint(1, 40))
        # A damaged request must not become one that ends the bus.
        kind = REQUESTS.index(m.ShutDown)
        while (found := data.find(records.REQUEST.to_bytes(4, "little") + kind.to_bytes(4, "little"))) >= 0:
            data[found + 4] ^= 0x80
        return bytes(data)
