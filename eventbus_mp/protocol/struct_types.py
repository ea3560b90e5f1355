"""Struct: the base of what travels. A subclass lists its fields, as a dataclass does, and has slots for them.

The manager is started while somebody waits for it, and has about eighty such classes. `dataclass` would take 15 ms to
make them; this takes 2. What is made for each class is `__init__`, which is as fast as one written by hand; all else is
here once, and slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # typing has it from Python 3.11 on, and it says something to type checkers only.

    def dataclass_transform():
        return lambda cls: cls


__all__ = ["Struct", "StructType"]


@dataclass_transform()
class StructType(type):
    """Makes a class with slots for its annotated names and, with those of its base before them, their `__init__`.

    Its module needs `from __future__ import annotations`.
    """

    FIELDS: dict[str, str]
    """The type of each field as it is written in the class, by name."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> StructType:
        annotations: dict[str, str] = namespace.get("__annotations__", {})
        own = {field: text for field, text in annotations.items() if not text.startswith("ClassVar")}
        defaults = tuple(namespace.pop(field) for field in own if field in namespace)
        inherited: dict[str, str] = getattr(bases[0], "FIELDS", {}) if bases else {}
        namespace["__slots__"] = tuple(own)
        namespace["FIELDS"] = fields = {**inherited, **own}
        if own:
            namespace["__init__"] = _init(fields, defaults)
        return super().__new__(mcs, name, bases, namespace)


def _init(fields: dict[str, str], defaults: tuple[Any, ...]) -> Any:
    """`__init__` for these fields; `defaults` are those of the last ones."""
    lines = [f"def __init__(self, {', '.join(fields)}):", *(f" self.{field} = {field}" for field in fields)]
    made: dict[str, Any] = {}
    exec("\n".join(lines), made)
    init = made["__init__"]
    init.__defaults__ = defaults
    return init


class Struct(metaclass=StructType):
    """Equal to another of its class with equal fields."""

    FIELDS: ClassVar[dict[str, str]]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in self.FIELDS)

    __hash__ = None  # type: ignore[assignment]  # The fields may change.

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{field}={getattr(self, field)!r}' for field in self.FIELDS)})"
