"""gunicorn with one worker, as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["Gunicorn"]


class Gunicorn:
    """A server; entering it gives its port, and leaving it waits for its end.

    Args:
        arguments: For gunicorn, with the application.
        folder: Where it runs.
        variables: Its environment.
    """

    def __init__(self, arguments: list[str], folder: Path, variables: dict[str, str]) -> None:
        self._command = [sys.executable, "-m", "gunicorn", "--workers", "1", "--bind", "127.0.0.1:0", *arguments]
        self._folder, self._variables = folder, variables

    def __enter__(self) -> int:
        self._process = subprocess.Popen(
            self._command,
            env=self._variables,
            cwd=self._folder,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "Listening at" in line:
                return int(line.partition("http://127.0.0.1:")[2].partition(" ")[0])
        raise AssertionError("gunicorn does not listen:\n" + "".join(said))

    def __exit__(self, *exc_info: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        _, said = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, said
        assert "Traceback" not in said, said
