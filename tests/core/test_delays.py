"""What many delayed deliveries cost, and that those that are settled are forgotten."""

from types import SimpleNamespace
from typing import Any

from eventbus_mp.core.delays import TIDY_ABOVE, Delays


class Counting(dict[Any, int]):
    """Counts the look-ups."""

    looks = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)


def test_many_that_wait_are_not_looked_at_again_and_again() -> None:
    delays, count = Delays(), 50 * TIDY_ABOVE
    subscriber: Any = SimpleNamespace(delayed=Counting())
    for number in range(count):
        subscriber.delayed[number] = 1
        delays.add(number, subscriber, number, 1)  # type: ignore[arg-type]
    assert subscriber.delayed.looks <= 4 * count
    assert [batch for _, batch, _ in delays.due(count)] == list[Any](range(count))


def test_what_was_settled_does_not_stay_until_it_is_due() -> None:
    delays = Delays()
    subscriber: Any = SimpleNamespace(delayed={})
    for number in range(10 * TIDY_ABOVE):
        subscriber.delayed = {number: 1}  # All before are settled.
        delays.add(1 << 60, subscriber, number, 1)  # type: ignore[arg-type]
    assert len(delays.heap) <= TIDY_ABOVE + 1
