"""Plays every transcript in tests/scenarios. `EVENTBUS_REWRITE=1` writes what the core does now: read the diff."""

import os
from pathlib import Path

import pytest

from tests.scenarios.transcript import rewritten

TRANSCRIPTS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path):
    text = path.read_text()
    if os.environ.get("EVENTBUS_REWRITE"):
        path.write_text(rewritten(text))
    else:
        assert rewritten(text) == text


def test_there_are_transcripts():
    assert len(TRANSCRIPTS) >= 12
