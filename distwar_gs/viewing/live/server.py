"""The sockets of the live viewer, in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import json
import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from distwar_gs.viewing.live.addresses import Place, bound, check_package
from distwar_gs.viewing.live.desk import Desk
from distwar_gs.viewing.live.orders import LONGEST, Look, Order, OrderError, SaveKeys, SetCrop, parse
from distwar_gs.viewing.live.pictures import Picture, encode
from distwar_gs.viewing.live.site import Site, page_files

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

log = logging.getLogger(__name__)

MOST_PAGES = 64
"""At a time; further ones are turned away."""
BETWEEN_MESSAGES_S = 1.0 / 60.0
"""A page is listened to so often at most: what it sends faster waits in its own socket."""
_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws: wss:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
}  # fmt: skip
_PHOTO = re.compile(r"/photo/(\d{1,7})\.jpg")


class Page:
    """A socket, and what it has not been told yet: of each kind the newest."""

    def __init__(self, number: int, connection: ServerConnection) -> None:
        """`number`: no other page of this process has it."""
        self.number, self.connection = number, connection
        self._waiting: dict[str, str | bytes] = {}
        self._filled = asyncio.Event()

    def put(self, kind: str, message: str | bytes) -> None:
        """Takes the place of an older message of the kind."""
        self._waiting[kind] = message
        self._filled.set()

    async def next(self) -> tuple[str, str | bytes]:
        """Kind and message of the one that has waited longest."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        kind = next(iter(self._waiting))
        return kind, self._waiting.pop(kind)


