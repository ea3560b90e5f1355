"""The servers of the trials: how each one is started, and which packages it needs."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SERVERS", "WORKERS", "Server"]

ROOT = Path(__file__).resolve().parent.parent.parent
WORKERS = 3
MAX_REQUESTS = 60
HOOKS = ["--config", str(Path(__file__).with_name("gunicorn_hooks.py")), "--preload"]
RECYCLED_BY_UVICORN = ["--limit-max-requests", str(MAX_REQUESTS), "--limit-max-requests-jitter", "20"]
RECYCLED = {
    "gunicorn": ["--max-requests", str(MAX_REQUESTS), "--max-requests-jitter", "20"],
    "uvicorn": RECYCLED_BY_UVICORN,
    "uwsgi": ["--max-requests", str(MAX_REQUESTS), "--min-worker-lifetime", "3"],
}


@dataclass(frozen=True)
class Server:
    """One way to serve the application."""

    program: str
    """gunicorn, uvicorn or uwsgi."""
    options: tuple[str, ...] = ()
    subscribes: str = "import"
    """Where the application subscribes: at its import, in a hook of gunicorn's, in uWSGI's postfork; or
    "nowhere", because it has another handle."""
    needs: tuple[str, ...] = ()
    """Modules, besides the program itself."""

    def missing(self) -> str:
        """Which package is missing here; "": none."""
        for name in self.needs:
            if importlib.util.find_spec(name) is None:
                return name
        return "" if _program(self.program) else self.program

    def command(self, socket: Path, *, recycles: bool) -> list[str]:
        """What starts it, listening on a unix socket; `recycles`: each worker ends after some requests."""
        more = [*self.options, *(RECYCLED[self.program] if recycles else [])]
        return [_program(self.program), *_COMMANDS[self.program](socket), *more]


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or ""


def _gunicorn(socket: Path) -> list[str]:
    return ["--bind", f"unix:{socket}", "--workers", str(WORKERS), "--chdir", str(ROOT), "--no-control-socket"]


def _uvicorn(socket: Path) -> list[str]:
    return ["--uds", str(socket), "--workers", str(WORKERS), "--no-access-log"]


def _uwsgi(socket: Path) -> list[str]:
    where = ["--http-socket", str(socket), "--pythonpath", str(ROOT), "--virtualenv", sys.prefix]
    what = ["--module", "tests.servers.app:wsgi", "--need-app", "--master", "--processes", str(WORKERS)]
    # At HUP it starts itself again. pyuwsgi is a script, and would be started with the Python of the system.
    itself = ["--binary-path", sys.executable] if importlib.util.find_spec("pyuwsgi") is not None else []
    # A worker that is still loading the application does not hear that it is to end. uWSGI waits a minute for it.
    mercy = ["--worker-reload-mercy", "5", "--reload-mercy", "5"]
    return [*where, *what, *itself, *mercy, "--enable-threads", "--die-on-term", "--disable-logging"]


_COMMANDS = {"gunicorn": _gunicorn, "uvicorn": _uvicorn, "uwsgi": _uwsgi}

WSGI, ASGI = "tests.servers.app:wsgi", "tests.servers.app:asgi"
GTHREAD = ("--worker-class", "gthread", "--threads", "4")
GEVENT = ("--worker-class", "gevent")
ON_UVICORN = ("--worker-class", "uvicorn_worker.UvicornWorker")

SERVERS = {
    "gunicorn-sync": Server("gunicorn", (WSGI,)),
    "gunicorn-sync-preload": Server("gunicorn", (WSGI, *HOOKS), "hook"),
    "gunicorn-gthread": Server("gunicorn", (WSGI, *GTHREAD)),
    "gunicorn-gthread-preload": Server("gunicorn", (WSGI, *GTHREAD, *HOOKS), "hook"),
    "gunicorn-gevent": Server("gunicorn", (WSGI, *GEVENT), needs=("gevent",)),
    "gunicorn-gevent-preload": Server("gunicorn", (WSGI, *GEVENT, *HOOKS), "hook", ("gevent",)),
    "gunicorn-uvicorn": Server("gunicorn", (ASGI, *ON_UVICORN), needs=("uvicorn_worker",)),
    "gunicorn-uvicorn-preload": Server("gunicorn", (ASGI, *ON_UVICORN, *HOOKS), "hook", ("uvicorn_worker",)),
    "gunicorn-asgi": Server("gunicorn", (ASGI, "--worker-class", "asgi")),
    "uvicorn": Server("uvicorn", (ASGI,)),
    "uvicorn-aio": Server("uvicorn", ("tests.servers.aio_app:asgi",), "nowhere"),
    "uwsgi": Server("uwsgi", subscribes="postfork", needs=("uwsgidecorators",)),
    "uwsgi-lazy-apps": Server("uwsgi", ("--lazy-apps",)),
}
