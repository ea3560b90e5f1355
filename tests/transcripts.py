"""Transcripts: dialogues that are played again, and compared with what is written. EVENTBUS_REWRITE=1 writes them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["check", "in_words"]


def check(path: Path, perform: Callable[[str], list[str]]) -> None:
    """Play a transcript: `perform` does what a line says, and gives the lines for what came of it."""
    text = path.read_text()
    found = _rewritten(text, perform)
    if os.environ.get("EVENTBUS_REWRITE"):
        path.write_text(found)
    else:
        assert found == text, "read the difference; if it is meant, run again with EVENTBUS_REWRITE=1 and commit"


def in_words(kind: type) -> str:
    """`TopicStale` -> `topic stale`."""
    return re.sub("(?<!^)([A-Z])", r" \1", kind.__name__).lower()


def _rewritten(text: str, perform: Callable[[str], list[str]]) -> str:
    blocks = []
    for block in re.split(r"\n\n+", text.strip()):
        commands = block.partition("\n----")[0]
        lines = [line for command in commands.splitlines() for line in perform(command)]
        silent = all(line.startswith("#") for line in commands.splitlines())
        blocks.append(commands if silent else "\n".join([commands, "----", *lines]))
    return "\n\n".join(blocks) + "\n"
