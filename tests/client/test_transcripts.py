"""The transcripts of the client, each a dialogue with `ClientProtocol`; EVENTBUS_REWRITE=1 writes what it says now."""

from pathlib import Path

import pytest

from tests.client.transcript import Play
from tests.transcripts import check

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    check(path, Play().perform)
