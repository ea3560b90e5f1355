"""What is on the wire is written down in wire.txt. `EVENTBUS_REWRITE=1` writes it anew: read the diff."""

import os
from pathlib import Path

from eventbus_mp.protocol.version import VERSION, wire

WRITTEN = Path(__file__).with_name("wire.txt")

TEXT = """what is on the wire is not what wire.txt says; the version of the protocol has changed with it.

If it is meant, EVENTBUS_REWRITE=1 pytest tests/protocol/test_version.py writes it. A new request or record has a line
of its own there. A line that has changed, or has another number, is a mistake in most cases.
"""


def test_what_is_on_the_wire_is_what_is_written_down() -> None:
    found = f"version {VERSION}\n\n{wire()}"
    if os.environ.get("EVENTBUS_REWRITE"):
        WRITTEN.write_text(found)
    assert found == WRITTEN.read_text(), TEXT
