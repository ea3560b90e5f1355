"""Buses in one thread that know nothing of each other, although their handles have one name."""

from eventbus_mp import Event
from eventbus_mp.testing import TestBus
from eventbus_mp.testing.inprocess import InProcessBus


def test_a_handle_of_another_bus_stays_with_it() -> None:
    world = InProcessBus("test")
    other = world.handle(("a",))
    got: list[str] = []
    other.on("a", name="one")(lambda event: got.append(event.id))
    with TestBus("test", topics=["b"]) as bus:
        assert (bus.topics(), bus.subscribers()) == (["b"], [])
        other.notify(Event("1", "a", None))
        world.run()
        assert (got, bus.notified) == (["1"], [])
    other.close()
