"""Users' values as JSON that every reader understands, of a bounded size."""

import json
from typing import Any

import numpy as np
import pytest

from eventbus_mp.addons.web.preview import PREVIEW_BYTES_MAX, id_fields, preview
from eventbus_mp.addons.web.rows import json_bytes


class Unwilling:
    """Its `repr` raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (1 << 53, 1 << 53),
        (1 << 60, {"$type": "int", "text": "1152921504606846976"}),
        (-(1 << 60), {"$type": "int", "text": "-1152921504606846976"}),
        (float("nan"), {"$type": "float", "text": "nan"}),
        (float("-inf"), {"$type": "float", "text": "-inf"}),
        ({"a": [1.5, "<b>"]}, {"a": [1.5, "<b>"]}),
        ((1, 2), {"$type": "tuple", "items": [1, 2]}),
        ({1: 2}, {"$type": "dict", "items": [[1, 2]]}),
        ({"$type": 1}, {"$type": "dict", "items": [["$type", 1]]}),
        (b"\0\xff", {"$type": "bytes", "bytes": 2, "hex": "00ff"}),
        (memoryview(b"abc"), {"$type": "memoryview", "bytes": 3, "hex": "616263"}),
        (np.zeros((3, 2), "f4"), {"$type": "numpy.ndarray", "dtype": "float32", "shape": [3, 2]}),
        ("\ud800", "\\ud800"),
    ],
)
def test_each_kind_of_value(value: Any, shown: Any) -> None:
    assert preview(value) == (shown, False)
    json.loads(json_bytes(shown))


def test_an_object_whose_repr_raises() -> None:
    shown, _ = preview(Unwilling())
    assert shown["repr"] == "its repr raises RuntimeError"


@pytest.mark.parametrize(
    "value",
    [
        "x" * (1 << 20),
        "\U0001f600" * (1 << 16),
        "\x00" * (1 << 16),
        list(range(1 << 20)),
        {str(number): "text" * number for number in range(5_000)},
        {number: number for number in range(100_000)},
        [["x" * 300] * 300] * 300,
        [[]] * 100_000,
        deep(500),
        b"x" * (1 << 20),
    ],
    ids=["text", "emoji", "control", "numbers", "names", "integers", "lists", "empty", "deep", "bytes"],
)
def test_nothing_is_larger_than_the_bound(value: Any) -> None:
    shown, is_cut = preview(value)
    assert is_cut or isinstance(value, bytes)
    # What JSON has round the texts is estimated; it is over by little.
    assert len(json_bytes(shown)) <= PREVIEW_BYTES_MAX + 1_024


def test_a_text_and_an_integer_are_two_ids() -> None:
    assert id_fields(7) == {"id": "7", "int": True}
    assert id_fields("7") == {"id": "7", "int": False}
    assert id_fields((1 << 63) - 1)["id"] == "9223372036854775807"
    assert id_fields(None) == {"id": None, "int": False}
