"""A headless Chromium, steered by its own protocol (DevTools) over a socket: what a user of the live viewer does."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""The program; None: there is none here."""


class Browser:
    """One tab."""

    def __init__(self, address: str) -> None:
        """`address`: of the tab's socket."""
        from websockets.sync.client import connect

        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(address, max_size=None, open_timeout=30))
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        """Errors of the page, as its console has them."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the protocol; its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def do(self, code: str) -> Any:
        """The value of JavaScript, awaited."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, code: str, seconds: float = 60.0) -> Any:
        """The first value of JavaScript that is true."""
        return waited(lambda: self.do(code), f"{code}; {self.problems}", seconds)

    def click(self, name: str) -> None:
        """On the middle of the element of that id, with the mouse."""
        box = self.do(
            f"(() => {{ const e = document.getElementById('{name}'); e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.drag(*box, *box)

    def drag(self, x: float, y: float, to_x: float, to_y: float, steps: int = 4) -> None:
        """With the left button, in pixels of the page."""
        self._mouse("mousePressed", x, y, buttons=1)
        for step in range(1, steps + 1):
            share = step / steps
            self._mouse("mouseMoved", x + (to_x - x) * share, y + (to_y - y) * share, buttons=1)
        self._mouse("mouseReleased", to_x, to_y, buttons=0)

    def wheel(self, x: float, y: float, amount: float) -> None:
        """Turns the mouse's wheel."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=amount)

    def touch(self, *moments: list[tuple[float, float]]) -> None:
        """Fingers at places, moment after moment, then lifted."""
        kinds = ["touchStart", *["touchMove"] * (len(moments) - 1), "touchEnd"]
        for kind, points in zip(kinds, [*moments, []], strict=True):
            fingers = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def key(self, code: str, seconds: float) -> None:
        """Held down for so long."""
        self.call("Input.dispatchKeyEvent", type="keyDown", code=code)
        time.sleep(seconds)
        self.call("Input.dispatchKeyEvent", type="keyUp", code=code)

    def screenshot(self, file: Path) -> None:
        """As PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """The tab's socket."""
        self._open.close()

    def _mouse(self, kind: str, x: float, y: float, buttons: int) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def _note(self, event: dict[str, Any]) -> None:
        kind, content = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.problems.append(str(content["exceptionDetails"].get("exception", content["exceptionDetails"])))
        if kind == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.problems.append(content["entry"]["text"])


@contextmanager
def browsing(address: str, folder: Path, size: tuple[int, int] = (1280, 720)) -> Iterator[Browser]:
    """A page in a browser whose profile is in `folder`."""
    assert CHROMIUM
    options = (CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank")  # fmt: skip
    process = subprocess.Popen(options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "DevToolsActivePort"
        waited(lambda: port_file.is_file() and port_file.read_text().count("\n"), "the browser's port", 60)
        port = port_file.read_text().split()[0]
        browser = Browser(_tab(port))
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.call("Emulation.setDeviceMetricsOverride", **screen)
        browser.call("Page.navigate", url=address)
        yield browser
        browser.close()
    finally:
        process.terminate()
        process.wait(30)


def _tab(port: str) -> str:
    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
        return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")


def waited(found: Callable[[], Any], what: str, seconds: float) -> Any:
    """The first true value; fails after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")
