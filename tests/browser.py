"""A headless Chromium for tests of pages, spoken to through a pipe (Chrome DevTools Protocol), its GPU in software."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""None: there is none here."""

_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
          "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader", "--disable-features=WebGPU",
          "--force-device-scale-factor=1", "--force-color-profile=srgb", "--remote-debugging-pipe")  # fmt: skip


class Browser:
    """One tab. Every host but one leads nowhere, so that a page that asks the network for anything fails."""

    def __init__(self, width: int, height: int, reachable: str = "") -> None:
        """Starts it, with a window whose content has this size in pixels; `reachable`: a host."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        rules = "MAP * ~NOTFOUND" + (f", EXCLUDE {reachable}" if reachable else "")
        options = (f"--user-data-dir={self._profile.name}", f"--host-resolver-rules={rules}")
        as_3_and_4 = f'exec "$@" 3<&{to_child} 4>&{from_child}'  # where the protocol's pipes must be
        self._process = subprocess.Popen(
            ["bash", "-c", as_3_and_4, "bash", str(PROGRAM), *_FLAGS, *options], pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_child), os.close(from_child)
        self._received, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        """What the page reported: messages of its console, errors, requests."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in), os.close(self._out)
        self._profile.cleanup()

    def open(self, page: Path) -> None:
        """Shows a file, from the file system."""
        self.call("Page.navigate", url=page.resolve().as_uri())

    def value(self, script: str) -> Any:
        """What a JavaScript expression, or the promise that it gives, comes to."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError(result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> float:
        """Asks until the expression is true; returns after how many seconds it was."""
        begin = time.monotonic()
        while not self.value(script):
            if time.monotonic() - begin > seconds:
                raise AssertionError(f"{script} is not true after {seconds} s; {self.messages()}")
            time.sleep(0.02)
        return time.monotonic() - begin

    def picture(self) -> np.ndarray:
        """What the tab shows, uint8 [H, W, 3]."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))

    def messages(self) -> list[str]:
        """Of the console, and errors, as JSON."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"])[:500] for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """All URLs that were asked for."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60.0)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            if not select.select([self._in], [], [], seconds)[0]:
                raise AssertionError(f"no answer from {PROGRAM} within {seconds} s")
            chunk = os.read(self._in, 2**20)
            if not chunk:
                raise AssertionError(f"{PROGRAM} ended with code {self._process.wait()}")
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)
