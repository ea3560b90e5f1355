"""Real web servers under load, while workers are replaced, killed and recycled: nothing is lost, and nobody waits."""

from pathlib import Path

import pytest

from tests.servers.programs import SERVERS
from tests.servers.trial import run_trial

REQUESTS = 200
DISTURBANCES = ("hup", "kill-worker", "manager-term", "max-requests")


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_is_lost_under_a_server(name: str, tmp_path: Path) -> None:
    server = SERVERS[name]
    if missing := server.missing():
        pytest.skip(f"{missing} is not installed; pip install '.[servers]' brings it")
    figures = run_trial(server, tmp_path, REQUESTS, DISTURBANCES)
    assert figures.faults(DISTURBANCES) == {}, figures
    assert figures.events > REQUESTS / 2, figures
