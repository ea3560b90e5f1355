"""The manager's modules are a chain: each imports those before it, and what stands beside the chain imports none."""

import pytest

from tests.test_layering import PACKAGE, imported_names

CHAIN = ("poller", "links", "executor", "ingest", "takeover", "server")
BESIDE = {"acceptor": set(), "batching": set(), "journal": set(), "standby": {"journal"}}
ENTRY = {"__init__": set(), "__main__": {"server"}}


def imported(name: str) -> set[str]:
    """The modules of the manager that a module of it imports."""
    found = imported_names(f"manager.{name}", (PACKAGE / "manager" / f"{name}.py").read_text())
    parts = [one.split(".") for one in found if one.startswith("eventbus_mp.manager.")]
    return {part[2] for part in parts}


def test_every_module_has_its_place() -> None:
    assert {path.stem for path in (PACKAGE / "manager").glob("*.py")} == {*CHAIN, *BESIDE, *ENTRY}


@pytest.mark.parametrize("name", CHAIN)
def test_a_link_of_the_chain_imports_only_those_before_it(name: str) -> None:
    assert imported(name) - set(BESIDE) <= set(CHAIN[: CHAIN.index(name)])


@pytest.mark.parametrize(("name", "allowed"), [*BESIDE.items(), *ENTRY.items()])
def test_the_others_import_what_is_said_here(name: str, allowed: set[str]) -> None:
    assert imported(name) == allowed
