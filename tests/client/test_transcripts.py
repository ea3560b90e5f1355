"""The transcripts of the client, each a dialogue with `ClientProtocol`; EVENTBUS_REWRITE=1 writes what it says now."""

import os
from pathlib import Path

import pytest

from tests.client.transcript import rewritten

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    found = rewritten(text)
    if os.environ.get("EVENTBUS_REWRITE"):
        path.write_text(found)
    assert found == text, "read the difference; if it is meant, run again with EVENTBUS_REWRITE=1 and commit"
