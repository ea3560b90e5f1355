"""Where the answers of a pool's workers arrive."""

import pytest

from eventbus_mp import EventBus, Inbox


@pytest.fixture
def out(bus: EventBus) -> Inbox:
    """An inbox for topic "b"."""
    return bus.inbox("out", ["b"], credit=100)
