"""The subscriber that a listener is: its name and its config, which are the same in every process."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from eventbus_mp.arguments import as_text
from eventbus_mp.errors import EncodeError, UsageError
from eventbus_mp.memory import codec
from eventbus_mp.statistics import Subscriber, SubscriberKey, Watcher

__all__ = [
    "Listener",
    "broadcast_key",
    "key_of",
    "listener_of",
    "pack_config",
    "subscriber_of",
    "unpack_config",
    "watcher_of",
    "wire_key",
]


class Listener(NamedTuple):
    """A listener taken apart."""

    key: SubscriberKey
    call: Callable[..., Any] | None
    """What is called with a shadow; None: only a subscriber was named."""
    arguments: tuple[Any, ...]
    """What it is called with after the shadow."""


def listener_of(listener: Any) -> Listener:
    """Take apart what the user subscribes, or names in order to settle an event or to ask.

    Args:
        listener: A callable; an object, class or module with `process(shadow)`; a pair of one of these and its config;
            or, to name a subscriber, an inbox, a subscriber's name, a pair of a name and a config, or a key.

    Raises:
        UsageError: It is none of these.
    """
    config: Any = None
    arguments: tuple[Any, ...] = ()
    if isinstance(listener, SubscriberKey):
        return Listener(listener, None, ())
    if type(listener) is tuple:
        if len(listener) != 2:
            raise UsageError(f"listener {listener!r}: a tuple must be (listener, config)")
        listener, config = listener
        arguments = (config,)
    name = as_text(listener)
    if name is not None:
        return Listener(SubscriberKey(name, config), None, ())
    key = getattr(listener, "key", None)
    if isinstance(key, SubscriberKey):
        return Listener(key, None, ())
    process = getattr(listener, "process", None)
    if callable(process):
        named = listener if inspect.isclass(listener) or inspect.ismodule(listener) else type(listener)
        return Listener(SubscriberKey(_name(named), config), process, arguments)
    if callable(listener):
        return Listener(SubscriberKey(_name(listener), config), listener, arguments)
    raise UsageError(f"listener {listener!r} is not callable and has no process(shadow); give it one of these")


def _name(thing: Any) -> str:
    if inspect.ismodule(thing):
        return thing.__name__
    inner = inspect.unwrap(thing) if not inspect.isclass(thing) else thing
    while hasattr(inner, "func") and not hasattr(inner, "__qualname__"):  # functools.partial
        inner = inner.func
    if not hasattr(inner, "__qualname__"):
        inner = type(inner)
    # In a child that multiprocessing has spawned, the parent's `__main__` is called `__mp_main__`.
    module = getattr(inner, "__module__", None) or "builtins"  # Methods of builtin types have none.
    module = "__main__" if module == "__mp_main__" else module
    name = f"{module}.{inner.__qualname__}"
    code = getattr(inner, "__code__", None)
    # Lambdas of one function share a qualified name. Their lines differ, and are the same in every process.
    return f"{name}:{code.co_firstlineno}" if code is not None and name.endswith("<lambda>") else name


def pack_config(config: Any) -> bytes:
    """The config as bytes, which are equal for equal configs: the entries of dicts and sets are sorted.

    Raises:
        UsageError: The config holds something that cannot travel; the text names it.
    """
    try:
        return codec.encode_comparable(config)
    except EncodeError as cause:
        raise UsageError(f"a listener's config cannot travel to the manager: {cause}") from cause


def unpack_config(data: bytes) -> Any:
    """The config; its bytes if they cannot be decoded, or hold a type that this process has not registered."""
    try:
        return codec.decode(data)
    except Exception:
        return data


def wire_key(key: SubscriberKey) -> tuple[str, bytes, str]:
    """A subscriber as it travels: name, config, host.

    Raises:
        UsageError: Its config cannot travel.
    """
    return key.name, pack_config(key.config), key.host or ""


def key_of(name: str, config: bytes, host: str) -> SubscriberKey:
    """A subscriber that has travelled."""
    return SubscriberKey(name, unpack_config(config), host or None)


def watcher_of(reported: dict[str, list[list[Any]]]) -> Watcher:
    """A `Watcher` from the form in which it travels, with its configs unpacked."""
    return Watcher(**{part: tuple(key_of(*key) for key in keys) for part, keys in reported.items()})


def subscriber_of(facts: dict[str, Any]) -> Subscriber:
    """A `Subscriber` of what the manager says of it."""
    return Subscriber(
        name=facts["name"],
        config=unpack_config(facts["config"]),
        patterns=tuple(facts["patterns"]),
        pids=tuple(facts["pids"]),
        scope=facts["scope"],
        host=facts["host"] or None,
        home_pids=tuple(facts["home_pids"]),
    )


def broadcast_key(key: SubscriberKey, identity: str) -> SubscriberKey:
    """The subscriber that a session is when it broadcasts; its identity tells it apart, and its pid is to be read."""
    return SubscriberKey(key.name, {"config": key.config, "process": os.getpid(), "link": identity}, key.host)
