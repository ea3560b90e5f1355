"""A program of the shop, whose lines come to the terminal with its name in front."""

import subprocess
import sys
import threading


class Program:
    """A Python module that runs between entering and leaving.

    Entering blocks until the program has said that it is ready; leaving asks it to end, and blocks until it has. It
    runs in a session of its own: Ctrl-C reaches only the starter, which ends its programs one by one.
    """

    def __init__(self, name, *command, ready):
        self._name = name
        self._command = command
        self._ready = ready
        self._has_spoken = threading.Event()

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._printer = threading.Thread(target=self._print_lines)
        self._printer.start()
        try:
            self._has_spoken.wait()
            if self._process.poll() is not None:
                raise SystemExit(f"{self._name} has ended with status {self._process.returncode}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        self._end()

    def _print_lines(self):
        for line in self._process.stdout:
            print(f"{self._name:>8} | {line}", end="", flush=True)
            if self._ready in line:
                self._has_spoken.set()
        self._process.wait()
        self._has_spoken.set()

    def _end(self):
        self._process.terminate()
        try:
            self._process.wait()
        except BaseException:  # Ctrl-C once more
            self._process.kill()
            raise
        finally:
            self._printer.join()
