"""Large events in parts: cut, and put together again in any order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.addons.bridge.parcels import ParcelError, Part, Target, decode
from eventbus_mp.addons.bridge.parts import Assembler, AssemblerFull, split
from tests.addons.bridge.parcels import LIFE, wholes

MIB = 1 << 20


def an_event(sequence: int = 1, length: int = 640, life: bytes = LIFE, host: str = "a") -> Part:
    payload = random.Random(sequence).randbytes(length)
    return Part(host, life, "second", sequence, "image", [Target("bill", b"")], 0, 1, length, payload)


def parts_of(whole: Part, part_bytes: int = 128) -> list[Part]:
    """The parts as they arrive: encoded and decoded."""
    parts = [decode(part.encode()) for part in split(whole, part_bytes)]
    assert all(isinstance(part, Part) for part in parts)
    return parts  # type: ignore[return-value]


@given(wholes(), st.integers(1, 40), st.randoms(use_true_random=False))
def test_parts_in_any_order_and_repeated_make_the_event(whole: Part, lines: int, rng: random.Random) -> None:
    parts = parts_of(whole, 64 * lines)
    assert len({len(part.chunk) for part in parts[:-1]}) <= 1
    assert len({part.stride for part in parts}) == 1
    last = parts.pop(rng.randrange(len(parts)))
    repeated = parts + rng.choices(parts, k=rng.randrange(4)) if parts else []
    rng.shuffle(repeated)
    assembler: Assembler[int] = Assembler(MIB)
    assert [assembler.add(part, part.index, 0.0) for part in repeated] == [None] * len(repeated)
    found = assembler.add(last, last.index, 0.0)
    assert found is not None
    assert found.part == whole
    assert found.letters == tuple(range(len(parts) + 1))
    assert (assembler.bytes_used, assembler.letters) == (0, [])


def test_a_missing_part_leaves_the_event_unfinished() -> None:
    assembler: Assembler[str] = Assembler(MIB)
    first, *_, last = parts_of(an_event())
    assert assembler.add(first, "first", 0.0) is None
    assert assembler.add(last, "last", 0.0) is None
    assert assembler.bytes_used == 640
    assert assembler.letters == ["first", "last"]


def test_of_a_part_that_comes_again_the_newest_letter_counts() -> None:
    assembler: Assembler[str] = Assembler(MIB)
    first, second = parts_of(an_event(length=192))
    for letter in ("old", "new"):
        assert assembler.add(first, letter, 0.0) is None
    assert assembler.letters == ["new"]
    whole = assembler.add(second, "second", 0.0)
    assert whole is not None
    assert whole.letters == ("new", "second")


def test_two_lives_two_hosts_and_two_target_sets_are_different_events() -> None:
    events = [
        an_event(),
        replace(an_event(), life=b"another-"),
        replace(an_event(), host="b"),
        replace(an_event(), targets=[Target("ship", b"")]),
    ]
    assembler: Assembler[int] = Assembler(MIB)
    rows = list(zip(*[parts_of(event) for event in events], strict=True))
    for row in rows[:-1]:
        assert [assembler.add(part, 0, 0.0) for part in row] == [None] * 4
    found = [assembler.add(part, 0, 0.0) for part in rows[-1]]
    assert [whole.part if whole else None for whole in found] == events


def test_a_bridge_may_cut_the_same_event_in_another_way() -> None:
    assembler: Assembler[str] = Assembler(MIB)
    old, new = parts_of(an_event(), 128), parts_of(an_event(), 256)
    assert [assembler.add(part, "old", 0.0) for part in old[:-1]] == [None] * 4
    *_, whole = [assembler.add(part, "new", 0.0) for part in new]
    assert whole is not None
    assert whole.part == an_event()
    assert whole.letters == ("new",) * 3
    assert assembler.forget_life("a", LIFE) == ["old"] * 4


def test_a_life_that_is_over_is_forgotten() -> None:
    assembler: Assembler[str] = Assembler(MIB)
    assembler.add(parts_of(an_event())[0], "old", 0.0)
    assembler.add(parts_of(an_event(life=b"another-"))[0], "new", 0.0)
    assert assembler.forget_life("b", LIFE) == []
    assert assembler.forget_life("a", LIFE) == ["old"]
    assert assembler.forget_life("a", LIFE) == []
    assert assembler.letters == ["new"]
    assert assembler.bytes_used == 640


def test_what_gets_no_part_for_long_is_forgotten() -> None:
    assembler: Assembler[int] = Assembler(MIB)
    slow, dead = parts_of(an_event(1)), parts_of(an_event(2))
    assembler.add(slow[0], 1, 10.0)
    assembler.add(dead[0], 2, 11.0)
    assembler.add(slow[1], 1, 50.0)
    assert assembler.forget_idle(11.0) == []
    assert assembler.forget_idle(50.0) == [2]
    assert assembler.letters == [1, 1]


def test_memory_is_bounded_and_what_has_begun_can_be_finished() -> None:
    assembler: Assembler[int] = Assembler(1500)
    one, two, three = (parts_of(an_event(sequence)) for sequence in (1, 2, 3))
    assert assembler.add(one[0], 1, 0.0) is None
    assert assembler.add(two[0], 2, 0.0) is None
    with pytest.raises(AssemblerFull, match="take 1280 of 1500 bytes"):
        assembler.add(three[0], 3, 0.0)
    *_, whole = [assembler.add(part, 1, 0.0) for part in one[1:]]
    assert whole is not None
    assert assembler.add(three[0], 3, 0.0) is None
    assert assembler.letters == [2, 3]


def test_an_event_that_will_never_fit_is_refused_for_good() -> None:
    assembler: Assembler[int] = Assembler(639)
    with pytest.raises(ParcelError, match="event 1 of topic 'image' has 640 bytes; 639 are allowed") as refused:
        assembler.add(parts_of(an_event())[0], 1, 0.0)
    assert not isinstance(refused.value, AssemblerFull)
    assert assembler.bytes_used == 0


def test_long_names_take_their_room_from_the_chunks() -> None:
    part_bytes = (1 << 20) - 4096
    many = [Target(f"subscriber {number} of {'x' * 900}", b"c" * 50) for number in range(300)]
    whole = replace(an_event(length=4 * MIB), host="h" * 255, topic="\N{SNOWMAN}" * 255, targets=many)
    for event in (whole, replace(whole, targets=many[:1]), replace(whole, targets=many[:2])):
        parts = list(split(event, part_bytes))
        assert max(len(part.encode()) for part in parts) < MIB - 512
        assert b"".join(part.chunk for part in parts) == event.chunk
    with pytest.raises(ParcelError, match="names of 300 subscribers leave no room in parts of 262144 bytes"):
        list(split(whole, 256 << 10))


def test_an_event_of_one_part() -> None:
    (part,) = parts_of(an_event(length=128))
    whole = Assembler[int](MIB).add(part, 5, 0.0)
    assert whole is not None
    assert (whole.part, whole.letters) == (an_event(length=128), (5,))
