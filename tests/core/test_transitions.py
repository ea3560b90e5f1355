"""The transition table and the code: each cell's function exists, and only the named ones change a delivery's state."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventbus_mp.core
from eventbus_mp.core.transitions import COMPLETED, DELIVERY_TRANSITIONS, QUEUED, SENT, SKIPPED, WRITERS

CORE = Path(eventbus_mp.core.__file__).parent
STATE = {"waiting", "unsettled", "completed", "in_flight", "quarantine", "delayed"}
"""The attributes that say in which state a delivery is; `completed` is also a subscriber's count, which does not."""
CHANGING_METHODS = {
    "append",
    "appendleft",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "popleft",
    "remove",
    "update",
}
CHANGING_METHODS |= {"setdefault", "__setitem__", "__delitem__", "reverse", "rotate", "sort", "extendleft"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(CORE.rglob("*.py")):
        yield ".".join(path.relative_to(CORE).with_suffix("").parts), ast.parse(path.read_text())


def functions(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of a module, also the methods of its classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield f"{name}.{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{name}.{node.name}")


def written(function: ast.FunctionDef) -> set[str]:
    """Those of `STATE` that a function changes, by itself or through a local name for one."""
    names = {
        target.id: value.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target, value in bindings(node)
        if isinstance(target, ast.Name) and isinstance(value, ast.Attribute) and value.attr in STATE
    }

    def state_of(node: ast.AST) -> str | None:
        if isinstance(node, ast.Attribute) and node.attr in STATE:
            return node.attr
        return names.get(node.id) if isinstance(node, ast.Name) else None

    found = set()
    for node in ast.walk(function):
        targets: list[ast.AST] = []
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            # x.waiting[row] = ..., &= ...; del x.in_flight[batch]. An attribute that is replaced counts only outside of
            # __init__, and only if it is a container: subscriber.completed is a number that is counted up.
            for target in getattr(node, "targets", None) or [node.target]:
                targets += [item.value for item in ast.walk(target) if isinstance(item, ast.Subscript)]
                if isinstance(target, ast.Attribute) and isinstance(node, ast.Assign) and function.name != "__init__":
                    targets.append(target)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING_METHODS:
            targets.append(node.func.value)
        found |= {state for target in targets if (state := state_of(target)) is not None}
    return found


def bindings(node: ast.Assign) -> Iterator[tuple[ast.AST, ast.AST]]:
    """The pairs of an assignment, including one of tuples."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield target, node.value


FUNCTIONS = dict(item for module, tree in modules() for item in functions(tree, module))
CALLS = {
    name: {
        call.func.id if isinstance(call.func, ast.Name) else call.func.attr
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute)
    }
    for name, function in FUNCTIONS.items()
}
"""Function -> the last names of what it calls."""


def reaches_a_writer(name: str) -> bool:
    seen, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name in WRITERS:
            return True
        seen.add(name)
        waiting += [found for found in FUNCTIONS if found.rpartition(".")[2] in CALLS[name] and found not in seen]
    return False


def test_only_the_writers_change_the_state_of_a_delivery():
    found = {name: tuple(sorted(what)) for name, function in FUNCTIONS.items() if (what := written(function))}
    assert found == WRITERS, (
        "name the function in WRITERS of core/transitions.py, if it is to change a delivery's state"
    )


CELLS = [
    (state, event, function) for state, cells in DELIVERY_TRANSITIONS.items() for event, (_, function) in cells.items()
]


@pytest.mark.parametrize(("state", "event", "function"), CELLS)
def test_the_function_of_a_cell_exists_and_leads_to_a_writer(state, event, function):
    assert function in FUNCTIONS
    assert reaches_a_writer(function)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("batch.waiting[row] |= mask", {"waiting"}),
        ("batch.unsettled[row] = 0", {"unsettled"}),
        ("batch.unsettled = []", {"unsettled"}),
        ("del endpoint.in_flight[batch]", {"in_flight"}),
        ("endpoint.in_flight.pop(batch, None)", {"in_flight"}),
        ("held = endpoint.in_flight\n    held[batch] = 1", {"in_flight"}),
        ("a, held = 1, subscriber.quarantine\n    held.popleft()", {"quarantine"}),
        ("subscriber.completed += 1", set()),
        ("mask = batch.waiting[row]", set()),
        ("subscriber.queue.append(batch)", set()),
    ],
)
def test_what_counts_as_a_write(source, what):
    [function] = ast.parse(f"def f():\n    {source}").body
    assert written(function) == what


@pytest.mark.parametrize("state", [COMPLETED, SKIPPED])
def test_settled_stays_settled(state):
    assert {after for after, _ in DELIVERY_TRANSITIONS[state].values()} == {state}


@pytest.mark.parametrize("state", [QUEUED, SENT])
def test_each_state_knows_every_event_but_a_second_dispatch(state):
    assert set(DELIVERY_TRANSITIONS[QUEUED]) - set(DELIVERY_TRANSITIONS[state]) <= {"dispatched"}


def test_a_sent_delivery_is_not_sent_again():
    assert "dispatched" not in DELIVERY_TRANSITIONS[SENT]
