"""Parcels of every kind, as Hypothesis draws them, and one of each for those who only need one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from eventbus_mp.addons.bridge.parcels import (
    BULK,
    OUTCOMES,
    TIMED,
    Confirm,
    Entry,
    Events,
    Have,
    Held,
    Outcomes,
    Parcel,
    Part,
    Result,
    Target,
    Topics,
    Who,
)
from eventbus_mp.addons.bridge.state import SCOPES, RemoteSubscriber, State

LIFE, BRIDGE = b"life-of-", b"bridge-1"
MARKED = (0x504D4245).to_bytes(4, "little")


def one_of_each() -> list[Parcel]:
    """A parcel of each kind."""
    return [
        Events(
            "a",
            LIFE,
            "second",
            ["order", "paid"],
            [[], [Target("bill", b""), Target("ship", b"\x01")]],
            [Entry(5 << 40, 0, 0, 64), Entry(7, 1, 1, 1 << 20, BULK), Entry(8, 1, 1, 128, TIMED)],
            [bytes(64), b"", bytes(range(128))],
        ),
        Part("a", LIFE, "second", 5 << 40, "order", [Target("bill", b"")], 1, 3, 320, bytes(128), TIMED),
        Outcomes(
            "b",
            LIFE,
            BRIDGE,
            7,
            [
                Result("bill", b"", "completed", "", [5 << 40, 200, 7, 1]),
                Result("ship", b"\x01", "skipped", "too late", [9, 1]),
            ],
        ),
        Confirm("a", BRIDGE, [1, 2, 3, (1 << 64) - 1], 7),
        Topics("a", ["order", "paid", "what you like"]),
        Who("a", LIFE, 3),
        Have("b", LIFE, 3, [Held("bill", b"", [1, 2, 5, 1]), Held("ship", b"\x01", [])]),
    ]


def a_state() -> State:
    """A state in which every field has a value."""
    bill, group = RemoteSubscriber("bill", b"", ["order.*", "paid"], "host"), RemoteSubscriber("g", b"c", [], "cluster")
    return State("a", "second", LIFE, BRIDGE, 1_700_000_000_000, [bill, group], "127.0.0.1:4711", b"secret")


def mutated(rng: random.Random, data: bytes) -> bytes:
    """These bytes, a little wrong: the ways in which machines and attackers are."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(broken) + 1), rng.randint(1, 40)
        match rng.randrange(5):
            case 0:
                broken[at : at + 8] = rng.randbytes(rng.choice([1, 8]))
            case 1:
                broken[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\xdd\x7f\xff\xff"])
            case 2:
                broken[at:at] = rng.randbytes(length)
            case 3:
                del broken[at : at + length]
            case 4:
                del broken[at:]
    return bytes(broken)


# --- what Hypothesis draws ---

hosts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
names = hosts
topics = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
lives = st.binary(min_size=8, max_size=8)
units = st.sampled_from(["second", "millisecond", "microsecond", "nanosecond"])
numbers = st.integers(0, (1 << 64) - 1)
configs = st.binary(max_size=20)
targets = st.builds(Target, names, configs)
flat_ranges = st.lists(st.tuples(st.integers(0, (1 << 63)), st.integers(1, 1 << 63)).map(list), max_size=6).map(
    lambda pairs: [number for pair in pairs for number in pair]
)


@st.composite
def events(draw: Callable[..., Any]) -> Events:
    names_of_topics = draw(st.lists(topics, min_size=1, max_size=4))
    sets = draw(st.lists(st.lists(targets, max_size=3), min_size=1, max_size=3))
    entries, payloads = [], []
    for _ in range(draw(st.integers(0, 12))):
        flags = draw(st.sampled_from([0, TIMED, BULK, BULK | TIMED]))
        length = 64 * draw(st.sampled_from([1, 2, 3, 300]))
        at = draw(st.integers(0, len(names_of_topics) - 1)), draw(st.integers(0, len(sets) - 1))
        entries.append(Entry(draw(numbers), *at, length, flags))
        payloads.append(b"" if flags & BULK else draw(st.binary(min_size=1, max_size=1)) * length)
    return Events(draw(hosts), draw(lives), draw(units), names_of_topics, sets, entries, payloads)


@st.composite
def wholes(draw: Callable[..., Any]) -> Part:
    """An event as one part."""
    payload = random.Random(draw(st.integers(0, 1000))).randbytes(64 * draw(st.integers(1, 60)))
    for_whom = draw(st.lists(targets, max_size=3))
    fields = draw(hosts), draw(lives), draw(units), draw(numbers), draw(topics), for_whom
    return Part(*fields, 0, 1, len(payload), payload, draw(st.sampled_from([0, TIMED])))


results = st.builds(Result, names, configs, st.sampled_from(OUTCOMES), st.text(max_size=10), flat_ranges)
parcels = st.one_of(
    events(),
    wholes(),
    st.builds(Outcomes, hosts, lives, lives, numbers, st.lists(results, max_size=4)),
    st.builds(Confirm, hosts, lives, st.lists(numbers, max_size=20), numbers),
    st.builds(Topics, hosts, st.lists(topics, max_size=6)),
    st.builds(Who, hosts, lives, numbers),
    st.builds(Have, hosts, lives, numbers, st.lists(st.builds(Held, names, configs, flat_ranges), max_size=4)),
)
subscribers = st.builds(
    RemoteSubscriber, names, configs, st.lists(st.text(max_size=9), max_size=3), st.sampled_from(SCOPES)
)
states = st.builds(
    State,
    hosts,
    units,
    lives,
    lives,
    numbers,
    st.lists(subscribers, max_size=4),
    st.none() | st.just("127.0.0.1:1"),
    st.binary(max_size=32),
    st.integers(0, 300),
    st.integers(0, 300),
    st.sampled_from(["little", "big"]),
)
