"""A headless Chromium for tests, driven through a pair of pipes: the DevTools protocol without a client library."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # Tests may run as root, in a container.
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
WITH_PIPES = """
import fcntl, os, sys
if os.fork():
    sys.exit()
os.setsid()
reads, writes = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(reads, 3), os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Become the browser, which has its pipes as descriptors 3 and 4, and is nobody's child: what a test leaves is looked
for among the children of the tests, and the browser stays for several of them. It ends when its pipes do."""
KEY_CODES = {"Escape": 27, "Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}
PATIENCE_S = 20.0
MARKUP = "<img src=x onerror=\"document.title='pwned'\">"
"""A name that does something if the page takes it for markup."""
LIVE = "document.querySelector('#state')?.textContent === 'live'"
"""True when the page has shown a look at its bus."""


def program() -> str | None:
    """Where Chromium is; None: it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab."""

    def __init__(self, folder: Path) -> None:
        to_read, self._writes = os.pipe()
        self._reads, to_write = os.pipe()
        arguments = [*FLAGS, f"--user-data-dir={folder}", "about:blank"]
        subprocess.run(
            [sys.executable, "-c", WITH_PIPES, str(to_read), str(to_write), program() or "chromium", *arguments],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._received = b""
        self._serial = 0
        self._session: str | None = None
        self.errors: list[str] = []
        """What the page's console and its scripts complained of."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to one command."""
        self._serial += 1
        message: dict[str, Any] = {"id": self._serial, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._serial:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert select.select([self._reads], [], [], PATIENCE_S)[0], "chromium says nothing"
            data = os.read(self._reads, 1 << 20)
            assert data, "chromium has ended"
            self._received += data
        line, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        match message:
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.errors.append(str(details.get("exception", details).get("description", details)))
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error"} as entry}}:
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")
        return message

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """The value of a piece of JavaScript; what it promises is waited for."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """The value of the expression once it is true; it is looked at with each frame of the page."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            value = self.run(f"new Promise(done => setTimeout(() => done({expression}), 20))")
            if value:
                return value
        raise AssertionError(f"{expression} is never true; the page says: {self.text('body')[:2_000]}")

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def press(self, key: str, code: str = "", text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            said: dict[str, Any] = {"windowsVirtualKeyCode": KEY_CODES.get(key, 0)}
            if text and kind == "keyDown":
                said["text"] = text
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, **said)

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        os.close(self._writes)
        said = b"."
        while said:  # Until it has ended.
            assert select.select([self._reads], [], [], PATIENCE_S)[0], "chromium does not end"
            said = os.read(self._reads, 1 << 16)
        os.close(self._reads)


@contextlib.contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A tab of a browser of its own."""
    made = Page(folder)
    try:
        yield made
    finally:
        made.close()
