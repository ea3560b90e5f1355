"""The connection to NATS, with what its client needs to be told. The only file that imports nats."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlparse

from eventbus_mp import UsageError
from eventbus_mp.addons.bridge.letters import (
    MailboxError,
    MailboxesClosed,
    MailboxesRefused,
    MailboxesUnreachable,
)

try:
    import nats.aio.client
    import nats.errors
except ImportError as cause:
    raise UsageError(
        "a bridge needs the package nats-py, which is not installed; type: pip install 'eventbus-mp[nats]'"
    ) from cause

__all__ = ["NatsLink", "closed_by", "logger", "not_permitted", "tls_context"]

logger = logging.getLogger("eventbus_mp.addons.bridge")

PING_INTERVAL_S = 5
PINGS_MAX = 2
"""A silent cut is seen after 10 to 15 s; with the client's own settings, after 4 minutes."""
RECONNECT_WAIT_S = 0.2
CONNECT_TIMEOUT_S = 2
PENDING_BYTES = 1 << 16
"""What is written and not yet in the socket; beyond it, publishing waits. A longer buffer is moved in memory with every
piece that leaves it (asyncio, before Python 3.12): 500 us of CPU for a letter of 256 KiB, and not 190."""
_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')
_OF_CREDENTIALS = ("authorization violation", "authentication", "authorization timeout")

Receive = Callable[[Any], Awaitable[None]]


