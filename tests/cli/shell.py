"""The command line as a user runs it: a process of its own, without a terminal or on one."""

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 120


def environment(run_dir: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "EVENTBUS_MP_RUN_DIR": str(run_dir), "COLUMNS": "80", **variables}


def run(run_dir: Path, *arguments: object, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; `text`: its standard input."""
    command = [sys.executable, "-m", "eventbus_mp", *map(str, arguments)]
    return subprocess.run(
        command,
        env=environment(run_dir),
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def output(run_dir: Path, *arguments: object) -> str:
    """What a command prints that succeeds."""
    done = run(run_dir, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def json_output(run_dir: Path, *arguments: object) -> Any:
    """The JSON that a command prints that succeeds."""
    return json.loads(output(run_dir, *arguments, "--json"))


@contextlib.contextmanager
def started(run_dir: Path, *arguments: object, **variables: str) -> "Iterator[subprocess.Popen[str]]":
    """A command while it runs; it is killed at the end."""
    command = [sys.executable, "-m", "eventbus_mp", *map(str, arguments)]
    with subprocess.Popen(
        command,
        env=environment(run_dir, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def on_terminal(columns: int, run_dir: Path, *arguments: str, **variables: str) -> tuple[str, int]:
    """What a command writes to a terminal of this width, and its exit code."""
    terminal, line = os.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {**environment(run_dir, **{"TERM": "xterm", **variables})}
    del environ["COLUMNS"]
    command = [sys.executable, "-m", "eventbus_mp", *arguments]
    with subprocess.Popen(command, env=environ, stdin=line, stdout=line, stderr=line) as process:
        os.close(line)
        written = b""
        with contextlib.suppress(OSError):  # EIO is its end.
            while piece := os.read(terminal, 65_536):
                written += piece
    os.close(terminal)
    return written.decode().replace("\r\n", "\n"), process.returncode
