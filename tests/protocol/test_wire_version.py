"""What is on the wire is pinned to `handshake.VERSION`: processes that greet each other with one number must agree."""

import hashlib

from eventbus_mp.protocol import records
from eventbus_mp.protocol.decoders import _said
from eventbus_mp.protocol.messages import SPAN_AHEAD, SPAN_CANCELLED, SPAN_NEEDED, SPAN_RESERVE, Outcome
from eventbus_mp.protocol.requests import REQUESTS
from eventbus_mp.runtime.handshake import VERSION

PINNED = {2: "ddd8eb33ea189da3"}
"""Version -> hash of what is on the wire with it."""

TEXT = """what is on the wire has changed; processes of two versions would misread each other.

1. A request: append it at the end of REQUESTS (its place is its number), and never move or reuse one.
   A record kind: give it a number that no other kind has.
2. Raise VERSION in eventbus_mp/runtime/handshake.py. Do so as well if only the shape of an answer or of the bytes
   behind a record changes, which this test does not see.
3. Put the new version and this hash into PINNED, in this file: {found}

What is on the wire now:
{wire}"""


def wire() -> str:
    """Everything that both sides have to agree on, a line each."""
    kinds = {name: value for name, value in vars(records).items() if name.isupper() and type(value) is int}
    del kinds["KIND_BYTE"]  # The machine's byte order decides it; both sides are on one machine.
    lines = [f"record {records.RECORD.format} of {records.RECORD.size} bytes"]
    lines += [f"{name} = {value}" for name, value in sorted(kinds.items())]
    lines += [f"Outcome.{outcome.name} = {outcome.value}" for outcome in Outcome]
    lines += [f"spans: ahead {SPAN_AHEAD}, needed {SPAN_NEEDED}, reserve {SPAN_RESERVE}, cancelled {SPAN_CANCELLED}"]
    for number, kind in enumerate(REQUESTS):
        types = ", ".join(_said(expected) for expected in kind.WIRE)
        lines.append(f"request {number}: {kind.__name__}({types}), {'answered' if kind.ANSWERED else 'a notice'}")
    return "\n".join(lines)


def test_the_wire_has_the_version_that_the_handshake_names() -> None:
    found = hashlib.sha256(wire().encode()).hexdigest()[:16]
    assert PINNED.get(VERSION) == found, TEXT.format(found=found, wire=wire())
