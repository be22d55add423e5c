"""A headless Chromium, driven over a pipe by its DevTools protocol: no port, no driver, nothing but the browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT = 60.0
"""Seconds of silence after which a browser is given up."""


def find() -> str:
    """Its path. A machine without one cannot look at pages, and must say so."""
    named = os.environ.get("TCELAB_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, f"no browser: install one of {', '.join(NAMES)}, or name it in TCELAB_CHROMIUM"
    return found


class Chromium:
    """One page of a browser of its own, without network and profile.

    :ivar said: texts of console messages and exceptions, and what the security policy blocked.
    :ivar asked: URLs that were loaded or tried.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self._loaded = 0
        self._number = 0
        self._buffer = b""
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        # The browser reads its descriptor 3 and writes its descriptor 4.
        # The copies lie above both, or they might be one of the two and be closed with the rest.
        line = (
            f"import fcntl, os, sys; high = [fcntl.fcntl(each, 0, 10) for each in ({to_browser}, {from_browser})]; "
            "os.dup2(high[0], 3); os.dup2(high[1], 4); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", line, find(), "--headless=new", "--remote-debugging-pipe", "--no-sandbox"),
                *("--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"),
                *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"),
                *(f"--user-data-dir={self._profile}", "about:blank"),
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TMPDIR": self._profile, "HOME": self._profile},
        )
        os.close(to_browser)
        os.close(from_browser)
        os.set_blocking(self._from, False)
        self._session = ""
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path: Path, width: int = 1280, height: int = 900, *, dark: bool = False, fragment: str = "") -> None:
        """Load a file, with everything that its load does."""
        self.said.clear()
        self.asked.clear()
        self.look(width, height, dark=dark)
        loaded = self._loaded
        self._call("Page.navigate", url="about:blank")
        self._until(lambda: self._loaded > loaded)
        loaded = self._loaded
        self.asked.clear()
        self._call("Page.navigate", url=path.absolute().as_uri() + fragment)
        self._until(lambda: self._loaded > loaded)

    def look(self, width: int, height: int, *, dark: bool = False, media: str = "screen") -> None:
        """Of that size, in that scheme."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def run(self, expression: str):
        """The value of an expression on the page, waited for if it is a promise."""
        told = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key of the keyboard, such as `Tab` (9) or `Enter` (13)."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **named)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        told = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def pdf(self, path: Path) -> None:
        """As it is printed."""
        path.write_bytes(base64.b64decode(self._call("Page.printToPDF", printBackground=False)["data"]))

    # -- the protocol

    def _call(self, method: str, **params):
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda told: told.get("id") == number, method)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _until(self, holds, what: str = "the page's load"):
        """Read messages until one fits. A condition without an argument is asked after each."""
        takes = bool(holds.__code__.co_argcount)
        heard = time.monotonic()
        while True:
            if not takes and holds():
                return None
            message, sep, rest = self._buffer.partition(b"\0")
            if not sep:
                heard = self._read(heard, what)
                continue
            self._buffer = rest
            told = json.loads(message)
            self._take(told)
            if takes and holds(told):
                return told

    def _read(self, heard: float, what: str) -> float:
        try:
            data = os.read(self._from, 1 << 20)
        except BlockingIOError:
            assert time.monotonic() < heard + LIMIT, f"the browser says nothing: {what}"
            time.sleep(0.005)
            return heard
        assert data, f"the browser has ended: {what}"
        self._buffer += data
        return time.monotonic()

    def _take(self, told) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Page.loadEventFired":
                self._loaded += 1
            case "Runtime.consoleAPICalled":
                self.said.append(" ".join(str(each.get("value")) for each in params["args"]))
            case "Runtime.exceptionThrown":
                self.said.append(str(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.said.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
