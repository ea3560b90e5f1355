"""Parcels: what bridges send each other, as classes, with their way to bytes and back. Pure.

`parcel.encode()` makes the bytes, `decode(data)` the parcel, of whatever kind it is. What is decoded comes from another
machine: every type and every length is checked, so the only errors are `ParcelError` and `ForeignLayout`, and what a
parcel costs follows from its length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from eventbus_mp.addons.bridge.events import BULK, TIMED, Entry, Events, Part
from eventbus_mp.addons.bridge.fields import ForeignLayout, ParcelError, Target
from eventbus_mp.addons.bridge.frame import Frame, opened
from eventbus_mp.addons.bridge.messages import OUTCOMES, Confirm, Have, Held, Outcomes, Result, Topics, Who

__all__ = [
    "BULK",
    "OUTCOMES",
    "TIMED",
    "Confirm",
    "Entry",
    "Events",
    "ForeignLayout",
    "Have",
    "Held",
    "Outcomes",
    "Parcel",
    "ParcelError",
    "Part",
    "Result",
    "Target",
    "Topics",
    "Who",
    "decode",
]

Parcel: TypeAlias = Events | Part | Outcomes | Confirm | Topics | Who | Have

_READERS: dict[int, Callable[[Frame, bytes], Parcel]] = {
    Events.KIND: Events.read,
    Part.KIND: Part.read,
    Outcomes.KIND: Outcomes.read,
    Confirm.KIND: Confirm.read,
    Topics.KIND: Topics.read,
    Who.KIND: Who.read,
    Have.KIND: Have.read,
}


def decode(data: bytes) -> Parcel:
    """The parcel of these bytes. Large payloads are views of them, which keep them.

    Raises:
        ParcelError: They are no parcel of ours; the text says what is wrong.
        ForeignLayout: It is one of another version, or its payloads cannot be read here.
    """
    frame = opened(data)
    read = _READERS.get(frame.kind)
    if read is None:
        raise ParcelError(f"it is a parcel of kind {frame.kind}, which this version does not know")
    return read(frame, data)
