"""The ASGI app: paths to answers, behind the guard. It can be mounted under any prefix of another app.

All addresses on the page are relative, so nothing has to know the prefix, nor whether something in front removes it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from eventbus_mp import BusConfig, EventBus, EventBusError, ManagerLost, NoSuchBus, NotSubscribed, UsageError
from eventbus_mp.addons.checks import checked_text, checked_texts
from eventbus_mp.addons.journal import StoreUnavailable, StoreUnusable
from eventbus_mp.addons.web.api import Api
from eventbus_mp.addons.web.guard import ACTION_HEADER, HEADERS, Guard, Refusal
from eventbus_mp.addons.web.journal_api import JournalApi
from eventbus_mp.addons.web.journal_view import JournalView
from eventbus_mp.addons.web.parameters import NotFound
from eventbus_mp.addons.web.rows import json_bytes
from eventbus_mp.addons.web.stream import Stream
from eventbus_mp.addons.web.view import BusView

try:
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as cause:
    raise UsageError(
        "eventbus_mp.addons.web needs the packages starlette and uvicorn, which are not installed; "
        "type: pip install 'eventbus-mp[web]'"
    ) from cause

__all__ = ["WebApp", "path_of"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

STATIC = {
    "": ("index.html", "text/html; charset=utf-8"),
    "app.js": ("app.js", "text/javascript; charset=utf-8"),
    "tables.js": ("tables.js", "text/javascript; charset=utf-8"),
    "details.js": ("details.js", "text/javascript; charset=utf-8"),
    "journal.js": ("journal.js", "text/javascript; charset=utf-8"),
    "app.css": ("app.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
FOLDER = Path(__file__).with_name("static")
BODY_BYTES_MAX = 16 << 10


class WebApp:
    """The page of one bus, and what it is made of, as an ASGI app.

    It connects when it is first asked, starts no bus, and comes back when the bus does. Mount it under a path that ends
    in a slash: `Mount("/bus", WebApp("shop"))` is at `/bus/`. A server that ends may wait for open
    streams, up to 20 s, unless `stop` is called before.

    Args:
        bus: The bus's name, or a handle of it, of which only the name and the settings are used.
        hosts: Names that the app is reached by, beside those of the loopback interface: a request with another Host is
            refused.
        token: What every request has to show as a bearer, or as the password of Basic; None: nothing.
        allow_actions: The page may settle events and send dead letters again. Otherwise it only looks.
        journal: The URL of the bus's journal, as of `open_store`; the page then shows what is stored, and `metrics` has
            the journal's. It is only read, in threads, and need not be there. None: there is none.
        config: The settings; None: those of the handle, or from `EVENTBUS_MP_*` variables.

    Raises:
        UsageError: An argument is not of its kind.
    """

    def __init__(
        self,
        bus: str | EventBus,
        *,
        hosts: Collection[str] = (),
        token: str | None = None,
        allow_actions: bool = False,
        journal: str | None = None,
        config: BusConfig | None = None,
    ) -> None:
        hosts = checked_texts("hosts", hosts)
        if token is not None:
            checked_text("token", token)
        if journal is not None:
            checked_text("journal", journal)
        action_token = secrets.token_urlsafe(24) if allow_actions else None
        actions = {"header": ACTION_HEADER, "token": action_token} if action_token is not None else None
        self._view = BusView(bus, config)
        self._journal = JournalView(journal) if journal is not None else None
        self._api = Api(self._view, actions, JournalApi(self._journal) if self._journal is not None else None)
        self._guard = Guard(hosts, token, action_token)
        self._stream = Stream(self._api.state)

    @property
    def viewers(self) -> int:
        """How many live streams are open."""
        return self._stream.viewers

    def stop(self) -> None:
        """End all live streams, for a server that is about to end. To be called in the event loop."""
        self._stream.stop()

    def close(self) -> None:
        """Leave the bus and the journal. Blocks for an answer of the bus that is under way."""
        self._view.close()
        if self._journal is not None:
            self._journal.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "lifespan.shutdown":
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
        self.stop()
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = path_of(scope)
        refusal = self._guard.refusal(request.method, request.headers, is_open=path == ["healthz"])
        if refusal is None and path == ["sse"] and request.method == "GET":
            headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await self._stream.serve(receive, send, headers)
            return
        answer = _refused(refusal) if refusal is not None else await self._answer(request, path)
        answer.headers.update(HEADERS)
        await answer(scope, receive, send)

    async def _answer(self, request: Request, path: list[str]) -> Response:
        try:
            if request.method == "POST":
                return await self._act(request, path)
            return await self._got(request, path)
        except NotFound as error:
            return _json({"error": str(error), "not_found": error.what}, 404)
        except (NoSuchBus, ManagerLost, StoreUnavailable, StoreUnusable) as error:
            return _json({"error": str(error)}, 503)
        except UsageError as error:
            return _json({"error": str(error)}, 409 if isinstance(error, NotSubscribed) else 400)
        except EventBusError as error:
            return _json({"error": str(error)}, 500)

    async def _got(self, request: Request, path: list[str]) -> Response:
        match path:
            case []:
                # What the page names is relative to it, so its address has to end in a slash.
                return Response(status_code=307, headers={"location": quote(_last_name(request.scope)) + "/"})
            case [name] if name in STATIC:
                file, kind = STATIC[name]
                return Response((FOLDER / file).read_bytes(), media_type=kind)
            case ["healthz"]:
                await self._view.look()
                return _json({"ok": True})
            case ["metrics"]:
                return await self._metrics(request)
            case ["sse"]:  # Of a HEAD.
                return Response(media_type="text/event-stream")
        return _json(await self._api.answer(path, request.query_params))

    async def _metrics(self, request: Request) -> Response:
        try:
            from eventbus_mp.addons.metrics import exposition
        except UsageError as error:
            return _json({"error": str(error)}, 501)
        try:
            now = await self._api.snapshot()
        except EventBusError:
            now = None  # A metric says so.
        journals = [self._journal.url] if self._journal is not None else []
        # In a thread, because it reads a file.
        text, kind = await asyncio.to_thread(
            exposition, self._view.name, now, request.headers.get("accept", ""), journals
        )
        return Response(text, headers={"content-type": kind})

    async def _act(self, request: Request, path: list[str]) -> Response:
        if path != ["api", "actions"]:
            raise NotFound("path")
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise UsageError(f"the body has more than {BODY_BYTES_MAX} bytes")
        try:
            wanted = json.loads(bytes(body))
        except (ValueError, RecursionError) as cause:
            raise UsageError("the body is not JSON") from cause
        who = request.client.host if request.client is not None else "a local process"
        return _json(await self._api.act(wanted, who))


def path_of(scope: Mapping[str, Any]) -> list[str]:
    """The decoded segments of the path below the app; [""] is its root, and [] the root without its slash.

    The path that a server gives is decoded, so a topic's `/` would look like two segments. The bytes as they came have
    it as `%2F`, but also the prefix, however much of it something in between has taken off the decoded path.
    """
    path, prefix = scope["path"], scope.get("root_path", "").removesuffix("/")
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :]
    if not path:
        return []
    raw = scope.get("raw_path")
    text = raw.decode("latin-1").partition("?")[0] if raw else quote(path)
    ours = next((text[at:] for at, char in enumerate(text) if char == "/" and unquote(text[at:]) == path), quote(path))
    return [unquote(segment) for segment in ours[1:].split("/")]


def _last_name(scope: Mapping[str, Any]) -> str:
    return str(scope.get("root_path", "") or scope["path"]).rstrip("/").rpartition("/")[2]


def _json(value: Any, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")


def _refused(refusal: Refusal) -> Response:
    return Response(json_bytes({"error": refusal.text}), refusal.status, dict(refusal.headers), "application/json")
