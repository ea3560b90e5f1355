"""Publishing with tags: what is written together with the records of events, so that the bus keeps receipts of them."""

from __future__ import annotations

from eventbus_mp.arguments import as_list
from eventbus_mp.client.directions import Direction
from eventbus_mp.client.receipt_box import OpenBox
from eventbus_mp.errors import UsageError
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.geometry import TAG_BYTES_MAX
from eventbus_mp.memory.written import EncodedEvent

__all__ = ["Tagging", "check_tags"]


def check_tags(call: str, tags: object) -> list[bytes]:
    """The tags as a list.

    Raises:
        UsageError: They are not a list of tags.
    """
    wanted = as_list(tags)
    if wanted is None:
        raise UsageError(f"{call}(tags={tags!r:.80}): give a list of bytes, one for each event")
    for index, tag in enumerate(wanted):
        if type(tag) is not bytes or not 0 < len(tag) <= TAG_BYTES_MAX:
            raise UsageError(f"{call}: tags[{index}]={tag!r:.80} is not a tag of 1 to {TAG_BYTES_MAX} bytes")
    return wanted


class Tagging:
    """The tags of one `notify_many`, as `publisher.Around`.

    Args:
        box: Where the receipts are kept.
        tags: The tags of all events; None: their ids.
        direction: To whom the events go; None: to all that are subscribed.
    """

    def __init__(self, box: OpenBox, tags: list[bytes] | None, direction: Direction | None) -> None:
        self.is_directed = direction is not None
        self._box = box
        self._direction = direction
        self._tags = tags
        self._left: list[bytes] = []
        """Those that are not written, behind `_written`."""
        self._written = 0

    def begin(self, prepared: list[tuple[Event, EncodedEvent]]) -> None:
        """See `Around.begin`.

        Raises:
            UsageError: There is not one tag for each event, or an id cannot be one.
            BusFull: There would be too many receipts.
        """
        if self._tags is None:
            tags = [encoded[0] for _, encoded in prepared]
            for tag, (event, _) in zip(tags, prepared, strict=True):
                if not 0 < len(tag) <= TAG_BYTES_MAX:
                    said = f"Event.id {event.id!r:.80} has {len(tag)} bytes"
                    raise UsageError(f"{said}; a tag has 1 to {TAG_BYTES_MAX}: give tags=[...]")
        else:
            tags = self._tags
            if len(tags) != len(prepared):
                raise UsageError(f"notify_many: {len(prepared)} events and {len(tags)} tags; give one for each event")
        self._box.reserve(len(tags))
        self._left = tags

    def frame(self, shadows: list[EventShadow]) -> tuple[bytes, bytes]:
        """See `Around.frame`. What nobody is subscribed to gets its numbers behind the others."""
        tags = self._left[self._written : self._written + len(shadows)]
        self._written += len(shadows)
        sent = [tag for tag, shadow in zip(tags, shadows, strict=True) if shadow._at is not None]
        first = next((shadow._at[4] for shadow in shadows if shadow._at is not None), 0)
        before = self._box.tagged(first, sent) if sent else []
        if len(sent) < len(tags):
            before += self._box.dropped([tag for tag, shadow in zip(tags, shadows, strict=True) if shadow._at is None])
        begins, ends = self._direction.frame(shadows) if self._direction is not None else (b"", b"")
        return b"".join([*before, begins]), ends

    def end(self) -> None:
        """What was not published takes no room."""
        self._box.unreserve(len(self._left) - self._written)
