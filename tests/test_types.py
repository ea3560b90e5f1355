"""What type checkers know: mypy and pyright, both strict, hold the claims of the functions here.

A claim that fails is an error of both: the types that are claimed, and the mistakes that have to be found, whose
`ignore` would be reported as unused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from eventbus_mp import Event, EventBus, EventShadow, Inbox, WorkerPool

if TYPE_CHECKING:
    from typing_extensions import assert_type


class Paid(TypedDict):
    total: int


def claims_about_events(bus: EventBus, shadow: EventShadow) -> None:
    typed: Event[Paid] = Event(1, "paid", {"total": 2})
    assert_type(typed.data, Paid)
    assert_type(typed.copy(), Event[Paid])
    assert_type(Event("1", "count", 3).data, int)
    assert_type(bus.notify(typed), EventShadow)
    assert_type(bus.fetch_event(shadow), "Event[Any] | None")
    with bus.inbox("all", [".*"]) as inbox:
        assert_type(inbox, Inbox)
        assert_type(inbox.get(1.0), "EventShadow | None")


def claims_about_handlers(bus: EventBus, pool: WorkerPool) -> None:
    @bus.on("paid")
    def bill(event: Event[Paid]) -> None:
        assert_type(event.data["total"], int)

    @pool.on("paid")
    def count(event: Event) -> int:  # with any data
        assert_type(event.data, Any)
        return 1

    assert_type(count(Event(1, "a", None)), int)
    bill(Event(1, "paid", "no order"))  # type: ignore[arg-type]


def test_an_event_with_a_type_is_an_event() -> None:
    made: Event[Any] = Event[Paid](1, "paid", {"total": 2})
    assert type(made) is Event
    assert made == Event(1, "paid", {"total": 2})
    assert not hasattr(made, "__dict__")
