"""What a pool sends to its workers: their task, and what the task uses of the program, as bytes.

A worker has imported the program, if the program can be imported. What is defined there goes by name: so a handler sees
the program's own classes and state, and not copies, and can pickle what it likes. Only what the worker's import does
not have is made from its value: what stands under `if __name__ == "__main__":`, and everything of a program that cannot
be imported (`python -m package`, a directory, a zip file, `-c`, standard input, a notebook).

    objects     functions and classes of the program, by value; for a worker that does not have them
    globals     what these use of the program's other globals; a value is set in a worker that has none or another one
    types       what the program has registered for its data

Functions that are made from their value have the program's globals, as those that the worker has imported.
"""

from __future__ import annotations

import enum
import functools
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import dill

from eventbus_mp.errors import UsageError
from eventbus_mp.memory.registered import register_type, registered_entries

__all__ = ["Shipment", "find_global", "find_object", "pack", "unpack"]

PROGRAM = ("__main__", "__mp_main__")
"""What the program's module is called: in its own process, and where multiprocessing has imported it."""
NAMED = (type, FunctionType, type(functools.lru_cache(print)))
VALUES = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, ModuleType, *NAMED)
"""What is not told apart by its identity, or has a name anyway."""
NOT_SHIPPED = {"__name__", "__builtins__", "__loader__", "__spec__", "__cached__"}


@dataclass
class Shipment:
    """A task and all that belongs to it. A text in place of bytes says why something cannot be sent."""

    task: bytes = b""
    objects: dict[str, bytes | str] = field(default_factory=dict)
    globals: dict[str, bytes | str] = field(default_factory=dict)
    types: dict[str, bytes | str] = field(default_factory=dict)


# --- in the pool's process ---


def pack(task: Any) -> Shipment:
    """Everything that a worker needs in order to have this task.

    Raises:
        Exception: Something in the task cannot be pickled; whatever its class is.
    """
    packer = _Packer()
    shipment = packer.shipment
    shipment.task = packer.pickled(task)
    packer.pack_used()
    for cls, name, encode, decode in registered_entries():
        if cls.__module__ in PROGRAM:
            shipment.types[name] = packer.try_pickled((cls, encode, decode))
    packer.pack_used()
    return shipment


class _Packer:
    """Pickles, and notes what of the program the pickled values use."""

    def __init__(self) -> None:
        self.shipment = Shipment()
        self._used: list[tuple[str, Any]] = []
        """Objects of the program whose own uses are not looked at yet."""
        self._names: dict[str, Any] = {}
        """The program's globals that are used and not packed yet."""
        self._is_in_task = True
        self._global_names = {
            id(value): name
            for name, value in vars(sys.modules["__main__"]).items()
            if name not in NOT_SHIPPED and not isinstance(value, VALUES)
        }
        self._packing: Any = None
        """The global that is being packed."""

    def use(self, name: str, value: Any) -> None:
        """Something refers to this object of the program."""
        if name not in self.shipment.objects:
            self.shipment.objects[name] = ""
            self._used.append((name, value))

    def use_globals(self, function: FunctionType) -> None:
        """Something contains this function of the program."""
        for name in _names_in(function.__code__):
            if name in function.__globals__ and name not in NOT_SHIPPED and name not in self.shipment.globals:
                self.shipment.globals[name] = ""
                self._names[name] = function.__globals__[name]

    def known_global(self, value: Any) -> str | None:
        """The name of a global that is this very object, if it goes by that: an object that a task and the program both
        use stays one. A global may not go by another one's name, which may go by its own; but a bare `object()` does.
        """
        if type(value) is not object and not self._is_in_task:
            return None
        name = self._global_names.get(id(value))
        if name is None or value is self._packing:
            return None
        if name not in self.shipment.globals:
            self.shipment.globals[name] = ""
            self._names[name] = value
        return name

    def pack_used(self) -> None:
        """Pack what is used, and what that uses."""
        self._is_in_task = False
        while self._used or self._names:
            while self._names:
                name, self._packing = self._names.popitem()
                self.shipment.globals[name] = self.try_pickled(self._packing)
            self._packing = None
            if self._used:
                name, value = self._used.pop()
                for function in _functions_of(value):
                    self.use_globals(function)
                self.shipment.objects[name] = self.try_pickled(value, by_value=name)

    def try_pickled(self, value: Any, by_value: str = "") -> bytes | str:
        try:
            return self.pickled(value, by_value)
        except Exception as error:  # Perhaps no worker needs it.
            return f"{type(error).__name__}: {error}"

    def pickled(self, value: Any, by_value: str = "") -> bytes:
        """Several pickles with one memo: the value, and then what its functions' closures hold.

        `by_value` is the name of the value, if it is an object of the program and not to go by that.
        """
        file = io.BytesIO()
        pickler = _Pickler(file, self, by_value)
        pickler.dump(value)
        while pickler.cells:
            cells, pickler.cells = pickler.cells, []
            pickler.dump([(cell, cell.cell_contents) for cell in cells])
        return file.getvalue()


