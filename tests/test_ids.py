"""Ids: base62, unique in every process and thread, sorted by time."""

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.ids import base62, unique_id

ROOT = Path(__file__).parent.parent
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@given(st.integers(0, 1 << 200))
def test_base62_can_be_read_back(number):
    value = 0
    for char in base62(number):
        value = value * 62 + DIGITS.index(char)
    assert value == number


def test_the_digits_end_with_the_letters():
    assert [base62(number) for number in (0, 9, 10, 61, 62)] == ["0", "9", "A", "z", "10"]


def test_a_child_that_was_forked_behind_pythons_back_makes_ids_of_its_own():
    """As a worker of uWSGI, which may make an id before it uses a handle."""
    unique_id()
    read_end, write_end = os.pipe()
    pid = ctypes.PyDLL(None).fork()
    if not pid:
        try:
            os.write(write_end, unique_id().encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        of_child = pipe.read().decode()
    os.waitpid(pid, 0)
    of_parent = unique_id()
    assert len(of_child) == len(of_parent)
    assert of_child[-10:-4] != of_parent[-10:-4]


def test_ids_are_letters_and_digits_of_one_length():
    made = [unique_id() for _ in range(1000)]
    assert {len(one) for one in made} == {19}
    assert set("".join(made)) <= set(DIGITS)


def test_threads_never_make_the_same_id():
    made = []

    def make():
        made.extend([unique_id() for _ in range(2000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 8000


def test_a_forked_child_has_another_node_part():
    program = """
import os
from eventbus_mp.ids import unique_id
unique_id()
if os.fork() == 0:
    print(unique_id(), flush=True)
    os._exit(0)
os.wait()
print(unique_id())
"""
    child, parent = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).split()
    assert child[-10:-4] != parent[-10:-4]
