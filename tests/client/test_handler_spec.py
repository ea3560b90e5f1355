"""A handler's spec: what it refuses, whom it subscribes, and where it can be hosted."""

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, InvalidPattern, SubscriberKey, UsageError, WorkerPool
from eventbus_mp.client.handler_spec import HandlerSpec, handler_decorator
from eventbus_mp.client.retries import Retries
from eventbus_mp.testing.inprocess import InProcessBus

Make = Callable[..., EventBus]


def handle(event: Event) -> None:
    """A handler that is done at once."""


def listen(shadow: Any, config: Any = None) -> None:
    """A listener that settles nothing."""


class Listener:
    def process(self, shadow: Any) -> None:
        """Settles nothing."""


def test_a_function_is_the_subscriber_that_its_name_says() -> None:
    spec = HandlerSpec.from_function(handle, ["a", "b"], retries=2, credit=5)
    assert spec == HandlerSpec(handle, SubscriberKey(f"{__name__}.handle"), ("a", "b"), 5, 2, False)
    assert HandlerSpec.from_function(handle, ["a"], name="one").key == SubscriberKey("one")


def test_a_listener_has_no_retries() -> None:
    spec = HandlerSpec.from_listener((listen, {"region": "eu"}), iter(["a"]))
    assert (spec.key.config, spec.patterns, spec.credit, spec.retries) == ({"region": "eu"}, ("a",), 0, None)
    assert HandlerSpec.from_listener(Listener(), ["a"]).key == SubscriberKey(f"{__name__}.Listener")


def test_a_broadcasting_subscriber_is_the_link_that_hosts_it(world: InProcessBus) -> None:
    """And not the process: in two containers two of them have one pid."""
    spec = HandlerSpec.from_function(handle, ["a"], name="all", broadcast=True)
    assert spec.key == SubscriberKey("all")
    handles = [world.handle(("a",)) for _ in range(2)]
    keys = [spec.host(bus._live()) for bus in handles]
    assert [key.name for key in keys] == ["all", "all"]
    assert {key.config["process"] for key in keys} == {os.getpid()}
    assert keys[0] != keys[1]
    handles[0].notify(Event("1", "a", 1))
    world.run()
    assert world.core.state.registry.topics["a"].delivered == 2
    for bus in handles:
        bus.close()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"patterns": []}, UsageError, r"on\(\) needs a pattern"),
        ({"patterns": "a"}, UsageError, r"write \['a'\]"),
        ({"patterns": ["("]}, InvalidPattern, "does not compile"),
        ({"credit": 0}, UsageError, "credit=0"),
        ({"name": ""}, UsageError, "a subscriber's name"),
        ({"name": 5}, UsageError, "a subscriber's name"),
    ],
)
def test_a_mistake_is_reported_where_on_is_called(bus: EventBus, arguments: Any, error: Any, text: str) -> None:
    patterns = arguments.pop("patterns", ["a"])
    with pytest.raises(error, match=text):
        HandlerSpec.from_function(handle, patterns, **arguments)
    if patterns != "a":  # `on` takes them one by one
        for owner in (bus, WorkerPool(bus, 1)):
            with pytest.raises(error, match=text):
                owner.on(*patterns, **arguments)
    assert bus._session is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"retries": -1}, "retries=-1"), ({"retry_delay_s": -1}, "delay_s=-1"), ({"retry_delay_max_s": "1"}, "max_s='1'")],
)
def test_retries_are_checked_where_on_is_called(bus: EventBus, arguments: Any, text: str) -> None:
    for owner in (bus, WorkerPool(bus, 1)):
        with pytest.raises(UsageError, match=text):
            owner.on("a", **arguments)
    assert bus._session is None


@pytest.mark.parametrize("name", [None, "named"])
def test_what_is_decorated_must_be_callable(name: str | None) -> None:
    found: list[HandlerSpec] = []
    decorate = handler_decorator(found.append, ["a"], retries=Retries(), name=name, broadcast=False, credit="auto")
    for value in (5, Listener()):
        with pytest.raises(UsageError, match=r"cannot be called|not callable"):
            decorate(value)  # type: ignore[type-var]
    assert decorate(handle) is handle
    assert [spec.listener for spec in found] == [handle]


@pytest.mark.parametrize(
    ("listener", "text"),
    [
        (5, "is not callable"),
        ("name", "cannot be called"),
        (SubscriberKey("name"), "cannot be called"),
        ((listen, print), "config cannot travel"),
    ],
)
def test_what_is_no_listener(bus: EventBus, listener: Any, text: str) -> None:
    for subscribe in (HandlerSpec.from_listener, bus.subscribe, WorkerPool(bus, 1).subscribe):
        with pytest.raises(UsageError, match=text):
            subscribe(listener, ["a"])
    assert bus._session is None


def test_a_spec_is_hosted_where_it_is_sent_to(make_bus: Make, bus: EventBus) -> None:
    spec: HandlerSpec = pickle.loads(pickle.dumps(HandlerSpec.from_function(handle, ["a"], credit=7)))
    for host in (bus, make_bus()):
        spec.host(host._live())
    (subscriber,) = bus.subscribers()
    assert subscriber.key == spec.key
    assert subscriber.patterns == ("a",)
    assert bus.notify_and_wait(Event("1", "a", 1), timeout_s=20).completers == (spec.key,)


def test_a_method_of_a_builtin_type_has_a_name_too(bus: EventBus) -> None:
    assert bus.subscribe(str.upper, ["a"]).name == "builtins.str.upper"


def test_a_mailbox_needs_a_name(bus: EventBus) -> None:
    with pytest.raises(UsageError, match="a subscriber's name"):
        bus.inbox("", ["a"])
    assert bus._session is None
