"""A loan for a payload that comes from elsewhere as it is: it is received where its readers will find it."""

from __future__ import annotations

from contextlib import suppress

from eventbus_mp.client.loan_publisher import LoanedSpan
from eventbus_mp.client.session import Session
from eventbus_mp.client.tagging import Tagging
from eventbus_mp.errors import EventTooLarge, UnknownTopic, UsageError
from eventbus_mp.events import Event
from eventbus_mp.geometry import PAYLOAD_ALIGNMENT

__all__ = ["RawLoan"]


class RawLoan:
    """Shared memory to write a whole payload to in a `with` block, whose end publishes it. From `Receipts.loan_raw`.

    In the block, `buffer` is a writable memoryview. If the block ends by an exception, the memory is given back and
    nothing is published. After the block `buffer` is released; do not use views that you derived from it any more.

    Entering the block blocks and raises as `EventBus.notify` does, and `UnknownTopic` if there is no such topic. Its
    end raises `UsageError` if what was written is not a payload. No lock is held while you write.
    """

    def __init__(self, session: Session, topic: str, nbytes: int, tagging: Tagging) -> None:
        if nbytes < PAYLOAD_ALIGNMENT or nbytes % PAYLOAD_ALIGNMENT:
            raise UsageError(f"loan_raw({topic!r}, {nbytes!r}): the length of a payload is a multiple of 64 bytes")
        if nbytes > session.publisher.event_bytes_max:
            limit = session.publisher.event_bytes_max
            raise EventTooLarge(f"loan_raw({topic!r}, {nbytes}): BusConfig.event_bytes_max allows {limit}")
        self.buffer = memoryview(b"")
        self._session = session
        self._topic = topic
        self._nbytes = nbytes
        self._tagging = tagging
        self._loaned: LoanedSpan | None = None

    def __enter__(self) -> RawLoan:
        stand_in = Event("not read yet", self._topic, None)
        self._tagging.begin([(stand_in, (b"", b"", b"", (), self._nbytes))])
        try:
            publisher = self._session.publisher
            loaned = self._session.connection.run(publisher.loaning_raw(self._topic, self._nbytes))
            if loaned is None:
                raise UnknownTopic(f"topic {self._topic!r} is not registered; call register_topic() first")
        except BaseException:
            self._tagging.end()
            raise
        self._loaned = loaned
        start = loaned.span.offset
        self.buffer = loaned.view[start : start + self._nbytes]
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        publisher = self._session.publisher
        publisher.refuse_reentry()
        with suppress(BufferError):  # Something still looks through it; there is no way to take that away.
            self.buffer.release()
        loaned, self._loaned = self._loaned, None
        assert loaned is not None
        try:
            if error is not None:
                publisher.return_loaned(loaned)
            else:
                publisher.publish_raw(loaned, self._topic, self._nbytes, self._tagging.frame)
        finally:
            self._tagging.end()
