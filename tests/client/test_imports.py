"""What a process imports that finds a bus and publishes: nothing for starting a manager, and nothing for questions."""

import subprocess
import sys
from collections.abc import Callable

from eventbus_mp import EventBus

WITHOUT = (
    "asyncio",
    "eventbus_mp.aio",
    "eventbus_mp.client.dead_letters",
    "eventbus_mp.client.questions",
    "eventbus_mp.explanation",
    "eventbus_mp.history",
    "eventbus_mp.manager",
    "eventbus_mp.runtime.launch",
    "eventbus_mp.snapshot",
    "eventbus_mp.worker",
    "multiprocess",
    "sqlite3",
)
PROGRAM = """
import sys
before = {*sys.modules}
from eventbus_mp import Event, EventBus
with EventBus("test", run_dir=sys.argv[1]) as bus:
    bus.notify(Event("1", "a", "data"))
print(*{*sys.modules} - before)
"""


def test_a_producer_does_without(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a"])
    with bus.inbox("test", ["a"]) as inbox:
        program = [sys.executable, "-c", PROGRAM, bus.config.run_dir]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
        assert inbox.get(timeout_s=20).id == "1"
    imported = set(done.stdout.split())
    assert "eventbus_mp.client.publisher" in imported
    assert imported.isdisjoint(WITHOUT), imported.intersection(WITHOUT)
