"""Types that the user registers, so that their values travel. Nothing is imported because of what is in the data.

A value travels as its type's name and what `encode` made of it. A process that has not registered the name cannot
decode the value, and its error says so. The registry belongs to the process, not to a bus. A forked child has a copy of
it. Any other process registers for itself, simply by importing a module that registers the classes that it defines.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, NamedTuple

from eventbus_mp.errors import DecodeError, UsageError
from eventbus_mp.memory.culprit import shown
from eventbus_mp.memory.values import VALUE_TYPES

__all__ = [
    "Unregistered",
    "find_registered",
    "make_registered",
    "register_type",
    "registered_entries",
    "show_unregistered",
]


class _Registered(NamedTuple):
    """A class's entry. `encode` and `decode` are None when they are derived from the class."""

    cls: Any
    name: str
    encode: Callable[[Any], Any] | None
    decode: Callable[[Any], Any] | None


_by_class: dict[type, _Registered] = {}
_by_name: dict[str, _Registered] = {}
_lost_name: dict[type, str] = {}
"""Class -> its name, which was given to another class."""
_shows_unregistered = False
_TRAVELS_BY_ITSELF = {type(None), bool, float, str, bytes, dict, list, memoryview, bytearray} | {
    kind for kind, _, _ in VALUE_TYPES
}


def register_type(
    cls: Any,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
    *,
    name: str | None = None,
) -> Any:
    """Let values of exactly this class travel. Returns the class, so this can be used as a decorator.

    Every process that reads such values registers the class as well. Registering a class or a name again replaces the
    earlier entry. A class whose name goes to another one no longer travels: its values would come out as the other's.

    Args:
        cls: The class. Its subclasses need entries of their own.
        encode: Turns a value into something that can travel. For an Enum or a dataclass it may be left out, together
            with `decode`: an Enum's member then travels by its name, a Flag by its value, a dataclass as its fields.
        decode: Turns that into the value again. If it is left out, a dataclass is made without calling `__init__`.
        name: The type's name in the data; None: its module and qualified name.

    Raises:
        UsageError: `cls` is not a class, or travels without being registered; or only one of `encode` and `decode` was
            given, or neither of them for a class that needs both; or `name` is not a text.
    """
    if not isinstance(cls, type):
        raise UsageError(f"register_type({cls!r}): give a class")
    if cls in _TRAVELS_BY_ITSELF:
        raise UsageError(f"register_type({cls.__name__}): it travels by itself")
    if (encode is None) != (decode is None):
        raise UsageError(f"register_type({cls.__name__}): give both encode and decode, or neither")
    if encode is None:
        _check_derived(cls)
    elif not callable(encode) or not callable(decode):
        raise UsageError(f"register_type({cls.__name__}): encode and decode are functions")
    if name is not None and (not isinstance(name, str) or not name):
        raise UsageError(f"register_type({cls.__name__}, name={name!r}): a name is a text of one character or more")
    # In a worker process, the parent's `__main__` is called `__mp_main__`.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    entry = _Registered(cls, str.__str__(name or f"{module}.{cls.__qualname__}"), encode, decode)
    earlier = _by_name.get(entry.name)
    if earlier is not None and earlier.cls is not cls and _by_class.get(earlier.cls) is earlier:
        del _by_class[earlier.cls]
        _lost_name[earlier.cls] = entry.name
    _lost_name.pop(cls, None)
    _by_class[cls] = _by_name[entry.name] = entry
    return cls


def _check_derived(cls: type) -> None:
    """Raise `UsageError` unless the bus can take apart a value of `cls` and make it again by itself."""
    if issubclass(cls, enum.Enum):
        return
    if not dataclasses.is_dataclass(cls):
        raise UsageError(f"register_type({cls.__name__}): only an Enum or a dataclass goes without encode and decode")
    # Of an exception, a dict or a tuple, the fields are not all that there is, and `object.__new__` does not make it.
    for base in cls.__mro__:
        if isinstance(base.__new__, BuiltinFunctionType) and base.__new__ is not object.__new__:
            raise UsageError(
                f"register_type({cls.__name__}): it is a {base.__name__} as well as a dataclass; give encode and decode"
            )


def registered_entries() -> list[tuple[Any, str, Callable[[Any], Any] | None, Callable[[Any], Any] | None]]:
    """(class, name, encode, decode) of all that is registered in this process."""
    return [tuple(entry) for entry in _by_name.values()]


class Unregistered:
    """Stands for a value of a type that is not registered in this process: its name, and what `encode` made of it."""

    __slots__ = ("body", "name")

    def __init__(self, name: str, body: Any) -> None:
        self.name = name
        self.body = body

    def __repr__(self) -> str:
        return f"<{self.name}, not registered here: {self.body!r}>"


def show_unregistered() -> None:
    """From now on, have `Unregistered` stand for what would raise `DecodeError`: for a program that only shows data."""
    global _shows_unregistered
    _shows_unregistered = True


def find_registered(value: Any) -> list[Any] | None:
    """[name, what `encode` made of it] of a value whose class is registered; None of any other value.

    Raises:
        TypeError: The class's `encode` failed, or its name was given to another class.
    """
    entry = _by_class.get(type(value))
    if entry is None:
        lost = _lost_name.get(type(value))
        if lost is not None:
            raise TypeError(f"its class was registered as {lost}, and then another one was; give each its own name=")
        return None
    if entry.encode is not None:
        try:
            return [entry.name, entry.encode(value)]
        except Exception as cause:
            raise TypeError(f"the registered encode of {entry.name} failed: {type(cause).__name__}: {cause}") from cause
    if issubclass(entry.cls, enum.Flag):
        return [entry.name, value.value]
    if issubclass(entry.cls, enum.Enum):
        return [entry.name, value.name]
    return [entry.name, {field.name: _field(value, field.name) for field in dataclasses.fields(entry.cls)}]


def _field(value: Any, name: str) -> Any:
    try:
        return getattr(value, name)
    except AttributeError as cause:
        raise TypeError(f"its field {name!r} was never set") from cause
    except Exception as cause:  # Of a property.
        raise TypeError(f"its field {name!r} cannot be read: {type(cause).__name__}: {cause}") from cause


def make_registered(name: str, body: Any) -> Any:
    """The value whose `find_registered` gave [name, body].

    Raises:
        DecodeError: The name is not registered in this process, or `body` does not fit the class.
    """
    entry = _by_name.get(name)
    if entry is None:
        if _shows_unregistered:
            return Unregistered(name, body)
        raise DecodeError(
            f"the data holds a {name}, which is not registered in this process; "
            "call eventbus_mp.register_type where its class is defined"
        )
    try:
        if entry.decode is not None:
            return entry.decode(body)
        return _remake(entry.cls, body)
    except Exception as cause:
        raise DecodeError(f"a {name} cannot be made of {shown(body, 60)}: {type(cause).__name__}: {cause}") from cause


def _remake(cls: Any, body: Any) -> Any:
    """A member of an Enum, or a dataclass, without a registered `decode`."""
    if issubclass(cls, enum.Enum):
        return cls(body) if issubclass(cls, enum.Flag) else cls[body]
    fields = [field.name for field in dataclasses.fields(cls)]
    if set(fields) != set(body):
        raise TypeError(f"its fields here are {fields}; do the processes run different versions of it?")
    value = object.__new__(cls)
    for name in fields:
        object.__setattr__(value, name, body[name])  # a frozen dataclass has no other way
    return value
