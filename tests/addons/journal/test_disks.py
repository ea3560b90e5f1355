"""Real disks that are full or read-only: small file systems, mounted for one process and gone with it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Checkpoint, Journal, Selection, StoreUnavailable, open_store
from tests.addons.journal.away import Away, Said
from tests.addons.journal.rows import rows
from tests.addons.journal.test_journal import stored_ids
from tests.faults.namespaces import may_mount, mount_tmpfs, own_mounts

ALL = Selection()
PAYLOAD = bytes(2_000)
Fork = Callable[..., Any]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where a disk is mounted, by the child that needs one."""
    if not may_mount():
        pytest.skip("this user may not mount file systems")
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def speak(say: Any) -> None:
    """Have the parent hear what a journal of this child logs."""
    logging.getLogger("eventbus_mp.journal").addHandler(Said(say.send))


def heard(child: Any, text: str) -> None:
    """Wait until the child has said this."""
    said = ""
    while text not in said:
        said = child.hear(60)


def fill(disk: Path) -> None:
    """Take what room is left."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        written = 1
        while written:
            written = file.write(bytes(4_096))


def test_a_full_disk_loses_nothing_and_can_be_read(bus: EventBus, disk: Path, run_dir: Path, fork: Fork) -> None:
    url = f"sqlite:///{disk / 'test.db'}"

    def journal(say: Any) -> None:
        own_mounts()
        mount_tmpfs(disk, "size=2m")
        speak(say)
        with EventBus("test", run_dir=str(run_dir)) as mine, Journal(mine, url, batch_within_s=0.005):
            say.send("ready")
            say.recv()
            say.send(stored_ids(url))
            mount_tmpfs(disk, "size=64m", again=True)
            say.recv()
        say.send(stored_ids(url))

    child = fork(journal)
    heard(child, "ready")
    bus.notify_many(Event(number, "a", PAYLOAD) for number in range(3_000))
    heard(child, "database or disk is full")
    child.tell()
    assert len(child.hear()) < 3_000
    heard(child, "is back after")
    bus.drain(timeout_s=60)
    child.tell()
    assert child.hear() == list(range(3_000))
    assert child.wait() == 0


def test_a_full_spool_goes_on_when_the_store_is_back(
    bus: EventBus, disk: Path, run_dir: Path, tmp_path: Path, fork: Fork
) -> None:
    url, spool = f"sqlite:///{tmp_path / 'test.db'}", f"sqlite:///{disk / 'spool.db'}"

    def journal(say: Any) -> None:
        own_mounts()
        mount_tmpfs(disk, "size=2m")
        speak(say)
        with (
            EventBus("test", run_dir=str(run_dir)) as mine,
            Journal(mine, url, batch_events=100, on_outage="spool", spool=spool) as writer,
        ):
            away = Away(tmp_path / "test.db")
            say.send("away")
            say.recv()
            fill(disk)
            spooled = len(stored_ids(spool))
            away.back()
            say.recv()
            say.send((spooled, writer.status().stored))
            mount_tmpfs(disk, "size=64m", again=True)
            while stored_ids(spool):
                os.sched_yield()

    child = fork(journal)
    heard(child, "away")
    bus.notify_many(Event(number, "a", PAYLOAD) for number in range(3_000))
    heard(child, "database or disk is full")
    child.tell()
    heard(child, "stays in the spool for now")
    heard(child, "has what was in the spool")
    bus.drain(timeout_s=60)
    child.tell()
    spooled, stored = child.hear()
    assert 100 <= spooled < stored == 3_000
    assert child.wait() == 0
    assert stored_ids(url) == list(range(3_000))


def test_a_disk_that_is_full_before_the_journal_begins(bus: EventBus, disk: Path, run_dir: Path, fork: Fork) -> None:
    def journal(say: Any) -> None:
        own_mounts()
        mount_tmpfs(disk, "size=64k")
        (disk / "other").write_bytes(bytes(60 << 10))
        with (
            EventBus("test", run_dir=str(run_dir)) as mine,
            pytest.raises(StoreUnavailable, match="disk is full"),
            Journal(mine, f"sqlite:///{disk / 'test.db'}"),
        ):
            pass

    bus.topics()
    assert fork(journal).wait() == 0


def test_a_disk_that_is_read_only_from_the_beginning(disk: Path, bus: EventBus, run_dir: Path, fork: Fork) -> None:
    """As a copy that is mounted to be looked at: whoever writes is refused, and whoever reads is not."""
    path = disk / "test.db"
    url = f"sqlite:///{path}"

    def look(say: Any) -> None:
        own_mounts()
        mount_tmpfs(disk, "size=8m")
        with open_store(url, writes=True) as store:
            assert store.take_lock()
            store.append(rows(10))
            store.save_checkpoint(Checkpoint("friday", "staging", 5))
        mount_tmpfs(disk, "size=8m", again=True, read_only=True)
        for place in (url, f"sqlite:///{disk / 'new.db'}"):
            with (
                EventBus("test", run_dir=str(run_dir)) as mine,
                pytest.raises(StoreUnavailable, match=r"(?i)read-only"),
                Journal(mine, place),
            ):
                pass
        with open_store(url) as reader:
            assert reader.count(ALL) == 10
            assert [one.name for one in reader.checkpoints()] == ["friday"]
            with pytest.raises(StoreUnavailable, match=r"(?i)read-?only"):
                reader.save_checkpoint(Checkpoint("saturday", "staging", 5))
            # Somebody else may write it: this process is not the only one that can mount a disk.
            mount_tmpfs(disk, "size=8m", again=True)
            with open_store(url, writes=True) as store:
                assert store.take_lock()
                store.append(rows(10, begin=10))
                assert reader.count(ALL) == 20
            assert reader.count(ALL) == 20
        Path(f"{path}-shm").unlink()
        Path(f"{path}-wal").touch()  # As of a writer that was killed, if not all of its files were copied.
        mount_tmpfs(disk, "size=8m", again=True, read_only=True)
        with pytest.raises(StoreUnavailable, match="copy it with its -wal"):
            open_store(url)
        say.send("done")

    bus.topics()
    child = fork(look)
    assert child.hear(60) == "done"
    assert child.wait() == 0


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="there is no mkfs.ext4")
def test_a_disk_that_becomes_read_only_under_a_journal(
    bus: EventBus, disk: Path, run_dir: Path, fork: Fork, tmp_path: Path
) -> None:
    """As Linux does it after an error of the disk: nothing is settled, and the next journal has all of it."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", image], check=True)
    url = f"sqlite:///{disk / 'test.db'}"

    def journal(say: Any) -> None:
        own_mounts()
        done = subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, disk], check=False, capture_output=True)
        if done.returncode:
            say.send("no loop device")
            return
        speak(say)
        with EventBus("test", run_dir=str(run_dir)) as mine, Journal(mine, url, batch_within_s=0.005):
            say.send("ready")
            say.recv()
            device = Path(f"/sys/dev/block/{_device_of(disk)}").resolve().name
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test")
            say.send("is read-only now")
            say.recv()
        say.send(stored_ids(url))

    child = fork(journal)
    if (said := child.hear(60)) == "no loop device":
        pytest.skip(said)
    assert said == "ready"
    bus.notify_many(Event(number, "a", PAYLOAD) for number in range(10))
    bus.drain(timeout_s=60)
    child.tell()
    heard(child, "is read-only now")
    bus.notify_many(Event(number, "a", PAYLOAD) for number in range(10, 2_000))
    heard(child, "events cannot be stored")
    child.tell()
    while type(said) is not list:
        said = child.hear(60)
    assert said == list(range(10))
    assert child.wait() == 0
    with Journal(bus, f"sqlite:///{tmp_path / 'other.db'}"):
        bus.drain(timeout_s=60)
    assert stored_ids(f"sqlite:///{tmp_path / 'other.db'}") == list(range(10, 2_000))


def _device_of(path: Path) -> str:
    number = path.stat().st_dev
    return f"{number >> 8}:{number & 0xFF}"
