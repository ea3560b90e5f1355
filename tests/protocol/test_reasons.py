"""Reasons for skips have numbers: the bus's own, and those that a process gives to texts."""

from eventbus_mp.geometry import REASON_LENGTH_MAX
from eventbus_mp.protocol.reasons import EXPIRED, NAMED_FIRST, NAMED_MAX, REASONS, ReasonNumbers, text_of


def test_the_reasons_of_the_bus_need_no_name() -> None:
    numbers = ReasonNumbers()
    for number, text in enumerate(REASONS):
        assert numbers.number_of(text) == (number, None)
        assert text_of(number, {}) == text
    assert len(REASONS) <= NAMED_FIRST
    assert EXPIRED in REASONS


def test_a_text_is_named_once() -> None:
    numbers = ReasonNumbers()
    assert numbers.number_of("too small") == (NAMED_FIRST, "too small")
    assert numbers.number_of("too small") == (NAMED_FIRST, None)
    assert numbers.number_of("too large") == (NAMED_FIRST + 1, "too large")


def test_the_oldest_number_is_used_again() -> None:
    numbers, named = ReasonNumbers(), dict[int, str]()
    texts = [f"reason {serial}" for serial in range(3 * NAMED_MAX)]
    for text in texts:
        number, name = numbers.number_of(text)
        assert name == text
        named[number] = name
        assert text_of(number, named) == text
    assert sorted(named) == list(range(NAMED_FIRST, NAMED_FIRST + NAMED_MAX))
    assert numbers.number_of(texts[-NAMED_MAX]) == (NAMED_FIRST, None)
    assert numbers.number_of(texts[0])[1] == texts[0]
    assert len(numbers._numbers) == NAMED_MAX + len(REASONS)


def test_a_text_that_cannot_travel_is_made_one_that_can() -> None:
    numbers = ReasonNumbers()
    number, name = numbers.number_of("\udcff" + "x" * 2 * REASON_LENGTH_MAX)
    assert name == "\\udcff" + "x" * (REASON_LENGTH_MAX - 1)
    assert numbers.number_of("\udcff" + "x" * 2 * REASON_LENGTH_MAX) == (number, None)


def test_a_number_without_a_name_has_no_text() -> None:
    assert text_of(NAMED_FIRST + 7, {}) == ""
