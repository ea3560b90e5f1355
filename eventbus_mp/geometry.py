"""Geometry: the sizes and bounds that several parts of the bus agree on."""

from __future__ import annotations

__all__ = [
    "CHUNK_BYTES",
    "DIRECTED_MAX",
    "EVENTS_PAGE_MAX",
    "PAYLOAD_ALIGNMENT",
    "REASON_LENGTH_MAX",
    "RECEIPTS_TOLD_MAX",
    "RECORD_BYTES",
    "REQUIRED_MAX",
    "SEGMENT_BYTES",
    "SEQUENCE_LINK_SHIFT",
    "SETTLED_RANGE_MAX",
    "SHARED_SPAN_BYTES_MAX",
    "SPILLED_FROM",
    "TRACEBACK_LENGTH_MAX",
    "TAGS_MAX",
    "TAG_BYTES_MAX",
    "WAIT_S_MAX",
    "shared_span_bytes",
]

SEQUENCE_LINK_SHIFT = 40
"""A sequence number is `link << 40 | serial`: its producer makes it without asking, and never the same one twice."""

CHUNK_BYTES = 256 * 1024
"""Segments are cut into chunks of this length. A span is one chunk, or several that follow each other."""
SEGMENT_BYTES = 64 * 1024 * 1024
"""The length of a segment that several spans share."""
SHARED_SPAN_BYTES_MAX = SEGMENT_BYTES // 2
"""An event that needs a longer span gets a segment of its own."""
SPILLED_FROM = 1 << 31
"""Segments that lie in files have numbers from here on."""
PAYLOAD_ALIGNMENT = 64
"""Payloads begin at multiples of this in a span, and their lengths are multiples of it; so no payload is shorter."""

RECORD_BYTES = 40
"""The size of a packed record: protocol/records.py has the picture."""

REASON_LENGTH_MAX = 500
TRACEBACK_LENGTH_MAX = 2048
"""How many characters of a skip's reason travel and are remembered."""
WAIT_S_MAX = 86_400.0
"""The longest single wait in a system call: poll() refuses numbers that do not fit into its milliseconds."""

SPAN_BYTES_MAX = 1 << 20
SPANS_MIN = 16
"""The spans that small events share are cut so that at least this many fit into the memory."""


def shared_span_bytes(memory_bytes_max: int) -> int:
    """The length of the spans that small events share: a power of two, at least one chunk."""
    largest = memory_bytes_max // SPANS_MIN
    return min(SPAN_BYTES_MAX, max(CHUNK_BYTES, 1 << (largest.bit_length() - 1)))


SETTLED_RANGE_MAX = 1 << 20
"""As many deliveries as an endpoint can hold: a longer range of them is nonsense."""
DIRECTED_MAX = 1_024
"""How many subscribers events may be directed to."""
REQUIRED_MAX = 64
"""How many subscribers a producer may require."""

TAGS_MAX = 256
"""How many events are tagged by one notice."""
TAG_BYTES_MAX = 64
"""The length of a tag."""
RECEIPTS_TOLD_MAX = 4_096
"""How many settled events one answer tells of."""

EVENTS_PAGE_MAX = 1000
"""How many unsettled events one answer lists."""
