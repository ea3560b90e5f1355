"""What only shared memory has: other processes see it, no other process unlinks it, and nothing is left mapped."""

import os
import subprocess
import sys
import textwrap

import pytest

from eventbus_mp.memory.shm import SHARED_MEMORY, SHM_DIR

MIB = 1 << 20


@pytest.fixture
def store():
    return SHARED_MEMORY


@pytest.fixture
def name(prefix):
    """A segment of one MiB."""
    SHARED_MEMORY.create(prefix + "1", MIB)
    return prefix + "1"


def run(source, *arguments):
    """Run a program of its own, which must end well and say nothing on its standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_one_process_writes_another_reads(name):
    view = SHARED_MEMORY.attach(name)
    view[100:105] = b"hello"
    program = """
        import sys
        from eventbus_mp.memory.shm import SharedMemoryStore
        print(bytes(SharedMemoryStore().attach(sys.argv[1])[100:105]).decode())
    """
    assert run(program, name) == "hello\n"


def test_a_process_that_attached_and_exits_does_not_unlink(name, prefix):
    program = """
        import sys
        from multiprocessing import resource_tracker
        from eventbus_mp.memory.shm import SHARED_MEMORY
        resource_tracker.ensure_running()
        view = SHARED_MEMORY.attach(sys.argv[1])
        view[0] = 7
    """
    run(program, name)
    assert SHARED_MEMORY.leftovers(prefix) == [name]
    assert SHARED_MEMORY.attach(name)[0] == 7


def test_attaching_starts_no_resource_tracker(name):
    program = """
        import sys
        from multiprocessing import resource_tracker
        from eventbus_mp.memory.shm import SHARED_MEMORY
        view = SHARED_MEMORY.attach(sys.argv[1])
        print(resource_tracker._resource_tracker._fd)
    """
    assert run(program, name) == "None\n"


def test_reading_what_is_not_backed_takes_no_memory(prefix):
    """A read through a mapping would take a page, or end in SIGBUS where /dev/shm has none left."""
    SHARED_MEMORY.create(prefix + "1", 64 * MIB)
    assert SHARED_MEMORY.read(prefix + "1", 0, MIB) == bytes(MIB)
    assert (SHM_DIR / (prefix + "1")).stat().st_blocks == 0


def test_only_this_user_may_read(name):
    assert (SHM_DIR / name).stat().st_mode & 0o777 == 0o600


def test_a_segment_that_cannot_get_its_length_is_not_there(prefix):
    with pytest.raises(OSError, match=r"."):
        SHARED_MEMORY.create(prefix + "1", -1)
    assert SHARED_MEMORY.leftovers(prefix) == []


def test_a_mapping_goes_with_its_last_view(name):
    view = SHARED_MEMORY.attach(name)
    part = view[5:10]
    del view
    assert is_mapped(name)
    del part
    assert not is_mapped(name)


def test_a_descriptor_goes_with_its_mapping(name):
    before = set(os.listdir("/proc/self/fd"))
    view = SHARED_MEMORY.attach(name)
    SHARED_MEMORY.back(name, 0, MIB)
    SHARED_MEMORY.read(name, 0, 1)
    SHARED_MEMORY.free_pages(name, 0, MIB)
    with pytest.raises(ValueError, match="not inside segment"):
        SHARED_MEMORY.back(name, MIB, MIB)
    view.release()
    assert set(os.listdir("/proc/self/fd")) == before


def is_mapped(name):
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return name in maps.read()
