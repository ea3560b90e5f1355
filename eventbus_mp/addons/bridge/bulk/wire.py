"""What the two sides of a bulk connection say to each other.

    server                                   client
    GREETING (a nonce)                  ->
                                        <-   PROOF: HMAC-SHA256 of the nonce, by the token
    ACCEPTED                            ->
                                        <-   REQUEST: the life of the bus, a sequence number
    ANSWER: how long the payload is,
    0 if there is none, and the payload ->
                                        <-   REQUEST ...

The token itself does not travel. Payloads do as they are: the network between the hosts is trusted, or encrypted below.

All that a server sends is multiples of 64 bytes long. So a payload is as aligned in the kernel's pages as it is in
memory, and to copy 1 MiB out of them takes 160 us; behind an answer of 8 bytes it took 440.
"""

from __future__ import annotations

import hmac
import struct

from eventbus_mp import EventBusError, UsageError

__all__ = [
    "ACCEPTED",
    "ANSWER",
    "BULK_FROM",
    "GREETING",
    "HEAD_BYTES",
    "NONCE_BYTES",
    "PROOF_BYTES",
    "REFUSED",
    "REQUEST",
    "BulkGone",
    "BulkUnavailable",
    "greeting",
    "host_and_port",
    "nonce_of",
    "proof",
    "seconds_for",
    "without_number",
]

BULK_FROM = 256 << 10
"""Payloads from this length on are worth a request."""
GREETING = struct.Struct("<4sB3x16s40x")
REQUEST = struct.Struct("<8sQ")
ANSWER = struct.Struct("<Q56x")
HEAD_BYTES = 64
NONCE_BYTES = 16
PROOF_BYTES = 32
ACCEPTED, REFUSED = b"\x01" * 64, b"\x00" * 64

_MAGIC = b"EBBK"
_VERSION = 1
_RATE_MIN = 1 << 20
"""Bytes a second: what goes more slowly is as good as gone."""


class BulkUnavailable(EventBusError):
    """The payload cannot be fetched in this way now; it can still come in parts. The text says why."""


class BulkGone(BulkUnavailable):
    """The origin does not have the event: it is settled, or that life of its bus is over."""


def greeting(nonce: bytes) -> bytes:
    """How a server begins."""
    return GREETING.pack(_MAGIC, _VERSION, nonce)


def nonce_of(data: bytes | bytearray) -> bytes | None:
    """The nonce in a greeting; None: it is not one of this version."""
    magic, version, nonce = GREETING.unpack(data)
    return nonce if (magic, version) == (_MAGIC, _VERSION) else None


def proof(token: bytes, nonce: bytes) -> bytes:
    """What shows that its sender knows the token."""
    return hmac.digest(token, b"eventbus_mp bulk " + nonce, "sha256")


def without_number(head: memoryview) -> bytes:
    """The beginning of a payload, without the number that it has on the origin's bus.

    It is received in shared memory, where another event may once have had this very number: a process that still looks
    for that one must not take this one for it. The receiving bus numbers it when it is whole.
    """
    return b"".join((head[:8], bytes(8), head[16:]))


def seconds_for(length: int, timeout_s: float) -> float:
    """How long so many bytes may take."""
    return timeout_s + length / _RATE_MIN


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT, or [IPV6]:PORT.

    Raises:
        UsageError: It is something else.
    """
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if host and port.isascii() and port.isdigit() and int(port) < 1 << 16:
        return host, int(port)
    raise UsageError(f"address {address[:80]!r} is not HOST:PORT, or [IPV6]:PORT")
