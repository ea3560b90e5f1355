"""Segments of a test, removed at its end."""

import itertools
import os

import pytest

from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.memory import shm


@pytest.fixture
def prefix():
    """What the test's segments begin with; whatever it left is removed."""
    name = f"ebmp-test{os.getpid()}-{os.urandom(4).hex()}-"
    yield name
    for left in shm.leftovers(name):
        shm.remove(left)


@pytest.fixture
def make_segment(prefix):
    """Makes numbered segments of a length; gives the number."""
    numbers = itertools.count(1)

    def make(length):
        number = next(numbers)
        shm.create(f"{prefix}{number}", length)
        return number

    return make


@pytest.fixture
def more_than_there_is():
    """Bytes that /dev/shm has not even when it is empty.

    The kernel refuses that at once. More than is free it would try to give, and the machine may run out of memory.
    """
    status = os.statvfs(shm.SHM_DIR)
    if not status.f_blocks:
        pytest.skip("this /dev/shm has no size")
    length = status.f_blocks * status.f_frsize + 64 * 1024 * 1024
    return length - length % CHUNK_BYTES
