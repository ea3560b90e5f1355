"""Events as bytes, for peers that carry bytes: msgpack, and an array raw beside it.

pickle would do for small events; msgpack is what the bus uses, and it is the faster one for these.
"""

from __future__ import annotations

from typing import Any

import msgpack

from eventbus_mp.bench.payloads import Data

__all__ = ["head_of", "join", "pack", "unpack", "whole", "whole_from"]

LENGTH_BYTES = 8
ALIGNMENT = 64

pack = msgpack.Packer().pack
unpack = msgpack.unpackb


def head_of(data: Data) -> bytes:
    """What goes beside the array's own bytes."""
    array = data["array"]
    head: bytes = pack([data["n"], data["sent_ns"], array.dtype.str, array.shape])
    return head


def join(head: Any, buffer: Any) -> Data:
    """The event again; the array is a view of `buffer`."""
    import numpy

    n, sent_ns, dtype, shape = unpack(head)
    return {"n": n, "sent_ns": sent_ns, "array": numpy.frombuffer(buffer, dtype).reshape(shape)}


def whole(data: Data) -> bytes:
    """The event in one piece: for a peer that takes nothing else. The array is copied once."""
    head = head_of(data)
    begin = len(head).to_bytes(LENGTH_BYTES, "little") + head
    return b"".join((begin, bytes(-len(begin) % ALIGNMENT), memoryview(data["array"]).cast("B")))


def whole_from(piece: Any) -> Data:
    """What `whole` made; the array is a view of it."""
    view = memoryview(piece)
    end = LENGTH_BYTES + int.from_bytes(view[:LENGTH_BYTES], "little")
    return join(view[LENGTH_BYTES:end], view[end + -end % ALIGNMENT :])
