"""Real shared memory: nobody else unlinks it, nobody's view is pulled away, and nothing is left."""

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from eventbus_mp.memory import shm

MIB = 1 << 20


def run(source, *arguments):
    """Run a program of its own; it must end well and say nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_one_process_writes_another_reads(prefix):
    shm.create(prefix + "1", MIB)
    view = shm.attach(prefix + "1")
    view[100:105] = b"hello"
    program = """
        import sys
        from eventbus_mp.memory import shm
        print(bytes(shm.attach(sys.argv[1])[100:105]).decode())
    """
    assert run(program, prefix + "1") == "hello\n"


def test_a_process_that_attached_and_exits_does_not_unlink(prefix):
    shm.create(prefix + "1", MIB)
    program = """
        import sys
        from multiprocessing import resource_tracker
        from eventbus_mp.memory import shm
        resource_tracker.ensure_running()
        view = shm.attach(sys.argv[1])
        view[0] = 7
    """
    run(program, prefix + "1")
    assert shm.leftovers(prefix) == [prefix + "1"]
    assert shm.attach(prefix + "1")[0] == 7


def test_nobody_starts_a_resource_tracker(prefix):
    shm.create(prefix + "1", MIB)
    program = """
        import sys
        from multiprocessing import resource_tracker
        from eventbus_mp.memory import shm
        view = shm.attach(sys.argv[1])
        print(resource_tracker._resource_tracker._fd)
    """
    assert run(program, prefix + "1") == "None\n"


def test_a_view_outlives_the_name(prefix):
    shm.create(prefix + "1", MIB)
    part = shm.attach(prefix + "1")[10:20]
    part[:] = b"0123456789"
    shm.remove(prefix + "1")
    assert bytes(part) == b"0123456789"
    assert shm.leftovers(prefix) == []


def test_a_segment_that_is_gone(prefix):
    with pytest.raises(FileNotFoundError):
        shm.attach(prefix + "1")
    shm.remove(prefix + "1")


def test_a_name_that_is_taken(prefix):
    shm.create(prefix + "1", MIB)
    with pytest.raises(FileExistsError):
        shm.create(prefix + "1", MIB)


def test_a_segment_takes_memory_only_where_it_is_backed(prefix):
    shm.create(prefix + "1", 64 * MIB)
    path = shm.SHM_DIR / (prefix + "1")
    assert (path.stat().st_size, path.stat().st_blocks) == (64 * MIB, 0)
    shm.back(prefix + "1", 2 * MIB, MIB)
    assert path.stat().st_blocks * 512 == MIB


def test_backing_twice_keeps_what_is_there(prefix):
    shm.create(prefix + "1", MIB)
    shm.back(prefix + "1", 0, MIB)
    view = shm.attach(prefix + "1")
    view[0] = 9
    shm.back(prefix + "1", 0, MIB)
    assert view[0] == 9


def test_more_than_there_is_says_so_instead_of_killing(prefix, more_than_there_is):
    shm.create(prefix + "1", more_than_there_is)
    with pytest.raises(OSError, match="No space left") as caught:
        shm.back(prefix + "1", 0, more_than_there_is)
    assert caught.value.errno == errno.ENOSPC


def test_only_this_user_may_read(prefix):
    shm.create(prefix + "1", MIB)
    assert (shm.SHM_DIR / (prefix + "1")).stat().st_mode & 0o777 == 0o600


def test_a_mapping_goes_with_its_last_view(prefix):
    shm.create(prefix + "1", MIB)
    view = shm.attach(prefix + "1")
    part = view[5:10]
    del view
    assert mapped(prefix)
    del part
    assert not mapped(prefix)


def mapped(prefix):
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return prefix in maps.read()
