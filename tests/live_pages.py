"""What talks to a live viewer in tests: pages that ask for pictures, and strangers."""

import base64
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("websockets", reason="the live viewer needs it: pip install -r tests/requirements.txt")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

POSE = {"viewmat": np.eye(4).ravel().tolist(), "fov": 0.9}


def look(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A wish for a small picture of the first photo's camera."""
    wish = {
        "do": "look",
        "number": number,
        "pose": POSE,
        "photo": 0,
        "mode": "colour",
        "size": [64, 48],
        "moving": False,
    }
    return {**wish, **changes}


def opened(address: str, **options: Any) -> Any:
    """A socket to a viewer, to be entered."""
    return connect(f"ws{address.removeprefix('http')}/socket", max_size=None, open_timeout=30, **options)


class Page:
    """A page as the browser's: it asks for the next picture when it has one."""

    def __init__(self, address: str) -> None:
        """`address` of the viewer."""
        self._open = ExitStack()
        self._socket = self._open.enter_context(opened(address))
        self.status: dict[str, Any] = {}
        self.notices: list[str] = []

    def send(self, order: dict[str, Any]) -> None:
        """An order."""
        self._socket.send(json.dumps(order))

    def picture(self, seconds: float = 60.0) -> tuple[dict[str, Any], bytes]:
        """The next picture's header and JPEG; statuses and notices before it are kept."""
        return self._until(lambda content: isinstance(content, bytes), seconds)

    def until(self, holds: Callable[["Page"], bool], seconds: float = 60.0) -> None:
        """Hears until the page knows something; asks for pictures meanwhile, as an open page does."""
        end = time.monotonic() + seconds
        while not holds(self):
            assert time.monotonic() < end, (self.status, self.notices)
            self.send(look())
            self.picture(seconds)

    def close(self) -> None:
        """Leaves."""
        self._open.close()

    def _until(self, found: Callable[[Any], bool], seconds: float) -> tuple[dict[str, Any], bytes]:
        end = time.monotonic() + seconds
        while True:
            message = self._socket.recv(timeout=max(0.0, end - time.monotonic()))
            if isinstance(message, bytes):
                size = int.from_bytes(message[:4], "little")
                return json.loads(message[4 : 4 + size]), message[4 + size :]
            content = json.loads(message)
            if content["kind"] == "status":
                self.status = content
            else:
                self.notices.append(content["words"])


@contextmanager
def asking(address: str, wishes: list[dict[str, Any]]) -> Iterator[list[list[dict[str, Any]]]]:
    """A page for each wish, which asks for it again and again; the headers that each has got."""
    pages, headers = [Page(address) for _ in wishes], [[] for _ in wishes]

    def ask(page: Page, wish: dict[str, Any], got: list[dict[str, Any]]) -> None:
        try:
            while True:
                page.send({**wish, "number": len(got)})
                got.append(page.picture()[0])
        except (ConnectionClosed, TimeoutError):
            pass

    shared = zip(pages, wishes, headers, strict=True)
    threads = [threading.Thread(target=ask, args=three, daemon=True) for three in shared]
    for thread in threads:
        thread.start()
    try:
        yield headers
    finally:
        for page in pages:
            page.close()
        for thread in threads:
            thread.join(10)


def deaf_socket(address: str) -> socket.socket:
    """A socket that is open as a page's is, and whose owner reads nothing from now on."""
    place = urlsplit(address)
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stranger.connect((place.hostname, place.port))
    key = base64.b64encode(os.urandom(16)).decode()
    stranger.sendall(f"GET /socket HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())  # fmt: skip
    assert stranger.recv(12) == b"HTTP/1.1 101"
    return stranger


def send_frame(stranger: socket.socket, text: str) -> None:
    """A text message over a raw socket; masked with zeros, as a client must mask it with something."""
    content = text.encode()
    size = bytes([0x80 | len(content)]) if len(content) < 126 else bytes([0x80 | 126]) + struct.pack(">H", len(content))
    stranger.sendall(b"\x81" + size + bytes(4) + content)


def waited(found: Callable[[], Any], what: str, seconds: float) -> Any:
    """The first true value; fails after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")
