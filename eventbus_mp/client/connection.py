"""A connection: `ClientProtocol` over a transport, for threads that ask and wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from eventbus_mp.client.protocol import NEED_LOCK, ClientProtocol
from eventbus_mp.client.steps import Step, Steps
from eventbus_mp.client.transport import Transport
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost, UsageError
from eventbus_mp.locking import reentered
from eventbus_mp.protocol.client_events import (
    BusEnded,
    ManagerChanged,
    Recalled,
    SpanGranted,
    TopicStale,
    pack_client_event,
)
from eventbus_mp.protocol.decoders import encode_request
from eventbus_mp.protocol.requests import Goodbye, Request
from eventbus_mp.runtime.handshake import Welcome

__all__ = ["Connection", "only_looks"]

log = logging.getLogger("eventbus_mp")

T = TypeVar("T")


class Connection:
    """One link to the manager, and no other one after it. It is useless in a forked child.

    Args:
        bus: The bus's name, for messages.
        config: This process's settings.
        welcome: What the manager said in the handshake.
        transport: The link's own; its data comes here from now on.
        log_tail: Gives the end of the manager's log, for the error when the manager is lost.
    """

    def __init__(
        self, bus: str, config: BusConfig, welcome: Welcome, transport: Transport, log_tail: Callable[[], str]
    ) -> None:
        self.bus = bus
        self.config = config
        self.welcome = welcome
        self.transport = transport
        self.protocol = ClientProtocol(welcome.link, welcome.memory_bytes_max, welcome.manager_pid)
        self._outgoing = self.protocol.outgoing
        self.wait = transport.wait
        self.wake = transport.wake
        self._log_tail = log_tail
        self.on_span_granted: Callable[[SpanGranted], None] = _ignore
        """Called with the transport's lock held, as `on_manager_changed` is."""
        self.on_manager_changed: Callable[[], None] = lambda: None
        self.on_topic_stale: Callable[[TopicStale], None] = _ignore
        self.before_takeover: Callable[[int], None] = _ignore
        """Called with the pid of a new manager, in the thread that reads for all."""
        self.after_takeover: Callable[[int], None] = _ignore
        """Called when the new manager knows what is here, and the turn of reading is over."""
        self.on_recalled: Callable[[Recalled], None] = _ignore
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the manager is gone, perhaps with the transport's lock held."""
        self.at_end: dict[int, Callable[[], None]] = {}
        """For those who wait by a descriptor, each under a number of its own: see `announce_end`."""
        self.why_lost = ""
        transport.on_data = self._receive
        transport.resume = self._resume

    # --- sending ---

    def call(self, what: Callable[..., T], *arguments: Any) -> T:
        """Make a call of the protocol that has something to send, and send it; blocks while the manager is behind.

        Raises:
            EventBusError: The link has ended.
            UsageError: This thread is in the middle of writing.
        """
        lock, me = self.transport.lock, threading.get_ident()
        if lock.owner == me:
            raise reentered()
        # hot path: once for each large event and each report. The lock is written out (locking.py).
        with lock.raw:
            lock.owner = me
            try:
                result = what(*arguments)
                if self._outgoing:
                    self.transport.write(self.protocol.data_to_send())
                return result
            finally:
                lock.owner = 0

    def flush_locked(self) -> None:
        """Write what the protocol has to send; for a caller that holds the lock."""
        if self._outgoing:
            self.transport.write(self.protocol.data_to_send())

    def request(self, kind: type[Request], *fields: Any) -> Any:
        """Ask the manager and wait for the answer.

        Raises:
            UsageError: The manager refused; the class is the one it named.
            ManagerLost: It did not answer within `request_timeout_s`, or is gone.
        """
        number = self.call(self.protocol.request, kind, *fields)
        return self.await_reply(number, kind.__name__)

    def await_reply(self, number: int, what: str) -> Any:
        """Wait for the answer to a request that was sent; raises as `request`."""
        protocol = self.protocol
        try:
            answered = self.wait(lambda: protocol.has_reply(number), self.config.request_timeout_s)
        except BaseException:  # A signal handler has raised, or the link has ended.
            protocol.forget_reply(number)
            raise
        if not answered:
            protocol.forget_reply(number)
            raise self.unanswered(what)
        return protocol.take_reply(number)

    def unanswered(self, what: str) -> ManagerLost:
        """The error for a request whose answer does not come."""
        return ManagerLost(
            f"the manager of bus {self.bus!r} did not answer {what} within {self.config.request_timeout_s:g} s"
        )

    def await_event(self, number: int, timeout_s: float | None) -> bool:
        """Wait for what the manager answers when it has happened: a `Drain`, an awaited event. False: not in time.

        If it is not waited for until then, for whatever reason, the manager hears that nobody waits any more.
        """
        protocol = self.protocol
        arrived = False
        try:
            arrived = self.wait(lambda: protocol.has_reply(number), timeout_s)
        finally:
            if not arrived:
                with suppress(EventBusError):  # The link has ended, or an exception's traceback still holds the lock.
                    self.call(protocol.cancel_wait, number)
        return arrived

    def run(self, steps: Steps[T]) -> T:
        """Do the steps of a call, each of which blocks: its result. Raises what they raise."""
        try:
            step = next(steps)
            while True:
                try:
                    result = self._do(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()  # A signal handler may have raised between two steps.

    def _do(self, step: Step) -> Any:
        return getattr(self, step.method)(*step.arguments)

    @staticmethod
    def call_apart(call: Callable[..., T], *arguments: Any) -> T:
        """Make a call that blocks for something else than the manager."""
        return call(*arguments)

    def send_oneway(self, kind: type[Request], *fields: Any) -> None:
        """Send a request that is not answered."""
        self.call(self.protocol.notice, kind, *fields)

    # --- what arrives; in the thread that reads for all ---

    def _receive(self, data: bytes) -> None:
        if data:
            self.protocol.receive_data(data)
            self._handle_events()
        else:
            self._lose()

    def _resume(self) -> bool:
        """Go on with what an exception of a signal handler has interrupted; False: there is nothing."""
        if not self.protocol.arrived:
            return False
        self._handle_events()
        return True

    def _handle_events(self) -> None:
        protocol, arrived = self.protocol, self.protocol.arrived
        while arrived:
            if type(arrived[0]) in NEED_LOCK:
                # The lock first: it may have to be waited for, and if a signal handler raises then, nothing is lost.
                pid = protocol.next_manager_pid
                if pid:
                    self.before_takeover(pid)
                self.call(self._answer_next)
                if pid:
                    self.transport.after_turn(partial(self.after_takeover, pid))
                continue
            event = protocol.next_event()
            if type(event) is TopicStale:
                self.on_topic_stale(event)  # Without the lock: it logs, and a log's handler may publish.
            elif type(event) is Recalled:
                self.on_recalled(event)

    def _answer_next(self) -> None:
        event = self.protocol.next_event()
        if type(event) is SpanGranted:
            self.on_span_granted(event)
        elif type(event) is ManagerChanged:
            self.on_manager_changed()

    # --- the end ---

    @property
    def manager_pid(self) -> int:
        """The manager that serves this link now."""
        return self.protocol.manager_pid

    @property
    def lost(self) -> bool:
        """Whether the link has ended, by either side."""
        return self.transport.ended

    def was_shut_down(self) -> bool:
        """Of a link that was lost: whether the bus was shut down. The manager says so last, if it can."""
        protocol = self.protocol
        if not protocol.is_shut_down:
            protocol.is_shut_down = self.transport.rest().endswith(pack_client_event(BusEnded()))
        return protocol.is_shut_down

    def announce_end(self) -> None:
        """The thread that read for listeners ends, with the link or before it: nobody may read any more."""
        for call in tuple(self.at_end.values()):
            call()

    def _lose(self) -> None:
        tail = self._log_tail()
        detail = f"; the end of its log:\n{tail}" if tail else ""
        self.why_lost = self.why_lost or f"the manager of bus {self.bus!r} is gone{detail}"
        self.transport.end(ManagerLost(self.why_lost))
        self.on_lost()

    def close(self, before: Callable[[], object]) -> None:
        """Say goodbye and leave; waiting threads get `BusClosed`. Harmless when repeated.

        Args:
            before: Called before the goodbye, with the write lock held. If it raises, the link goes on.

        Raises:
            UsageError: This thread is in the middle of writing.
        """
        closed = BusClosed(f"this handle of bus {self.bus!r} was closed; open another EventBus")
        self.transport.close(closed, encode_request(Goodbye(0, 0)), before)

    def abandon(self) -> None:
        """In a forked child: drop the descriptors without a word; the parent goes on with its own."""
        self.transport.abandon(BusClosed(f"this connection to bus {self.bus!r} belongs to the parent process"))


def only_looks(bus: str) -> UsageError:
    """The error for what a handle of `EventBus.attach` does not do."""
    return UsageError(
        f"this handle is attached to bus {bus!r} and only looks; make an EventBus to publish, subscribe or register"
    )


def _ignore(message: object) -> None:
    """Nobody is interested yet."""