class _Pickler(dill.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, packer: _Packer, by_value: str) -> None:
        super().__init__(file, recurse=True)
        self._packer = packer
        self._by_value = by_value or None
        self._within = f"{by_value}."
        self.cells: list[CellType] = []

    def reducer_override(self, value: Any) -> Any:
        if type(value) is CellType:
            # Its content may contain the function that has the cell, so it comes later.
            if _is_filled(value):
                self.cells.append(value)
            return CellType, ()
        known = self._packer.known_global(value)
        if known is not None:
            return find_global, (known,)
        if not isinstance(value, NAMED) or value.__module__ not in PROGRAM:
            return NotImplemented
        name = _name_in_program(value)
        if name is not None and name == self._by_value:
            self._by_value = None
        elif name is not None and not name.startswith(self._within):
            root = name.partition(".")[0]
            self._packer.use(root, getattr(sys.modules["__main__"], root))
            return find_object, (name,)
        if type(value) is FunctionType and value.__globals__.get("__name__") in PROGRAM:
            self._packer.use_globals(value)
            made = value.__code__, value.__name__, value.__closure__
            return _make_function, made, _function_state(value), None, None, _set_function_state
        if isinstance(value, enum.EnumMeta):
            return _make_enum, (value.__name__, value.__bases__, _enum_body(value))
        return NotImplemented


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is cell or True
    except ValueError:
        return False


def _name_in_program(value: Any) -> str | None:
    """The name by which anybody who has the program's module finds this very object; None: there is none."""
    name = value.__qualname__
    if not isinstance(name, str):
        return None
    module, first = sys.modules["__main__"], name.partition(".")[0]
    root = getattr(module, first, None)
    if getattr(root, "__qualname__", None) != first or getattr(root, "__module__", None) not in PROGRAM:
        return None
    return name if _walk(module, name) is value else None


def _walk(value: Any, name: str) -> Any:
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _names_in(code: CodeType) -> set[str]:
    """All names of globals (and of attributes) in a function's code, and in what is defined in it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names_in(constant)
    return found


def _functions_of(value: Any) -> Iterator[FunctionType]:
    """The functions of a class, or the one that is this, or is wrapped in it."""
    for part in vars(value).values() if isinstance(value, type) else (value,):
        for inner in (part, *(getattr(part, name, None) for name in ("__wrapped__", "__func__", "fget", "fset"))):
            if type(inner) is FunctionType:
                yield inner


def _function_state(function: FunctionType) -> dict[str, Any]:
    names = ("__defaults__", "__kwdefaults__", "__doc__", "__qualname__", "__module__", "__annotations__", "__dict__")
    return {name: getattr(function, name) for name in names}


def _enum_body(cls: Any) -> dict[str, Any]:
    """What stood in the body of an Enum: its functions, and its members by their values."""
    body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    for name, part in vars(cls).items():
        if any(function.__qualname__ == f"{cls.__qualname__}.{name}" for function in _functions_of_part(part)):
            body[name] = part
    return {**body, **{name: member.value for name, member in cls.__members__.items()}}


def _functions_of_part(part: Any) -> Iterator[FunctionType]:
    return iter(()) if isinstance(part, type) else _functions_of(part)


# --- in the worker ---

_objects: dict[str, bytes | str] = {}
_globals: dict[str, bytes | str] = {}
_made: dict[str, Any] = {}
"""Objects of the program that were made from their values."""


def unpack(shipment: Shipment) -> Any:
    """The task, in a process that has imported the program if that is possible.

    Raises:
        UsageError: Something that it uses could not be sent.
    """
    _objects.update(shipment.objects)
    _globals.update(shipment.globals)
    while _globals:
        _set_global(*_globals.popitem())
    for name, packed in shipment.types.items():
        if not isinstance(packed, str) and not _is_registered(name):
            cls, encode, decode = _unpickled(packed)
            register_type(cls, encode, decode, name=name)
    return _unpickled(shipment.task)


def find_object(name: str) -> Any:
    """An object of the program: the worker's own, or else made from its value."""
    root, _, rest = name.partition(".")
    found = getattr(sys.modules["__main__"], root, None) if _has_program() else None
    if found is None or getattr(found, "__qualname__", None) != root:
        found = _made[root] if root in _made else _make(root)
    return _walk(found, rest) if rest else found


