"""The application of app.py with a handle for asyncio, whose calls are awaited in the server's own loop."""

from __future__ import annotations

from typing import Any

from eventbus_mp import Event, aio, unique_id
from tests.servers import app

bus = aio.EventBus("shop", topics=app.TOPICS)


@bus.on("job_posted", name="jobs", concurrency=4)
async def do_job(event: Event) -> None:
    """As in app.py."""
    app.do_job(event)


@bus.on("value_changed", name="cache", broadcast=True)
async def forget(event: Event) -> None:
    """As in app.py."""
    app.forget(event)


async def publish_job() -> dict[str, Any]:
    event_id = unique_id()
    await bus.notify(Event(event_id, "job_posted", {"order": event_id}))
    return {"job": event_id}


async def publish_job_and_read_it() -> dict[str, Any]:
    event_id = unique_id()
    shadow = await bus.notify(Event(event_id, "job_posted", {"order": event_id}))
    data = await bus.fetch_event_data(shadow)
    return {"job": event_id, "read": data["order"] if data is not None else event_id}


async def publish_report() -> dict[str, Any]:
    event_id = unique_id()
    await bus.notify(Event(event_id, "report_wanted", {"rows": 3}))
    return {"report": event_id}


async def write(key: str, value: str) -> dict[str, Any]:
    (app.directory / key).write_text(value)
    event = Event(unique_id(), "value_changed", {"key": key})
    watcher = await bus.notify_and_wait(event, timeout_s=app.WAIT_S)
    return {"workers": len(watcher.completers)}


async def read(key: str) -> dict[str, Any]:
    return app.read(key)


ROUTES = {
    "job": publish_job,
    "read-job": publish_job_and_read_it,
    "report": publish_report,
    "write": write,
    "value": read,
}


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """For uvicorn; the lifespan connects the handle, and closes it."""
    if scope["type"] == "lifespan":
        await receive()
        await bus.connect()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await bus.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    route, *arguments = scope["path"].strip("/").split("/")
    await app.respond(send, await ROUTES[route](*arguments))  # type: ignore[operator]
