"""The pause under load: none on a quiet bus, one a cycle on a busy one, and none again afterwards."""

from types import SimpleNamespace

import pytest

from eventbus_mp.manager import batching
from eventbus_mp.manager.batching import BUSY_BYTES_MIN, DELAY_S, WINDOW_NS, BatchDelay


class Kernel:
    """The clock and the pauses, held by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1_000
        self.pauses: list[float] = []
        monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic_ns=lambda: self.now_ns))
        pause = SimpleNamespace(select=lambda r, w, x, timeout_s: self.pauses.append(timeout_s))
        monkeypatch.setattr(batching, "select", pause)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_a_quiet_bus_never_pauses(kernel: Kernel) -> None:
    delay = BatchDelay()
    for _ in range(100):
        kernel.now_ns += WINDOW_NS + 1
        delay.count(BUSY_BYTES_MIN - 1)
        delay.wait()
    assert kernel.pauses == []


def test_a_busy_one_pauses_in_each_cycle_of_the_next_window(kernel: Kernel) -> None:
    delay = BatchDelay()
    delay.count(2 * BUSY_BYTES_MIN)
    delay.wait()
    assert kernel.pauses == []  # The window is not over.
    kernel.now_ns += WINDOW_NS + 1
    delay.wait()
    delay.wait()
    assert kernel.pauses == [DELAY_S] * 2
    kernel.now_ns += WINDOW_NS + 1
    delay.wait()
    assert len(kernel.pauses) == 2


def test_what_counts_is_bytes_a_millisecond(kernel: Kernel) -> None:
    delay = BatchDelay()
    delay.count(9 * BUSY_BYTES_MIN)
    kernel.now_ns += 10 * WINDOW_NS
    delay.wait()
    assert kernel.pauses == []
    delay.count(11 * BUSY_BYTES_MIN)
    kernel.now_ns += 10 * WINDOW_NS
    delay.wait()
    assert kernel.pauses == [DELAY_S]
