"""Frames that are almost right, from a seed. `python -m tests.faults.malformed --frames N --seed S` tries many.

First on the reader and the core as the manager has them, in this process and with every invariant checked now and then;
then on a running manager, whose other client goes on meanwhile.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path
from types import GenericAlias
from typing import get_args

import msgpack

from eventbus_mp import BusConfig, Event, EventBus
from eventbus_mp.core.bus import BusCore
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol import records
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.effects import CloseLink
from eventbus_mp.protocol.messages import SPAN_NEEDED, LinkLost, LinkOpened, SpanWanted
from eventbus_mp.protocol.records import RECORD
from eventbus_mp.protocol.requests import REQUESTS, RegisterTopic, ShutDown, field_types
from tests.faults.rogue import Rogue
from tests.helpers import subscribe_request

__all__ = ["Mutator", "main", "try_on_core", "try_on_manager"]

INTERESTING = (0, 1, 2, 3, 7, 40, 63, 64, 255, 256, 1 << 16, 1 << 18, (1 << 18) + 64, 1 << 20, (1 << 31), (1 << 32) - 1)
LARGE = (*INTERESTING, 1 << 40, (1 << 40) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NUMBERS = (-1, 0, 1, 5, 1 << 40, 2**64 - 1, 1.5)
TEXTS = ("", "a", "b", "(", "x" * 300, b"", b"\xc0", b"\xc1")
VALUES: tuple[object, ...] = (None, True, *NUMBERS, *TEXTS, [], {})
FRAMES_A_LINK = 30
"""A damaged length can make a whole link's frames the body of one."""
NEVER = {ShutDown}
"""Requests that end the bus for everybody: any client may send them, and these must not."""


class Mutator:
    """Makes frames of all kinds with fields that are plausible, borderline or random, some of them damaged."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._requests = [number for number, kind in REQUESTS.items() if kind not in NEVER]

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
        kind = pick((*records.NOTIFIED_KINDS, *range(5, 12), *range(5, 12), 17, 20, 99))
        sequence = pick((link << 40, 1 << 40)) + pick(LARGE) if pick((True, False)) else pick(LARGE)
        fields = [pick(INTERESTING) for _ in range(4)]
        return RECORD.pack(kind, *fields, 0, pick(LARGE), sequence % (1 << 64))

    def _request(self) -> bytes:
        pick = self._random.choice
        number = pick(self._requests)
        values = [self._value(expected) for expected in field_types(number).values()]
        if self._random.random() < 0.1:
            values.append(pick(VALUES))
        return records.pack_request(number, pick((0, 1, 1 << 62)), msgpack.packb(values))

    def _value(self, expected: object) -> object:
        pick = self._random.choice
        if self._random.random() < 0.15:
            return pick(VALUES)
        if expected == list[int]:
            return pick(([], [1, 1 << 40], [1, (1 << 40) + 5, 2, -1], [1]))
        if expected == list[str]:
            return pick(([], ["a"], ["b", "("], ["a", "c\n"], ["d", 5]))
        if isinstance(expected, GenericAlias):
            return pick(([], [[1, [1 << 40, 5]]], [[1, [1, -1]]], [[1, 1 << 18]], [1], [["x", []]]))
        kinds = get_args(expected) or (expected,)
        return pick([value for value in VALUES if type(value) in kinds])

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
        ends_all = records.REQUEST.to_bytes(4, "little") + ShutDown.NUMBER.to_bytes(4, "little")
        while (found := data.find(ends_all)) >= 0:
            data[found + 4] ^= 0x80
        return bytes(data)


def try_on_core(frames: int, seed: int, *, check_every: int = 1_000) -> int:
    """Feed `frames` frames to a core, each link until it breaks the protocol; returns how many links did.

    Raises:
        Exception: A bug: anything but a `ProtocolError` or a closed link.
    """
    mutator, core = Mutator(seed), BusCore(BusConfig(memory_bytes_max=16 << 20), 0)
    core.handle(LinkOpened(1, 1), 0)
    core.handle(RegisterTopic(1, 1, "a"), 0)
    core.handle(subscribe_request(1, 2, "honest", ["a"], 100), 0)
    link, cut_off = 2, 0
    core.handle(LinkOpened(link, link), 0)
    stream = ManagerDecoder(link)
    for number in range(frames):
        try:
            effects = [
                effect
                for message in stream.feed(mutator.frame(link))
                for effect in core.handle(message, number)
                if isinstance(effect, CloseLink)
            ]
        except ProtocolError:
            effects = [CloseLink(link, "")]
        if effects or number % FRAMES_A_LINK == 0:
            cut_off += len(effects)
            core.handle(LinkLost(link, crashed=True), number)
            link += 1
            core.handle(LinkOpened(link, link), number)
            core.handle(SpanWanted(link, 1 << 18, SPAN_NEEDED), number)
            stream = ManagerDecoder(link)
        if number % check_every == 0:
            core.check_invariants()
    core.handle(LinkLost(link, crashed=True), frames)
    core.check_invariants()
    assert set(core.state.links) == {1}
    return cut_off


def try_on_manager(run_dir: Path, frames: int, seed: int) -> int:
    """Send `frames` frames to a manager while an honest client publishes; returns how many of its events came."""
    mutator, sent = Mutator(seed), 0
    with EventBus("test", ["honest"], run_dir=str(run_dir), memory_bytes_max=16 << 20) as bus:
        inbox = bus.inbox("honest one", ["honest$"], credit=10)
        pid = bus.statistics().manager_pid
        for _ in range(0, frames, 20):
            with Rogue(run_dir) as rogue:
                rogue.send(*[mutator.frame(rogue.welcome.link) for _ in range(20)])
            shadow = bus.notify(Event(str(sent), "honest", sent))
            got = inbox.get(60)
            assert got == shadow, f"{got} came, not {shadow}"
            assert got is not None
            assert bus.fetch_event_data(got) == sent
            inbox.complete(got)
            sent += 1
        assert bus.statistics().manager_pid == pid, "the manager died"
        bus.shutdown()
    return sent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    cut_off = try_on_core(options.frames, options.seed)
    print(f"core: {options.frames} frames, {cut_off} links cut off")
    with tempfile.TemporaryDirectory(prefix="ebmp-malformed-") as folder:
        sent = try_on_manager(Path(folder), options.frames, options.seed)
    print(f"manager: {options.frames} frames, 0 deaths; {sent} events of another client came through")
    return 0


if __name__ == "__main__":
    sys.exit(main())
