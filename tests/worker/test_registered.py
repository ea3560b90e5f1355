"""Registered types and arrays in worker processes, whatever starts them."""

import dataclasses
import enum
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eventbus_mp import Event, EventBus, WorkerPool, register_type


@register_type
class Colour(enum.Enum):
    RED = 1


@register_type
@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    colour: Colour
    image: np.ndarray


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_types_of_a_module(make_bus: Callable[..., EventBus], start_method: str) -> None:
    bus = make_bus(topics=["a", "b"])
    inbox = bus.inbox("results", ["b"])
    pool = WorkerPool(bus, processes=1, start_method=start_method)

    @pool.on("a", name="work")
    def work(event: Event) -> None:
        known = type(event.data) is Job and event.data.colour is Colour.RED
        bus.notify(Event(event.id, "b", {"known": known, "job": event.data, "twice": event.data.image * 2}))

    with pool:
        bus.notify(Event("1", "a", Job(Colour.RED, np.arange(50_000))))
        shadow = inbox.get(30)
        assert shadow is not None
        data = bus.fetch_event(shadow).copy().data  # type: ignore[union-attr]
        inbox.complete(shadow)
    assert data["known"]
    assert data["job"].colour is Colour.RED
    assert np.array_equal(data["twice"], np.arange(50_000) * 2)


SCRIPT = """
import enum
from eventbus_mp import Event, EventBus, WorkerPool, register_type

@register_type
class Colour(enum.Enum):
    RED = 1

bus = EventBus("test", topics=["a", "b"], run_dir={run_dir!r}, manager_idle_s=0)
pool = WorkerPool(bus, processes=1, start_method={start_method!r})

@pool.on("a")
def work(event):
    bus.notify(Event(event.id, "b", [event.data is Colour.RED, event.data]))

if __name__ == "__main__":
    with bus.inbox("results", ["b"]) as inbox, pool:
        bus.notify(Event("1", "a", Colour.RED))
        print(bus.fetch_event_data(inbox.get(30)))
    bus.shutdown()
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_types_of_a_script(tmp_path: Path, run_dir: Path, start_method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(run_dir=str(run_dir), start_method=start_method))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[True, <Colour.RED: 1>]\n"), done.stderr
