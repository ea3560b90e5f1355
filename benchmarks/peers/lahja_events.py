"""lahja tells events apart by their class: one for each stage. Imported only where lahja is installed."""

from lahja import BaseEvent

from eventbus_mp.bench.payloads import Data

__all__ = ["First", "STAGES", "Second", "Third"]


class _DataEvent(BaseEvent):
    def __init__(self, data: Data) -> None:
        self.data = data


class First(_DataEvent):
    """Taken by the first stage."""


class Second(_DataEvent):
    """Taken by the second stage."""


class Third(_DataEvent):
    """Taken by the third stage."""


STAGES = (First, Second, Third)
