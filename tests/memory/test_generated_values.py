"""Every type that travels, in any nesting, from `notify` in one process to a reader in another, at three stack sizes.

Together 102,000 values a run. A seed that failed: `EVENTBUS_SEED=... pytest tests/memory/test_generated_values.py`.
"""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from eventbus_mp import Event, EventBus
from tests.memory.generated import Values

VALUES = 34_000
AT_ONCE = 500


@pytest.mark.parametrize("stack_kib", [256, 1024, 8192])
def test_values_of_every_type_arrive_as_they_were(make_bus: Callable[..., EventBus], stack_kib: int) -> None:
    seed = os.environ.get("EVENTBUS_SEED") or os.urandom(4).hex()
    print(f"EVENTBUS_SEED={seed}")
    bus = make_bus(topics=["values"])
    arguments = [str(bus.config.run_dir), seed, str(VALUES), str(stack_kib << 10)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.memory.value_reader", *arguments], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        try:
            assert reader.stdout.readline() == "ready\n"
            values = Values(seed)
            for first in range(0, VALUES, AT_ONCE):
                bus.notify_many([Event(number, "values", values.draw()) for number in range(first, first + AT_ONCE)])
            said = reader.stdout.read()
        finally:
            reader.kill()
    assert said == f"{VALUES} equal\n\n"
