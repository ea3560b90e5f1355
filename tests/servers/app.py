"""The web application of the trials: one handle at the level of the module, served as WSGI and as ASGI.

Each handler writes a line to one file, so that the trial can compare what was answered with what was handled. A worker
keeps a cache of what it has read from the "database", a directory; every worker has to hear that a value is stale.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from eventbus_mp import Event, EventBus, unique_id

TOPICS = ("job_posted", "value_changed", "report_wanted")
WAIT_S = 20.0
"""Longer than any worker needs to drop a value from its cache; a request that waits for this long counts as hanging."""

directory = Path(os.environ["TRIAL_DIRECTORY"])
handled = os.open(directory / "handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
cache: dict[str, str] = {}

bus = EventBus("shop", topics=TOPICS)


def note(kind: str, event: Event) -> None:
    """Write that this process has handled an event: one line in one write, which other processes do not tear."""
    os.write(handled, f"{kind} {event.id} {os.getpid()}\n".encode())


def do_job(event: Event) -> None:
    """One worker of the application does each job."""
    note("job", event)


def forget(event: Event) -> None:
    """Every worker drops what is stale."""
    cache.pop(event.data["key"], None)


def subscribe() -> None:
    """Host the handlers in this process: called when the module is imported, or by a hook of the server's."""
    bus.on("job_posted", name="jobs")(do_job)
    bus.on("value_changed", name="cache", broadcast=True)(forget)


subscribes = os.environ.get("TRIAL_SUBSCRIBES", "import")
if subscribes == "import":
    subscribe()
elif subscribes == "postfork":
    from uwsgidecorators import postfork

    postfork(subscribe)


# --- requests ---


def publish_job() -> dict[str, Any]:
    event_id = unique_id()
    bus.notify(Event(event_id, "job_posted", {"order": event_id}))
    return {"job": event_id}


def publish_job_and_read_it() -> dict[str, Any]:
    event_id = unique_id()
    shadow = bus.notify(Event(event_id, "job_posted", {"order": event_id}))
    data = bus.fetch_event_data(shadow)  # None: it was handled meanwhile
    return {"job": event_id, "read": data["order"] if data is not None else event_id}


def publish_report() -> dict[str, Any]:
    event_id = unique_id()
    bus.notify(Event(event_id, "report_wanted", {"rows": 3}))
    return {"report": event_id}


def write(key: str, value: str) -> dict[str, Any]:
    (directory / key).write_text(value)
    watcher = bus.notify_and_wait(Event(unique_id(), "value_changed", {"key": key}), timeout_s=WAIT_S)
    return {"workers": len(watcher.completers)}


def read(key: str) -> dict[str, Any]:
    if key not in cache:
        cache[key] = (directory / key).read_text()
    return {"value": cache[key]}


ROUTES = {
    "job": publish_job,
    "read-job": publish_job_and_read_it,
    "report": publish_report,
    "write": write,
    "value": read,
}


def answer(path: str) -> dict[str, Any]:
    """What a GET is answered; what a route raises is the server's to log, and its client gets a 500."""
    route, *arguments = path.strip("/").split("/")
    return ROUTES[route](*arguments)  # type: ignore[operator,no-any-return]


def body_of(said: dict[str, Any]) -> bytes:
    return json.dumps({**said, "pid": os.getpid()}).encode()


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """For gunicorn and uWSGI."""
    body = body_of(answer(environ["PATH_INFO"]))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """For uvicorn: the bus's calls may block, so they are made in threads."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await respond(send, await asyncio.to_thread(answer, scope["path"]))


async def respond(send: Any, said: dict[str, Any]) -> None:
    """Answer a request of an ASGI server."""
    body = body_of(said)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
