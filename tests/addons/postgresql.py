"""A PostgreSQL server for tests: a cluster of its own in a temporary folder, reached by a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Server", "programs", "running_server"]

DEBIAN = Path("/usr/lib/postgresql")
USERS = ("postgres", "nobody")
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # A server that is killed loses nothing by it; a machine without power would.
    "max_connections": "50",
    "shared_buffers": "64MB",
}


def programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`, those in PATH first, then the newest of Debian's; None: there is none."""
    found = shutil.which("initdb")
    debian = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parent.parent.name), reverse=True)
    paths = [*([Path(found).resolve()] if found else []), *debian]
    return next((path.parent for path in paths if (path.parent / "pg_ctl").is_file()), None)


class Server:
    """A cluster in `folder`, which is made and started by `running_server`."""

    def __init__(self, bin: Path, folder: Path, settings: dict[str, str]) -> None:
        self._bin = bin
        self._folder = folder
        self._data = folder / "data"
        self._settings = settings
        self._user = _unprivileged()
        self.socket = folder / ".s.PGSQL.5432"

    def url(self, database: str) -> str:
        """Of a database of this server."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement by psql, as the superuser: what it prints, without headings."""
        return self._run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", statement)

    def start(self) -> None:
        """Start; blocks until it takes connections."""
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in self._settings.items())
        self._ctl("start", "-w", "-l", str(self._folder / "log"), "-o", f"-k {self._folder} {options}")

    def stop(self, mode: str = "fast") -> None:
        """Stop; `mode` "immediate" is as if it was killed."""
        self._ctl("stop", "-w", "-m", mode)

    def restart(self, mode: str = "fast") -> None:
        """Stop, and start again."""
        self.stop(mode)
        self.start()

    def make(self) -> None:
        """Make the cluster."""
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        # When these tests are killed, nobody else would stop the server.
        stop = shlex.join([str(self._bin / "pg_ctl"), "-D", str(self._data), "-m", "immediate", "stop"])
        rest = f"tail --pid={os.getpid()} -f /dev/null; {stop}; rm -rf {shlex.quote(str(self._folder))}"
        self._run_command(["sh", "-c", f"({rest}) >/dev/null 2>&1 </dev/null &"], start_new_session=True)

    def _ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-s", *arguments)

    def _run(self, program: str, *arguments: str) -> str:
        return self._run_command([str(self._bin / program), *arguments])

    def _run_command(self, command: list[str], **how: Any) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # To a file: the server would keep a pipe open as long as it runs.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**env, "LC_ALL": "C"},
                cwd=self._folder,
                **self._user,
                **how,
            )
            output.seek(0)
            said = output.read()
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {said}"
        return said.strip()


@contextmanager
def running_server(bin: Path, **settings: str) -> Iterator[Server]:
    """A new server, started, with these settings besides `SETTINGS`; it is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="eventbus_mp-pg-"))
    try:
        server = Server(bin, folder, {**SETTINGS, **settings})
        if (user := _unprivileged()).get("user") is not None:
            os.chown(folder, user["user"], user["group"])
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> dict[str, Any]:
    """As whom a server runs, for `subprocess.run`: it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in USERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise AssertionError(f"none of the users {', '.join(USERS)} is there, and root cannot run PostgreSQL")
