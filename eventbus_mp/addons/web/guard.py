"""Who may ask: the checks that every request has to pass, and the headers that every answer has.

A page on localhost is attacked through the user's own browser: another site's page sends requests to it, or gives its
own name the address 127.0.0.1 and then reads the answers as its own. So the Host has to be one of ours, what another
origin sends is refused, and nothing is shared with other origins.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection, Mapping
from typing import NamedTuple

__all__ = ["ACTION_HEADER", "HEADERS", "Guard", "Refusal", "host_name"]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
ACTION_HEADER = "x-eventbus-action"
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every answer. The page has no scripts and styles but its own files, and shows everything else as text."""


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    text: str
    headers: Mapping[str, str] = {}


class Guard:
    """The checks of one app.

    Args:
        hosts: Names that a Host header may have beside those of the loopback interface, without a port.
        token: What a request has to show as `Authorization: Bearer TOKEN` or as the password of Basic; None: nothing.
        action_token: What a POST has to show in the header `X-EventBus-Action`; None: no POST is allowed.
    """

    def __init__(self, hosts: Collection[str] = (), token: str | None = None, action_token: str | None = None) -> None:
        self._hosts = {*LOOPBACK_NAMES, *(host_name(host) for host in hosts)}
        self._token = token
        self._action_token = action_token

    def refusal(self, method: str, headers: Mapping[str, str], *, is_open: bool = False) -> Refusal | None:
        """Why this request is refused; None: it is not.

        Args:
            method: Of the request.
            headers: Of the request, with names in small letters.
            is_open: The path needs no token.
        """
        host = headers.get("host", "")
        if host_name(host) not in self._hosts:
            return Refusal(
                421, f"the Host {host!r:.100} is not one of this page; --allow-host NAME adds one that is meant for it"
            )
        wrong = self._wrong_origin(method, host, headers)
        if wrong is not None:
            return wrong
        if self._token is not None and not is_open and not _shows(headers.get("authorization", ""), self._token):
            return Refusal(401, "this needs the token", {"www-authenticate": 'Basic realm="eventbus_mp"'})
        if method in ("GET", "HEAD"):
            return None
        return self._wrong_action(method, headers)

    def _wrong_origin(self, method: str, host: str, headers: Mapping[str, str]) -> Refusal | None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return Refusal(403, f"the origin {origin!r:.100} is not this page")
        site = headers.get("sec-fetch-site", "none")
        is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not is_link:
            return Refusal(403, f"a request from another site ({site!r:.40})")
        return None

    def _wrong_action(self, method: str, headers: Mapping[str, str]) -> Refusal | None:
        if self._action_token is None:
            return Refusal(405, "this page only looks; --allow-actions lets it do more", {"allow": "GET, HEAD"})
        if method != "POST":
            return Refusal(405, f"no {method:.20} here", {"allow": "GET, HEAD, POST"})
        if not _is_same(headers.get(ACTION_HEADER, ""), self._action_token):
            return Refusal(403, f"the header {ACTION_HEADER} does not have the token of actions, which api/bus tells")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return Refusal(415, f"the content type {kind!r:.60} is not application/json")
        return None


def host_name(host: str) -> str:
    """The name in a Host header, without its port: `[::1]:8321` -> `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() and ":" not in name else host).lower().removesuffix(".")


def _shows(authorization: str, token: str) -> bool:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return _is_same(value.strip(), token)
    if scheme.lower() != "basic":
        return False
    try:
        pair = base64.b64decode(value.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return False
    return _is_same(pair.partition(":")[2], token)


def _is_same(given: str, expected: str) -> bool:
    """Whether the texts are equal; takes as long for one mistake as for another."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape"))
