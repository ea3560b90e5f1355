"""Plays every transcript in tests/scenarios. `EVENTBUS_REWRITE=1` writes what the core does now: read the diff."""

from pathlib import Path

import pytest

from tests.scenarios.transcript import Play
from tests.transcripts import check

TRANSCRIPTS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path):
    check(path, Play().perform)


def test_there_are_transcripts():
    assert len(TRANSCRIPTS) >= 12