class Server:
    """Answers pages. It owns no model: wishes go onto the desk, pictures come by `deliver`, news by `tell`."""

    def __init__(self, host: str, port: int, desk: Desk) -> None:
        """Binds the port (0: one that is free). Raises ConfigError where that is not possible, or where the package
        websockets is missing."""
        check_package()
        self._desk, self._socket = desk, bound(host, port)
        self._place = Place(host, self._socket.getsockname()[1])
        self._pages: dict[int, Page] = {}
        self._status: str | None = None
        self._encoder = ThreadPoolExecutor(1, "viewer pictures")
        self._files = ThreadPoolExecutor(1, "viewer files")
        self._loop = asyncio.new_event_loop()
        self._ended: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Of the page, on this machine."""
        return self._place.address

    @property
    def has_pages(self) -> bool:
        """Whether anybody watches."""
        return bool(self._pages)

    def start(self, site: Site) -> None:
        """Begins to answer, and says where."""
        self._site, self._page_files = site, page_files()
        self._thread = threading.Thread(target=self._run, name="viewer network", daemon=True)
        self._thread.start()
        self._place.say()

    def deliver(self, page: int, picture: Picture) -> None:
        """A picture goes to a page, encoded by another thread than the caller's."""
        self._encoder.submit(self._encode, page, picture)

    def tell(self, status: dict[str, Any]) -> None:
        """All pages learn how things stand; later ones, too."""
        self._post("status", json.dumps({"kind": "status", **status}))

    def notice(self, words: str) -> None:
        """All pages show a line."""
        self._post("notice", json.dumps({"kind": "notice", "words": words}))

    def close(self, words: str = "") -> None:
        """Says goodbye to all pages and frees the port."""
        if self._thread is None:
            self._socket.close()
            self._loop.close()
            return
        if words:
            self._post("end", json.dumps({"kind": "end", "words": words}))
        self._call(self._end)
        self._thread.join(timeout=5.0)
        for pool in (self._encoder, self._files):
            pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------ from other threads

    def _post(self, kind: str, message: str) -> None:
        self._call(self._put_all, kind, message)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _encode(self, page: int, picture: Picture) -> None:
        try:
            self._call(self._put, page, "picture", encode(picture, self._site.photos))
        except Exception as error:  # nobody hears it here, and the page would wait for ever
            log.warning("viewer: a picture could not be encoded (%s)", error)
            self._desk.taken(page)

    # ----------------------------------------------------------------------------------------- the network's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        from websockets.asyncio.server import serve

        quiet = logging.getLogger("distwar_gs.viewing.live.websockets")
        quiet.setLevel(logging.CRITICAL + 1)  # what strangers do wrong is no news of the run
        self._ended = asyncio.Event()
        async with serve(
            self._talk, sock=self._socket, process_request=self._answer, max_size=LONGEST, max_queue=4,
            compression=None, open_timeout=10, ping_interval=20, ping_timeout=20, close_timeout=2, logger=quiet,
            server_header=None,
        ):  # fmt: skip
            await self._ended.wait()
            await asyncio.sleep(0.2)  # the last words go out

    def _end(self) -> None:
        if self._ended:
            self._ended.set()

    def _put(self, page: int, kind: str, message: str | bytes) -> None:
        if page in self._pages:
            self._pages[page].put(kind, message)

    def _put_all(self, kind: str, message: str) -> None:
        if kind == "status":
            self._status = message
        for page in self._pages.values():
            page.put(kind, message)

    async def _talk(self, connection: ServerConnection) -> None:
        """With one page, to its end."""
        from websockets.exceptions import ConnectionClosed

        page = Page(next(_numbers), connection)
        self._pages[page.number] = page
        if self._status:
            page.put("status", self._status)
        sending = asyncio.create_task(self._send(page))
        try:
            async for message in connection:
                await self._take(page, parse(message, len(self._site.views)))
                await asyncio.sleep(BETWEEN_MESSAGES_S)
        except OrderError as error:
            await connection.close(1008, f"not understood: {error}")
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()
            del self._pages[page.number]
            self._desk.forget(page.number)

    async def _send(self, page: Page) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            while True:
                kind, message = await page.next()
                await page.connection.send(message)
                if kind == "picture":
                    self._desk.taken(page.number)

    async def _take(self, page: Page, order: Order) -> None:
        if isinstance(order, Look):
            self._desk.ask(page.number, order)
        elif isinstance(order, SetCrop):
            await self._in_files(self._site.set_crop, order.box)
        elif isinstance(order, SaveKeys):
            await self._in_files(self._site.save_keys, order)
        elif not self._desk.order(order):
            self.notice("too many commands wait")

    async def _in_files(self, work: Callable[[Any], str], argument: object) -> None:
        """What a disk may be slow with, off this thread; pages learn what came of it."""
        try:
            self.notice(await self._loop.run_in_executor(self._files, work, argument))
        except OSError as error:
            self.notice(str(error))

    # ------------------------------------------------------------------------------------------------- HTTP requests

    async def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """A page, a photo or a refusal; None lets a socket open."""
        refusal = self._place.refusal(request.headers)
        if refusal:
            return _response(http.HTTPStatus.FORBIDDEN, "text/plain", refusal.encode())
        if "websocket" in request.headers.get("Upgrade", "").lower():
            if len(self._pages) < MOST_PAGES:
                return None
            return _response(http.HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"too many pages are open")
        path = request.path.partition("?")[0]
        if path in self._page_files:
            return _response(http.HTTPStatus.OK, *self._page_files[path])
        if path == "/scene.json":
            return _response(http.HTTPStatus.OK, "application/json", self._site.description())
        photo = _PHOTO.fullmatch(path)
        if photo and int(photo[1]) < len(self._site.views):
            return await self._photo(int(photo[1]))
        return _response(http.HTTPStatus.NOT_FOUND, "text/plain", b"there is nothing here")

    async def _photo(self, index: int) -> Response:
        try:
            content = await self._loop.run_in_executor(self._files, self._site.photos.jpeg, index)
        except (OSError, ValueError) as error:  # DataError is a ValueError
            return _response(http.HTTPStatus.NOT_FOUND, "text/plain", str(error).encode())
        return _response(http.HTTPStatus.OK, "image/jpeg", content)


_numbers = itertools.count()


def _response(status: http.HTTPStatus, kind: str, content: bytes) -> Response:
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    headers = Headers({"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content)),
                       "Connection": "close", **_SECURITY})  # fmt: skip
    return Response(status.value, status.phrase, headers, content)
