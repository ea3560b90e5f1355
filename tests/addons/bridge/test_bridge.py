"""Two or three hosts, with real buses, bridges and NATS servers: what is published on one is settled there when the
others have settled it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Skip, SubscriberKey
from tests.addons.bridge.hosts import Host, sees
from tests.addons.bridge.nats_servers import NatsServer
from tests.helpers import pause, until

BILL_B = SubscriberKey("bill", None, "other")


@pytest.fixture
def make_host(make_bus: Callable[..., EventBus], server: NatsServer) -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def make(name: str, *, servers: str = server.url, bus: dict[str, Any] | None = None, **settings: Any) -> Host:
        hosts.append(Host(name, make_bus(name, ["order"], **(bus or {})), servers, **settings))
        hosts[-1].bus.topics()
        return hosts[-1]

    yield make
    for host in hosts:
        host.stop()


def test_an_event_is_handled_on_the_other_host_and_settled_at_home(make_host: Callable[..., Host]) -> None:
    a, b = make_host("test").start(), make_host("other").start()
    got: list[Any] = []
    b.bus.on("order", name="bill")(lambda event: got.append((event.id, event.data, event.source)))
    sees(a.bus, "bill", "other")

    watcher = a.bus.notify_and_wait(Event("1", "order", {"sum": 3}, source="till", headers={"a": "b"}), timeout_s=30)

    assert got == [("1", {"sum": 3}, "till")]
    assert watcher.subscribers == (BILL_B,)
    assert watcher.completers == (BILL_B,)


def test_what_was_skipped_there_is_skipped_here(make_host: Callable[..., Host]) -> None:
    a, b = make_host("test").start(), make_host("other").start()

    @b.bus.on("order", name="bill")
    def bill(event: Event) -> None:
        raise Skip("not ours")

    sees(a.bus, "bill", "other")
    watcher = a.bus.notify_and_wait(Event("1", "order", None), timeout_s=30)
    assert watcher.skippers == (BILL_B,)


def test_each_host_gets_it_and_each_of_its_subscribers_once(make_host: Callable[..., Host]) -> None:
    a, b = make_host("test").start(), make_host("other").start()
    got: list[str] = []
    a.bus.on("order", name="bill")(lambda event: got.append("bill@a"))
    b.bus.on("order", name="bill")(lambda event: got.append("bill@b"))
    b.bus.on("order", name="ship")(lambda event: got.append("ship@b"))
    for name in ("bill", "ship"):
        sees(a.bus, name, "other")
    sees(b.bus, "bill", "test")

    watcher = a.bus.notify_and_wait(Event("1", "order", None), timeout_s=30)

    assert sorted(got) == ["bill@a", "bill@b", "ship@b"]
    assert set(watcher.completers) == {SubscriberKey("bill"), BILL_B, SubscriberKey("ship", None, "other")}


def test_nothing_comes_back_and_nothing_local_leaves(make_host: Callable[..., Host]) -> None:
    a, b = make_host("test").start(), make_host("other").start()
    got: list[str] = []
    a.bus.on("order", name="bill")(lambda event: got.append(f"a{event.id}"))
    b.bus.on("order", name="bill")(lambda event: got.append(f"b{event.id}"))
    b.bus.on("order", name="cache", scope="local")(lambda event: got.append(f"local{event.id}"))
    sees(a.bus, "bill", "other")
    sees(b.bus, "bill", "test")
    a.bus.notify_and_wait(Event("1", "order", None), timeout_s=30)
    b.bus.notify_and_wait(Event("2", "order", None), timeout_s=30)
    assert sorted(got) == ["a1", "a2", "b1", "b2", "local2"]
    assert not any(item.name == "cache" for item in a.bus.subscribers())


def test_many_events_in_order_with_arrays_and_large_ones(make_host: Callable[..., Host]) -> None:
    a, b = make_host("test").start(), make_host("other", bus={"memory_bytes_max": 64 << 20}).start()
    got: list[Any] = []

    @b.bus.on("order", name="bill")
    def bill(event: Event) -> None:
        got.append(event.data if isinstance(event.data, int) else bytes(event.data))

    sees(a.bus, "bill", "other")
    large = bytes(range(256)) * 12_000
    a.bus.notify_many([Event(str(number), "order", number) for number in range(3_000)])
    a.bus.notify(Event("large", "order", memoryview(large)))
    a.bus.drain(timeout_s=60)
    assert got[:3_000] == list(range(3_000))
    assert got[3_000] == large


def test_a_subscriber_of_the_cluster_gets_each_event_on_one_host(make_host: Callable[..., Host]) -> None:
    a, b, c = (make_host(name).start() for name in ("test", "other", "third"))
    got: list[tuple[str, str]] = []
    for host in (b, c):
        host.bus.on("order", name="job", scope="cluster")(lambda event, at=host.name: got.append((event.id, at)))
    until(lambda: any(item.name == "job" for item in a.bus.subscribers()))
    sees(b.bus, "job", None)
    ids = [str(number) for number in range(400)]
    a.bus.notify_many([Event(one, "order", None) for one in ids])
    a.bus.drain(timeout_s=60)
    assert sorted(one for one, _ in got) == sorted(ids)
    assert {at for _, at in got} == {"other", "third"}


def test_topics_of_one_host_are_topics_of_the_other(make_host: Callable[..., Host]) -> None:
    a, b = make_host("test").start(), make_host("other").start()
    a.bus.register_topic("refund")
    until(lambda: "refund" in b.bus.topics())


def test_times_are_in_the_unit_of_the_receiving_bus(make_host: Callable[..., Host]) -> None:
    a = make_host("test", bus={"time_unit": "millisecond"}).start()
    b = make_host("other", bus={"time_unit": "second"}).start()
    got: list[Any] = []
    b.bus.on("order", name="bill")(lambda event: got.append((event.initialized_at, event.occurred_at, event.data)))
    sees(a.bus, "bill", "other")
    event = Event("1", "order", [1], initialized_at=1_000, occurred_at=2_500)
    a.bus.notify_and_wait(event, timeout_s=30)
    assert got == [(1, 2, [1])]


def test_a_full_receiver_takes_what_it_can_and_loses_nothing(
    make_host: Callable[..., Host], caplog: pytest.LogCaptureFixture
) -> None:
    a = make_host("test", bus={"memory_bytes_max": 64 << 20}).start()
    b = make_host("other", bus={"memory_bytes_max": 4 << 20, "notify_timeout_s": 0.05}).start()
    got: list[int] = []

    @b.bus.on("order", name="bill", credit=20)
    def bill(event: Event) -> None:
        got.append(event.data[0])
        pause(0.01)

    sees(a.bus, "bill", "other")
    filler = "x" * 20_000
    a.bus.notify_many([Event(str(number), "order", [number, filler]) for number in range(400)])
    a.bus.drain(timeout_s=60)
    assert sorted(got) == list(range(400))
    assert a.bus.statistics().subscribers[0].skipped == 0
    assert "events from other hosts wait" in caplog.text