def find_global(name: str) -> Any:
    """A global of the program that is known by its identity."""
    if name in _globals:
        _set_global(name, _globals.pop(name))
    return _program_globals()[name]


def _make(name: str) -> Any:
    packed = _objects.pop(name, "it refers to itself")
    if isinstance(packed, str):
        raise UsageError(f"{name} is not defined when the program is imported, and cannot be sent: {packed}")

    def keep(value: Any) -> None:
        _made[name] = value
        _define(name, value)

    return _unpickled(packed, keep)


def _set_global(name: str, packed: bytes | str) -> None:
    """Give the program's global the value that it has in the pool's process, unless it has it."""
    if name in _program_globals():
        # A value that cannot be pickled is the worker's own; one with the same bytes has not changed since the import.
        if not _has_program() or isinstance(packed, str):
            return
        if _repacked(_program_globals()[name]) in (packed, None):
            return
    if isinstance(packed, str):
        raise UsageError(f"{name} is not defined when the program is imported, and cannot be sent: {packed}")
    _define(name, _unpickled(packed))


def _repacked(value: Any) -> bytes | None:
    """A global of the worker's own as `pack` packs it; None: it cannot be."""
    packer = _Packer()
    packer.pack_used()
    packer._packing = value
    packed = packer.try_pickled(value)
    return packed if isinstance(packed, bytes) else None


def _define(name: str, value: Any) -> None:
    _program_globals()[name] = value
    setattr(sys.modules["__main__"], name, value)


def _has_program() -> bool:
    """Whether this process has imported the program: otherwise its `__main__` is multiprocessing's."""
    return sys.modules["__main__"].__name__ == "__mp_main__"


def _program_globals() -> dict[str, Any]:
    """What the program's functions have as their globals. It is not the module's dict: multiprocessing copies that."""
    module = vars(sys.modules["__main__"])
    if _has_program():
        for value in tuple(module.values()):
            if type(value) is FunctionType and value.__module__ == "__mp_main__":
                return value.__globals__
    return module


def _unpickled(packed: bytes, on_made: Callable[[Any], None] = lambda value: None) -> Any:
    file = io.BytesIO(packed)
    unpickler = dill.Unpickler(file, ignore=True)
    value = unpickler.load()
    on_made(value)
    while file.tell() < len(packed):
        for cell, content in unpickler.load():
            cell.cell_contents = content
    return value


def _is_registered(name: str) -> bool:
    return any(name == registered for _, registered, _, _ in registered_entries())


def _make_function(code: CodeType, name: str, closure: tuple[CellType, ...] | None) -> FunctionType:
    return FunctionType(code, _program_globals(), name, None, closure)


def _set_function_state(function: FunctionType, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if name == "__dict__":
            function.__dict__.update(value)
        else:
            setattr(function, name, value)


def _make_enum(name: str, bases: tuple[Any, ...], body: dict[str, Any]) -> Any:
    metaclass = type(bases[-1])
    namespace = metaclass.__prepare__(name, bases)
    for key, value in body.items():
        namespace[key] = value
    return metaclass(name, bases, namespace)
