"""Segments of a test, removed at its end."""

import itertools
import os

import pytest

from eventbus_mp.memory import segment


@pytest.fixture
def prefix():
    """What the test's segments begin with; whatever it left is removed."""
    name = f"ebmp-test{os.getpid()}-{os.urandom(4).hex()}-"
    yield name
    for left in segment.leftovers(name):
        segment.remove(left)


@pytest.fixture
def make_segment(prefix):
    """Makes numbered segments of a length; gives the number."""
    numbers = itertools.count(1)

    def make(length):
        number = next(numbers)
        segment.create(f"{prefix}{number}", length)
        return number

    return make
