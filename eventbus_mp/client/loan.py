"""Loans: the producer fills shared memory in place, and publishing costs no copy.

A loan has a span of its own, so nothing waits for it: other events of the process are published meanwhile, and its
place among them is that of its end. That also means that a loan of a few bytes takes a block of memory (256 KiB).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from eventbus_mp.arguments import as_int
from eventbus_mp.client.loan_publisher import LoanedSpan
from eventbus_mp.client.publisher import Publisher
from eventbus_mp.client.session import Session
from eventbus_mp.client.steps import Steps
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import EncodeError, UsageError
from eventbus_mp.events import ENVELOPE_FIELDS, Event, EventShadow
from eventbus_mp.ids import unique_id
from eventbus_mp.memory.buffers import loaned_array, loaned_view, numpy_for_loans
from eventbus_mp.memory.payload import encode_loaned
from eventbus_mp.memory.written import loaned_offset

__all__ = ["BaseLoan", "Loan", "LoanAsked", "check_loan"]


class LoanAsked(NamedTuple):
    """What a loan is asked for; no memory is taken yet."""

    event: Event
    """With data that stands for what will be filled."""
    nbytes: int
    array: tuple[Any, Any] | None
    """(shape, dtype) of an array; None: plain bytes."""


class BaseLoan:
    """What a loan does without waiting; a thread (`Loan`) or a task (aio/loan.py) enters and leaves its block."""

    def __init__(self, handle: object, asked: LoanAsked) -> None:
        self.id = asked.event.id
        self.topic = asked.event.topic
        self.buffer: memoryview | None = None
        self.array: Any = None
        self.shadow: EventShadow | None = None
        """Of the event that was published; None before."""
        self._handle = handle
        """The bus that made it: it must live as long as the loan, for its connection ends with it."""
        self._publisher: Publisher | None = None
        self._event = asked.event
        self._asked = asked
        self._encoded = encode_loaned(asked.event, asked.nbytes)
        self._loaned: LoanedSpan | None = None
        self._entered = False

    def _entering(self, publisher: Publisher) -> Steps[None]:
        """The steps at the beginning of the block: get the memory."""
        if self._entered:
            raise UsageError(f"the loan of event {self.id!r} was used already; take another one")
        self._entered = True
        self._publisher = publisher
        try:
            self._event, self._encoded = publisher.before_loan(self._event, self._encoded)
            self._loaned = yield from publisher.loaning(self._event, self._encoded)
            self._show()
        except BaseException as error:
            publisher.after_loan(self._event, None, error)
            raise

    def _show(self) -> None:
        """Give the user something to fill."""
        nbytes, loaned = self._asked.nbytes, self._loaned
        if loaned is None:
            memory = memoryview(bytearray(nbytes))  # There is no subscriber to see it.
        else:
            start = loaned.span.offset + loaned_offset(self._encoded)
            memory = loaned.view[start : start + nbytes]
        if self._asked.array is None:
            self.buffer = memory
        else:
            shape, dtype = self._asked.array
            self.array = numpy_for_loans().ndarray(shape, dtype, buffer=memory)

    def _leave(self, error: BaseException | None) -> None:
        """The block has ended, perhaps by an error. Does not wait but for a manager that is behind."""
        publisher = self._publisher
        assert publisher is not None
        publisher.refuse_reentry()
        try:
            self._end(publisher, error)
        except BaseException as failure:
            publisher.after_loan(self._event, None, failure)
            raise
        publisher.after_loan(self._event, self.shadow, error)

    def _end(self, publisher: Publisher, error: BaseException | None) -> None:
        """Publish what was filled, or give the memory back."""
        self._revoke()
        loaned, self._loaned = self._loaned, None
        if error is not None:
            if loaned is not None:
                publisher.return_loaned(loaned)
        elif loaned is None:
            self.shadow = EventShadow(self.topic, self.id)
        else:
            self.shadow = publisher.publish_loaned(loaned, self._event, self._encoded)

    def _revoke(self) -> None:
        if self.buffer is not None:
            try:
                self.buffer.release()
            except BufferError:
                return  # Something still looks through it; there is no way to take that away.
        if self.array is not None:
            self.array.flags.writeable = False


class Loan(BaseLoan):
    """Shared memory to fill in a `with` block, whose end publishes it without a copy. Made by `EventBus.loan`.

    In the block, `buffer` is a writable memoryview, or `array` an ndarray; their content is arbitrary at first. If the
    block ends by an exception, the memory is given back and nothing is published. After the block, `shadow` is set, and
    the memory belongs to the readers: `buffer` is released and `array` is made read-only. Views that you derived from
    them, or a `buffer` that something still refers to, cannot be taken away: do not use them any more.

    Entering the block blocks and raises as `EventBus.notify` does. No lock is held while you fill the memory.
    """

    def __init__(self, handle: object, session: Session, asked: LoanAsked) -> None:
        super().__init__(handle, asked)
        self._session = session

    def __enter__(self) -> Loan:
        self._session.connection.run(self._entering(self._session.publisher))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._leave(error)


def check_loan(
    config: BusConfig, topic: str, nbytes: int | None, shape: Any, dtype: Any, fields: dict[str, Any]
) -> LoanAsked:
    """What is asked for by the arguments of `EventBus.loan`. `fields` are the event's, but for its data.

    Raises:
        UsageError: Neither a size, nor a shape with a dtype, or an unknown field; or numpy is not installed.
        EncodeError: The dtype cannot travel.
    """
    if "id" not in fields:
        fields = {"id": (config.id_generator or unique_id)(), **fields}
    unknown = sorted(set(fields).difference(ENVELOPE_FIELDS, ("id",)))
    if unknown:
        raise UsageError(f"loan({topic!r}): an event has no field {', '.join(unknown)}")
    if nbytes is not None and shape is None and dtype is None:
        length = as_int(nbytes)
        if length is None or length < 0:
            raise UsageError(f"loan({topic!r}, {nbytes!r}): the size is a number of bytes, 0 or more")
        return LoanAsked(Event(topic=topic, data=loaned_view(length), **fields), length, None)
    if nbytes is not None or shape is None or dtype is None:
        raise UsageError(f"loan({topic!r}): give either a number of bytes, or shape= and dtype=")
    given = shape if isinstance(shape, (tuple, list)) else (shape,)
    lengths = tuple(length for length in map(as_int, given) if length is not None and length >= 0)
    if len(lengths) < len(given):
        raise UsageError(f"loan({topic!r}, shape={shape!r}): a shape is whole numbers, 0 or more")
    numpy = numpy_for_loans()
    try:
        made = numpy.dtype(dtype)
    except TypeError as cause:
        raise UsageError(f"loan({topic!r}, dtype={dtype!r}): {cause}") from cause
    try:
        data = loaned_array(lengths, made)
    except TypeError as cause:
        raise EncodeError(f"loan({topic!r}, dtype={dtype!r}): {cause}") from cause
    size = math.prod(lengths) * made.itemsize
    try:
        if size <= config.event_bytes_max:  # Of a larger one, its size is what is wrong.
            numpy.broadcast_to(numpy.empty((), made), lengths)
    except ValueError as cause:
        raise UsageError(f"loan({topic!r}, shape={shape!r}): {cause}") from cause
    return LoanAsked(Event(topic=topic, data=data, **fields), size, (lengths, made))
