"""Coverage-guided fuzzing: `pip install atheris`, then `python -m tests.faults.fuzz -runs=N`.

The frame reader and the payload decoder may only raise what they say they raise. The suite tries the same without
coverage, by Hypothesis (test_scribbled_memory.py) and from a seed (test_figures.py).
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["eventbus_mp"]):
    from eventbus_mp.errors import ProtocolError
    from eventbus_mp.memory.layout import HEADER, MAGIC
    from eventbus_mp.protocol.decoders import ClientDecoder, ManagerDecoder
    from tests.faults.test_scribbled_memory import read_or_complain


def fuzz(data: bytes) -> None:
    """The first byte says which reader, and where the bytes are cut."""
    if len(data) < 2:
        return
    which, cut, rest = data[0] % 3, data[1], data[2:]
    if which == 2:
        head = HEADER.pack(MAGIC, cut, 0, 7, data[0], len(rest) % 97, 0)
        read_or_complain(rest, 7)
        read_or_complain(head + rest, 7)
        return
    stream = ManagerDecoder(1) if which else ClientDecoder()
    try:
        for piece in (rest[:cut], rest[cut:]):
            stream.feed(piece)
    except ProtocolError:
        return


def main() -> None:
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
