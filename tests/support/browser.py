"""Headless Chromium, driven over two pipes by its DevTools protocol, without another library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Windows does not let a process inherit descriptors 3 and 4, which drive the browser.
EXECUTABLE = None if sys.platform == "win32" else next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# By the protocol, the browser reads commands from file descriptor 3 and writes its answers to 4.
TO_BROWSER, FROM_BROWSER = 3, 4


class Page:
    """An open page, with all messages of its console and all addresses that it requested."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.console: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a command of the protocol in this page."""
        return self._browser.call(method, parameters, self)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page, after waiting for it if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def middle(self, script: str) -> tuple[float, float]:
        """Scroll the element that an expression returns into view. Return its centre."""
        self.run(f"{script}.scrollIntoView({{block: 'center'}})")
        box = self.run(
            f"(() => {{ const b = {script}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()"
        )
        return box[0] + box[2] / 2, box[1] + box[3] / 2

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Click with the left button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        """Give the window a size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """Save a screenshot."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def hear(self, method: str, parameters: dict[str, Any]) -> None:
        """Record an event."""
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.console.append(str([argument.get("value") for argument in parameters["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])


class Browser:
    """A running Chromium."""

    def __init__(self, write_to: int, read_from: int) -> None:
        self._write_to = write_to
        self._read_from = read_from
        self._held = b""
        self._last = 0
        self._pages: dict[str, Page] = {}
        self._loaded: set[str] = set()

    def open(self, path: Path) -> Page:
        """Open a file and wait until it is loaded."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Runtime", "Log", "Network", "Page"):
            page.call(f"{domain}.enable")
        page.resize(1200, 900)
        self._loaded.discard(session)
        page.call("Page.navigate", url=path.as_uri())
        while session not in self._loaded:
            self._hear(self._read())
        return page

    def call(self, method: str, parameters: dict[str, Any], page: Page | None = None) -> dict[str, Any]:
        """Run a command and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if page is not None:
            message["sessionId"] = page._session
        os.write(self._write_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._hear(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            block = os.read(self._read_from, 1 << 16)
            assert block, "the browser has ended"
            self._held += block
        message, _, self._held = self._held.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def _hear(self, message: dict[str, Any]) -> None:
        session = message.get("sessionId", "")
        if message.get("method") == "Page.loadEventFired":
            self._loaded.add(session)
        if session in self._pages:
            self._pages[session].hear(message["method"], message["params"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium with its own profile, and end it afterwards."""
    assert EXECUTABLE is not None
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()

    def take_places() -> None:
        # Move them away from 3 and 4 first, because one of these may be an end of a pipe.
        commands, answers = os.dup(read_commands), os.dup(write_answers)
        spare = [os.dup(commands), os.dup(answers)]
        os.dup2(spare[0], TO_BROWSER)
        os.dup2(spare[1], FROM_BROWSER)

    process = subprocess.Popen(
        [EXECUTABLE, *FLAGS, f"--user-data-dir={profile}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=take_places,
        close_fds=False,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Browser(write_commands, read_answers)
    finally:
        os.close(write_commands)
        process.terminate()
        process.wait(timeout=20)
        os.close(read_answers)
