"""A connection: `ClientProtocol` over a transport, for threads that ask and wait."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from eventbus_mp.client.protocol import ClientProtocol
from eventbus_mp.client.transport import Transport
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.protocol.client_events import Delivered, ManagerChanged, Replied, SpanGranted, TopicStale
from eventbus_mp.protocol.decoders import encode_request
from eventbus_mp.protocol.requests import Goodbye, Request
from eventbus_mp.runtime.handshake import Welcome

__all__ = ["Connection"]

log = logging.getLogger("eventbus_mp")

T = TypeVar("T")


class Connection:
    """One link to the manager. It never reconnects, and is useless in a forked child.

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
        self.wait = transport.wait
        self.wake = transport.wake
        self._log_tail = log_tail
        self.on_span_granted: Callable[[SpanGranted], None] = _ignore
        """Called with the transport's lock held, as `on_manager_changed` is."""
        self.on_manager_changed: Callable[[], None] = lambda: None
        self.on_topic_stale: Callable[[TopicStale], None] = _ignore
        transport.on_data = self._receive
        transport.resume = self._resume

    # --- sending ---

    def call(self, what: Callable[..., T], *arguments: Any) -> T:
        """Make a call of the protocol that has something to send, and send it; blocks while the manager is behind.

        Raises:
            EventBusError: The link has ended.
            UsageError: This thread is in the middle of writing.
        """
        with self.transport.lock.held():
            result = what(*arguments)
            self.flush_locked()
            return result

    def flush_locked(self) -> None:
        """Write what the protocol has to send; for a caller that holds the lock."""
        data = self.protocol.data_to_send()
        if data:
            self.transport.write(data)

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
        if not self.wait(lambda: protocol.has_reply(number), self.config.request_timeout_s):
            protocol.forget_reply(number)
            raise ManagerLost(
                f"the manager of bus {self.bus!r} did not answer {what} within {self.config.request_timeout_s:g} s"
            )
        return protocol.take_reply(number)

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
        """Go on with what an exception of a signal's handler has interrupted; False: there is nothing."""
        if not self.protocol.has_events:
            return False
        self._handle_events()
        return True

    def _handle_events(self) -> None:
        next_event, lock = self.protocol.next_event, self.transport.lock
        while (event := next_event()) is not None:
            if type(event) is Delivered or type(event) is Replied:
                continue
            if type(event) is TopicStale:
                self.on_topic_stale(event)  # Without the lock: it logs, and a log's handler may publish.
                continue
            with lock.held():
                if type(event) is SpanGranted:
                    self.on_span_granted(event)
                elif type(event) is ManagerChanged:
                    self.on_manager_changed()
                self.flush_locked()

    # --- the end ---

    @property
    def manager_pid(self) -> int:
        """The manager that serves this link now."""
        return self.protocol.manager_pid

    @property
    def lost(self) -> bool:
        """Whether the link has ended, by either side."""
        return self.transport.ended

    def _lose(self) -> None:
        tail = self._log_tail()
        detail = f"; the end of its log:\n{tail}" if tail else ""
        self.transport.end(ManagerLost(f"the manager of bus {self.bus!r} is gone{detail}"))

    def close(self) -> None:
        """Say goodbye and leave; waiting threads get `BusClosed`. Harmless when repeated.

        Raises:
            UsageError: This thread is in the middle of writing.
        """
        closed = BusClosed(f"this handle of bus {self.bus!r} was closed; open another EventBus")
        self.transport.close(closed, encode_request(Goodbye(0, 0)))

    def abandon(self) -> None:
        """In a forked child: drop the descriptors without a word; the parent goes on with its own."""
        self.transport.abandon(BusClosed(f"this connection to bus {self.bus!r} belongs to the parent process"))


def _ignore(message: object) -> None:
    """Nobody is interested yet."""
