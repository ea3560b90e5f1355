"""Fixtures for pytest, which finds them by itself where eventbus_mp is installed.

    bus             a `TestBus`: the whole bus in the thread of the test
    bus_processes   a real bus, with its manager's process, whose files are in the test's temporary directory

Both are called "test" and have no topics, unless the test, its class or its module is marked:

    @pytest.mark.eventbus("shop", topics=["order_paid"], memory_bytes_max=64 << 20)

In the ini file, `eventbus_mp_names = shop` lists the buses that the program under test uses. In the process of the test
run, a `TestBus` stands in for each of them from the beginning. So a program that subscribes when it is imported starts
no manager; and `bus` takes the first of them for its name, and has what the program has subscribed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from eventbus_mp.client.bus import EventBus
    from eventbus_mp.testing import TestBus

__all__ = ["bus", "bus_processes", "pytest_addoption", "pytest_configure", "pytest_unconfigure"]

NAMES_INI = "eventbus_mp_names"
HANDLES_OWN = ("topics", "require", "instruments")
"""What `EventBus` takes besides the settings."""
_stand_ins = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        NAMES_INI, "names of buses that a TestBus stands in for during the whole run", type="args", default=[]
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "eventbus(name, topics=..., **settings): what the fixture `bus` makes")
    stand_ins = config.stash[_stand_ins] = ExitStack()
    for name in config.getini(NAMES_INI):
        from eventbus_mp.errors import UsageError
        from eventbus_mp.testing import TestBus

        try:
            stand_ins.callback(TestBus(name).close)
        except UsageError as error:
            raise pytest.UsageError(f"{NAMES_INI}: {error}") from error


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_stand_ins].close()


def _wanted(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The bus's name and its arguments, as the nearest marker has them."""
    names = request.config.getini(NAMES_INI)
    marker = request.node.get_closest_marker("eventbus")
    given = dict(marker.kwargs) if marker is not None else {}
    if marker is not None and marker.args:
        if len(marker.args) > 1 or "name" in given:
            raise pytest.UsageError(f"eventbus{marker.args!r}: the marker takes one name, and topics as topics=[...]")
        given["name"] = marker.args[0]
    return given.pop("name", names[0] if names else "test"), given


@pytest.fixture
def bus(request: pytest.FixtureRequest) -> Iterator[TestBus]:
    """A `TestBus`; it ends with the test."""
    from eventbus_mp.testing import TestBus

    name, given = _wanted(request)
    with TestBus(name, **given) as made:
        yield made


@pytest.fixture
def bus_processes(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EventBus]:
    """A real bus, which is shut down after the test.

    Its run directory is `EVENTBUS_MP_RUN_DIR` meanwhile: other handles of its name, and those of the processes that the
    test starts, find it; handles that there are already use it meanwhile, with what they have subscribed.
    """
    from eventbus_mp.client.bus import EventBus
    from eventbus_mp.client.sessions import standing_in
    from eventbus_mp.errors import NoSuchBus

    name, given = _wanted(request)
    run_dir = str(tmp_path / "eventbus_mp")
    monkeypatch.setenv("EVENTBUS_MP_RUN_DIR", run_dir)
    settings = {field: value for field, value in given.items() if field not in HANDLES_OWN}
    # In the place of what `eventbus_mp_names` has put there; whichever handle connects first starts the manager.
    with standing_in(name, run_dir=run_dir, **settings) as put_back, EventBus(name, **given) as made:
        yield made
        put_back()
        # Not by `made`, which the test may have closed, as it may have shut the bus down.
        with suppress(NoSuchBus), EventBus.attach(name, run_dir=run_dir) as running:
            running.shutdown()
