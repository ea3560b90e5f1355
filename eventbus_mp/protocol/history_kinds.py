"""What an entry of the event log can say: the kinds that the core writes down and a client can ask for."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["HistoryKind"]


class HistoryKind(IntEnum):
    """What happened. The numbers travel in answers, so none is ever given to another kind."""

    NOTIFIED = 1
    """A process published the events."""
    SENT = 2
    """They went to a process; the detail is the attempt."""
    SENT_AGAIN = 3
    """They went to a process a second time, because they had not arrived from a manager that died."""
    COMPLETED = 4
    """A process completed them."""
    SKIPPED = 5
    """A process skipped them; without a process, the bus did, and the detail is the reason."""
    FAILED = 6
    """A process's handler raised."""
    RETURNED = 7
    """A process handed them back unstarted, or left."""
    CRASHED = 8
    """The process that held them died."""
    GIVEN_UP = 9
    """The bus skipped them after too many crashes; the detail is the reason."""
    EXPIRED = 10
    """Their ttl was over."""
    DEAD_LETTERED = 11
    """They went to the dead letter topic, which is the detail."""
    MARKED_COMPLETED = 12
    """A process completed them by name; it need not have held them."""
    MARKED_SKIPPED = 13
    """A process skipped them by name; it need not have held them."""
    SETTLED = 14
    """Every subscriber has settled them."""
    MANAGER_REPLACED = 15
    """The standby went on in the place of a manager that died. It is about no event; the process is the new manager."""
    RETRIED = 16
    """A process handed them back, to be tried again now or later."""
    REDELIVERED = 17
    """They went from the dead letters to the subscriber that had failed."""