class NatsLink:
    """One connection. It comes back for ever; what must not go on without it waits for `connected`.

    Nothing is published while the server is away: the client would keep it and send it later, behind what was sent
    again meanwhile.

    Args:
        inbox: The prefix of the subjects that this host, and nobody else, listens to.
        on_connected: Called each time that a connection is there anew.
        on_disconnected: Called each time that it is lost.
        on_denied: Called with "publish" or "subscribe" and the subject for which we may not; the client has made small
            letters of it.
        on_failed: Called when nothing will ever come again.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        inbox: str,
        *,
        creds: str | None,
        tls: ssl.SSLContext | None,
        name: str,
        on_connected: Callable[[], None],
        on_disconnected: Callable[[], None],
        on_denied: Callable[[str, str], None],
        on_failed: Callable[[MailboxError], None],
    ) -> None:
        self._servers = _server_list(servers)
        self._creds = creds
        self._options: dict[str, Any] = {
            "user_credentials": creds,
            "tls": tls,
            "name": name,
            "inbox_prefix": inbox,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RECONNECT_WAIT_S,
            "ping_interval": PING_INTERVAL_S,
            "max_outstanding_pings": PINGS_MAX,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "pending_size": PENDING_BYTES,
            "error_cb": self._failed_once,
            "disconnected_cb": self._disconnected,
            "reconnected_cb": self._reconnected,
            "closed_cb": self._closed,
        }
        self._on_connected, self._on_disconnected = on_connected, on_disconnected
        self._on_denied, self._on_failed = on_denied, on_failed
        self._client = nats.aio.client.Client()
        self._inbox = f"{inbox}.{self._client.new_inbox().rpartition('.')[2]}"
        self._refusal: asyncio.Future[None] | None = None
        self._last_error = "no answer"
        self._has_begun = False
        self._is_ending = False
        self.connected = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        return self.connected.is_set() and bool(self._client.is_connected)

    @property
    def payload_bytes_max(self) -> int:
        """What this server takes at most. The client compares the payload alone, and the server also the headers; we
        send none."""
        return int(self._client.max_payload)

    async def connect(self, timeout_s: float | None) -> None:
        """Wait for the first connection. Refused credentials end that at once; an absent server may come yet.

        Raises:
            MailboxesRefused: The credentials or a certificate are not accepted.
            MailboxesUnreachable: No server within `timeout_s`; None waits for ever.
        """
        self._check_creds()
        self._refusal = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(self._connect())
        try:
            await asyncio.wait({connecting, self._refusal}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._refusal.done():
                self._refusal.result()
            if not connecting.done():
                raise MailboxesUnreachable(
                    f"no NATS server answers at {self._shown()} within {timeout_s:g} s: {self._last_error}; "
                    "start one there, or correct the address"
                )
            connecting.result()
        finally:
            connecting.cancel()
            await asyncio.wait({connecting})
            if self._refusal.done() and not self._refusal.cancelled():
                self._refusal.exception()
            self._refusal = None
        self.connected.set()

    async def _connect(self) -> None:
        self._has_begun = True
        try:
            await self._client.connect(self._servers, **self._options)
        except ModuleNotFoundError as cause:
            self._has_begun = False
            raise UsageError("creds need the package nkeys; type: pip install 'nats-py[nkeys]'") from cause
        except nats.errors.Error as cause:
            self._has_begun = False
            raise MailboxesRefused(f"cannot connect to {self._shown()}: {cause}; correct the address") from cause

    def _check_creds(self) -> None:
        """The client would look for the beginning of a JWT for ever in a file that has none."""
        if self._creds is None:
            return
        try:
            with open(self._creds) as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as cause:
            raise UsageError(f"cannot read the credentials {self._creds}: {cause}; correct creds=") from cause
        if not all(f"BEGIN {part}" in text for part in ("NATS USER JWT", "USER NKEY SEED")):
            raise UsageError(f"{self._creds} has no user JWT and seed; give creds= the .creds file of the user")

    async def listen(self, suffix: str, receive: Receive) -> tuple[str, Any]:
        """Receive what is sent to a subject under our own inbox: its name, and the subscription.

        There is no limit of what waits for `receive`, because the client would drop what is over it: what comes is
        bounded by what was asked for.
        """

        async def guarded(message: Any) -> None:
            try:
                await receive(message)
            except Exception as error:
                self._on_failed(closed_by(error))

        subject = f"{self._inbox}.{suffix}"
        return subject, await self._client.subscribe(subject, cb=guarded, pending_msgs_limit=0, pending_bytes_limit=0)

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send, if we are connected; what is lost with the connection is for the caller to repeat."""
        if self.is_connected:
            await self._client.publish(subject, data, reply)

    async def flush(self) -> None:
        """Wait until the server has all that was sent."""
        if self.is_connected:
            await self._client.flush()

    async def close(self) -> None:
        """Send what is written, and end."""
        self._is_ending = True
        self.connected.clear()
        if self._has_begun:
            await self._client.close()

    # --- what the client says ---

    async def _failed_once(self, error: Exception) -> None:
        transport: Any = self._client._transport
        if transport and (self._client.is_connecting or self._client.is_reconnecting):
            transport.close()  # The client forgets a connection on which no server has answered, and leaves it open.
        is_new, self._last_error = str(error) != self._last_error, str(error) or type(error).__name__
        if denied := _DENIED.search(self._last_error.lower()):
            kind, subject = denied.groups()
            self._on_denied("publish" if kind == "publish" else "subscribe", subject)
        elif self._refusal is not None and not self._refusal.done():
            if refusal := self._refusal_of(error):
                self._refusal.set_exception(refusal)
        elif is_new and not self._is_ending:  # And not the same five times a second while a server is away.
            logger.warning("NATS: %s", self._last_error)

    def _refusal_of(self, error: Exception) -> MailboxError | None:
        """What ends the first attempt, as it is not going to become better by itself."""
        text = str(error).lower()
        if isinstance(error, ssl.SSLError):
            return MailboxesRefused(
                f"TLS with {self._shown()} fails: {error}; name the authority that signed the server's certificate "
                "(tls_ca), and our own certificate (tls_cert, tls_key) if the server asks for one"
            )
        if any(word in text for word in _OF_CREDENTIALS):
            return MailboxesRefused(
                f"{self._shown()} refuses the credentials: {error}; correct user and password of the address, or creds="
            )
        return None

    async def _disconnected(self) -> None:
        self.connected.clear()
        self._on_disconnected()

    async def _reconnected(self) -> None:
        logger.info("NATS: connected again to %s", self._shown())
        self._last_error = ""
        self.connected.set()
        self._on_connected()

    async def _closed(self) -> None:
        self.connected.clear()
        if not self._is_ending:
            error = self._client.last_error or self._last_error
            self._on_failed(
                MailboxesClosed(f"the NATS client has closed for good: {error}; correct that, and open new mailboxes")
            )

    def _shown(self) -> str:
        """The addresses, without what is secret in them."""
        return ", ".join(urlparse(server)._replace(netloc=_without_user(server)).geturl() for server in self._servers)


def not_permitted(verb: str, subject: str) -> MailboxError:
    return MailboxesRefused(f"the NATS server does not permit to {verb} to {subject!r}; give this user that permission")


def closed_by(error: BaseException) -> MailboxError:
    """What all calls that wait raise after an error that nobody foresaw."""
    if isinstance(error, MailboxError):
        return error
    closed = MailboxesClosed(f"the mailboxes have failed: {error!r}; look at its cause, and open new ones")
    closed.__cause__ = error
    return closed


def tls_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """To check the server's certificate against the file `ca`, and to show our own. None, without any of them: the
    machine's authorities, if the server asks for TLS at all.

    Raises:
        UsageError: A file cannot be read, or is not what it should be.
    """
    if ca is cert is key is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ValueError) as cause:
        files = ", ".join(filter(None, (ca, cert, key)))
        raise UsageError(f"cannot use the certificates {files}: {cause}; correct tls_ca, tls_cert, tls_key") from cause
    return context


def _without_user(server: str) -> str:
    return urlparse(server).netloc.rpartition("@")[2]


def _server_list(servers: str | Sequence[str]) -> list[str]:
    found = servers.split(",") if isinstance(servers, str) else list(servers)
    if not found or not all(found):
        raise UsageError(f"servers={servers!r} has no address; give it one, as nats://nats1:4222")
    return found
