"""The version of the protocol: processes that greet each other with one version read each other's bytes alike."""

from __future__ import annotations

import zlib

from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import RECORD_EVENTS
from eventbus_mp.protocol.messages import SPAN_AHEAD, SPAN_CANCELLED, SPAN_NEEDED, SPAN_RESERVE, Outcome
from eventbus_mp.protocol.requests import REQUESTS, said_types

__all__ = ["REVISION", "VERSION", "wire"]

REVISION = 11
"""Raise it by hand if something changes that `wire` does not see: the shape of an answer, the bytes behind a record,
the handshake, a payload."""

_OF_THE_MACHINE = {"KIND_BYTE"}
"""Constants of records.py that follow from the machine's byte order; both sides are on one machine."""


def wire() -> str:
    """All that travels between a process and the manager, a line each."""
    constants = {name: value for name, value in vars(records).items() if name.isupper() and type(value) is int}
    lines = [f"record {records.RECORD.format} of {records.RECORD.size} bytes"]
    lines += [f"{name} = {value}" for name, value in sorted(constants.items()) if name not in _OF_THE_MACHINE]
    lines += [f"Outcome.{outcome.name} = {outcome.value}" for outcome in Outcome]
    lines += [f"spans: ahead {SPAN_AHEAD}, needed {SPAN_NEEDED}, reserve {SPAN_RESERVE}, cancelled {SPAN_CANCELLED}"]
    for number, event in sorted(RECORD_EVENTS.items()):
        places = ", ".join(f"{name} at {place}" for name, _, place in event.PLACES)
        lines.append(f"record {number}: {event.__name__}({places})")
    for number, kind in sorted(REQUESTS.items()):
        types = ", ".join(said_types(kind).values())
        lines.append(f"request {number}: {kind.__name__}({types}), {'answered' if kind.ANSWERED else 'a notice'}")
    return "\n".join(lines) + "\n"


VERSION = f"{REVISION}-{zlib.crc32(wire().encode()):08x}"
"""The revision and a checksum of `wire`, so whatever changes there changes the version as well."""
