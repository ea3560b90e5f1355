"""What a journal notes of itself, for other processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Journal, figures, open_store
from eventbus_mp.addons.journal.figures import Figures, FiguresFile, figures_path, read_figures
from tests.addons.journal.away import Away


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


def seen(url: str, wanted: Callable[[Figures], object]) -> Figures:
    """The figures, as soon as this is true of them."""
    while (found := read_figures(url)) is None or not wanted(found):
        os.sched_yield()
    return found


def test_what_a_journal_has_done(bus: EventBus, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_mp.addons.journal.writer.MEASURE_S", 0.0)
    with Journal(bus, url, batch_events=10, name="audit"):
        bus.notify_many(Event(number, "a", None) for number in range(100))
        bus.notify(Event("bad", "a", None, occurred_at=1 << 70))
        bus.drain()
        now = seen(url, lambda found: found.position == 100 and found.rejected)
        assert (now.bus, now.name, now.pid, now.stored, now.duplicates) == ("test", "audit", os.getpid(), 100, 0)
        assert now.commits == sum(now.commit_log2_ns) >= 10
        assert now.commit_ns > 0
        assert now.store_bytes > 4_096
        assert (now.error, now.failing_s, now.spooled, now.is_running) == ("", 0, 0, True)
        assert figures_path(url).stat().st_mode & 0o777 == 0o600
        assert seen(url, lambda found: found.caught_up_ns > now.noted_ns).lag_s < now.lag_s + 60
    stopped = read_figures(url)
    assert stopped is not None
    assert (stopped.is_running, stopped.stored) == (False, 100)


def test_one_that_says_nothing_does_not_run(bus: EventBus, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(bus, url):
        monkeypatch.setattr(figures, "QUIET_S", 0.0)
        found = read_figures(url)
        assert found is not None
        assert not found.is_running


def test_an_outage_and_its_end(bus: EventBus, url: str, tmp_path: Path, heard: Callable[[str], None]) -> None:
    with Journal(bus, url, batch_within_s=0.005):
        away = Away(tmp_path / "test.db")
        bus.notify(Event(1, "a", None))
        failing = seen(url, lambda found: found.error)
        assert "test.db" in failing.error
        assert 0 < failing.failing_s <= failing.lag_s + 1
        away.back()
        heard("is back after")
        bus.drain(timeout_s=60)
        assert seen(url, lambda found: found.stored).error == ""


def test_what_is_in_the_spool(bus: EventBus, url: str, tmp_path: Path, heard: Callable[[str], None]) -> None:
    spool = f"sqlite:///{tmp_path / 'spool.db'}"
    with Journal(bus, url, batch_within_s=0.005, on_outage="spool", spool=spool):
        away = Away(tmp_path / "test.db")
        bus.notify_many(Event(number, "a", None) for number in range(100))
        bus.drain(timeout_s=60)
        assert seen(url, lambda found: found.spooled == 100).error
        away.back()
        heard("has what was in the spool")
        now = seen(url, lambda found: not found.spooled)
        assert (now.error, now.stored) == ("", 100)


def test_no_figures(url: str, tmp_path: Path) -> None:
    assert read_figures(url) is None
    assert read_figures(f"sqlite:///{tmp_path}/no/such/folder.db") is None
    figures_path(url).write_bytes(b"00000000 {}")
    assert read_figures(url) is None
    figures_path(url).write_bytes(b"\xff" * 9_000)
    assert read_figures(url) is None
    figures_path(url).unlink()
    figures_path(url).mkdir()
    assert read_figures(url) is None


def test_a_store_that_is_no_file_has_its_figures_in_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    paths = {figures_path(f"postgresql:///{name}?password=secret") for name in ("one", "two")}
    assert {path.parent for path in paths} == {tmp_path / "eventbus-mp"}
    assert len(paths) == 2
    assert not any("secret" in path.name for path in paths)


def test_a_reader_never_sees_half_of_it(url: str) -> None:
    file = FiguresFile(url, Figures("test", "journal", 1))
    is_over = threading.Event()

    def write() -> None:
        count = 0
        while not is_over.is_set():
            count += 1
            file.note(stored=10**count % (10**15 + 1), error="x" * (count % 200))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(500):
            assert read_figures(url) is not None
    finally:
        is_over.set()
        thread.join()
        file.close()


def test_figures_that_cannot_be_written_cost_nothing_else(
    bus: EventBus, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    figures_path(url).mkdir()
    with Journal(bus, url):
        bus.notify(Event(1, "a", None))
        bus.drain()
    with open_store(url) as store:
        assert store.last_position() == 1
    assert caplog.text.count("the figures of this journal are not noted") == 1


def test_the_longest_texts_have_room(url: str) -> None:
    file = FiguresFile(url, Figures("b" * 64, "\U0001f600" * 1_000, 1, commit_log2_ns=(1 << 62,) * figures.BUCKETS))
    file.note_failure(OSError("\U0001f600" * 1_000))
    file.close()
    assert figures_path(url).stat().st_size == figures.FILE_BYTES
    assert read_figures(url) is not None
