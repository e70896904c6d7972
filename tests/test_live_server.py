"""The live viewer's server: who may talk to it, what it serves, and pages that are slow, deaf or talk rubbish."""

import http.client
import json
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from live_pages import Page, deaf_socket, look, opened, send_frame, waited
from websockets.exceptions import ConnectionClosed, InvalidStatus

from distwar_datasets import load_scene
from distwar_gs.system.errors import ConfigError
from distwar_gs.viewing.live.addresses import Place
from distwar_gs.viewing.live.desk import Desk
from distwar_gs.viewing.live.pictures import Picture
from distwar_gs.viewing.live.server import MOST_PAGES, Server
from distwar_gs.viewing.live.site import PAGE, Site


@pytest.fixture
def desk() -> Desk:
    return Desk(60.0)


@pytest.fixture
def server(demo_scene: Path, tmp_path: Path, desk: Desk):
    """Serves a scene of which nothing is rendered."""
    made = Server("127.0.0.1", 0, desk)
    made.start(Site(load_scene(demo_scene), tmp_path / "run", np.zeros(3), (0.0, 0.0, 0.0), is_live=True))
    yield made
    made.close()


def fetch(server: Server, path: str, **headers: str) -> http.client.HTTPResponse:
    """The answer to a request, read to its end into `content`."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.content = answer.read()
    connection.close()
    return answer


# ------------------------------------------------------------------------------------------------- what is served


def test_the_page_and_its_parts_are_served(server):
    for path, name in PAGE.items():
        answer = fetch(server, path)
        file = Path(sys.modules[Site.__module__].__file__).parent / "page" / name
        assert answer.status == 200 and answer.content == file.read_bytes()
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    folder = Path(sys.modules[Site.__module__].__file__).parent / "page"
    assert {path.name for path in folder.iterdir()} == set(PAGE.values())


def test_the_page_loads_nothing_from_elsewhere(server):
    """It works without a network."""
    text = b"".join(fetch(server, path).content for path in PAGE).decode()
    assert "http://" not in text and "https://" not in text and "//cdn" not in text


def test_the_scene_and_its_photos_are_served(server, demo_scene):
    scene = json.loads(fetch(server, "/scene.json").content)
    assert len(scene["views"]) == 16 and [view["split"] for view in scene["views"]].count("test") == 2
    assert scene["live"] is True and len(scene["focus"]) == 3 and np.linalg.norm(scene["up"]) == pytest.approx(1.0)
    photo = fetch(server, "/photo/3.jpg")
    assert photo.headers["Content-Type"].startswith("image/jpeg") and photo.content.startswith(b"\xff\xd8")
    for path in ("/photo/16.jpg", "/photo/-1.jpg", "/../server.py", "/page.py", "/photo/1.png"):
        assert fetch(server, path).status == 404


def test_a_photo_that_cannot_be_read_is_said(server, tmp_path):
    from dataclasses import replace

    views = server._site.photos.views
    server._site.photos.views = (replace(views[0], image_path=tmp_path / "gone.png"), *views[1:])
    answer = fetch(server, "/photo/0.jpg")
    assert answer.status == 404 and b"gone.png" in answer.content


# ------------------------------------------------------------------------------------------------- who may talk to it


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:7007", "192.168.0.7", "LOCALHOST"]
)
def test_this_machine_by_any_port_is_known(server, host):
    """A tunnel may have another port."""
    assert fetch(server, "/", Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7007", "localhost.evil.example", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_somebody_made_point_here_is_refused_with_the_remedy(server, host):
    answer = fetch(server, "/scene.json", Host=host)
    assert answer.status == 403
    assert server.address.encode() in answer.content and b"ssh -L" in answer.content


def test_a_page_of_another_site_may_not_open_a_socket(server):
    own = server.address
    for origin in ("http://evil.example", "https://localhost", "null", f"{own}0"):
        with pytest.raises(InvalidStatus) as refused, opened(own, origin=origin):
            pass
        assert refused.value.response.status_code == 403
    with opened(own, origin=own) as socket_of_the_page:
        socket_of_the_page.ping().wait(10)


def test_a_page_of_another_site_may_not_show_photos_but_may_link_here(server):
    fields = {"Sec_Fetch_Site": "cross-site"}
    assert fetch(server, "/photo/0.jpg", Sec_Fetch_Mode="no-cors", **fields).status == 403
    assert fetch(server, "/", Sec_Fetch_Mode="navigate", **fields).status == 200
    assert fetch(server, "/photo/0.jpg", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors").status == 200


def test_the_name_of_the_machine_is_known_where_it_listens_for_others(monkeypatch):
    import platform

    monkeypatch.setattr(platform, "node", lambda: "big-gpu")
    from websockets.datastructures import Headers

    headers = Headers({"Host": "big-gpu:7007"})
    assert Place("0.0.0.0", 7007).refusal(headers) is None and Place("127.0.0.1", 7007).refusal(headers)
    assert Place("0.0.0.0", 7007).address == "http://127.0.0.1:7007"
    assert Place("10.0.0.5", 7007).tunnel == "ssh -L 7007:10.0.0.5:7007 big-gpu"
    assert Place("::1", 7007).address == "http://[::1]:7007"


def test_where_it_listens_is_said(caplog):
    caplog.set_level("INFO")
    Place("127.0.0.1", 7007).say()
    assert "viewer: http://127.0.0.1:7007" in caplog.text and "ssh -L 7007:localhost:7007" in caplog.text
    assert "steer this run" not in caplog.text
    Place("0.0.0.0", 7007).say()
    assert "whoever reaches 0.0.0.0 port 7007 can watch and steer this run" in caplog.text


# ------------------------------------------------------------------------------------------------------ bad beginnings


def test_a_port_that_is_taken(desk):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127.0.0.1 port {port} \(.*in use.*--viewer PORT"):
            Server("127.0.0.1", port, desk)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a" * 300])
def test_an_address_that_is_not_of_this_machine(desk, host):
    with pytest.raises(ConfigError, match="the viewer cannot listen on"):
        Server(host, 0, desk)


def test_without_the_package(desk, monkeypatch):
    monkeypatch.setitem(sys.modules, "websockets.asyncio.server", None)
    with pytest.raises(ConfigError, match="pip install -r requirements-optional.txt"):
        Server("127.0.0.1", 0, desk)


def test_a_server_that_never_began_ends(desk):
    made = Server("127.0.0.1", 0, desk)
    port = made._place.port
    made.close()
    socket.create_server(("127.0.0.1", port)).close()


# ------------------------------------------------------------------------------------------------------------- pages


def noise(look_of_page) -> Picture:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    return Picture(pixels, look_of_page, {"step": 1, "count": 2})


def test_a_wish_becomes_a_picture(server, desk):
    page = Page(server.address)
    page.send(look(5))
    waited(desk.is_due, "a wish", 20)
    number, wish = desk.next_look()
    server.deliver(number, Picture(np.full((48, 64, 3), 200, np.uint8), wish, {"step": 9, "count": 3}))
    header, jpeg = page.picture()
    assert {key: header[key] for key in ("number", "step", "width", "height", "mode")} == {
        "number": 5, "step": 9, "width": 64, "height": 48, "mode": "colour",
    }  # fmt: skip
    assert jpeg.startswith(b"\xff\xd8")
    page.send(look(6))
    waited(desk.is_due, "the next wish: the first picture has been taken", 20)
    page.close()
    waited(lambda: not desk.is_due() and not server.has_pages, "the page's end", 20)


def test_a_page_learns_what_was_told_before_it_came(server):
    server.tell({"step": 7})
    time.sleep(0.2)
    page = Page(server.address)
    page.send({"do": "keys", "name": "a", "poses": [look()["pose"]]})
    with pytest.raises(TimeoutError):
        page.picture(2.0)
    assert page.status["step"] == 7 and "render.py" in page.notices[0]


def test_a_deaf_page_is_owed_one_picture(server, desk):
    """It asks on and on, and reads nothing: its newest picture waits, and no other is made."""
    stranger = deaf_socket(server.address)
    made = 0
    for number in range(60):
        send_frame(stranger, json.dumps(look(number)))
        time.sleep(0.03)
        if wish := desk.next_look():
            server.deliver(wish[0], noise(wish[1]))
            made += 1
    assert made < 8, "what the system's buffers take, no more"
    (page,) = server._pages.values()
    assert len(page._waiting) <= 1
    stranger.close()
    waited(lambda: not server.has_pages, "its end is noticed", 60)


RUBBISH = ["", "x", "{}", "[" * 50_000, json.dumps(look(mode="x")), b"\x00" * 1000, "1" * 127_000, '{"do": "look"}']


@pytest.mark.parametrize("message", RUBBISH, ids=lambda message: str(message)[:20])
def test_who_talks_rubbish_is_sent_away(server, desk, message):
    with opened(server.address) as stranger:
        stranger.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            stranger.recv(timeout=20)
        assert closed.value.rcvd.code == 1008 and "not understood" in closed.value.rcvd.reason
    assert not desk.is_due() and fetch(server, "/").status == 200


def test_a_message_without_end_is_sent_away(server):
    with opened(server.address) as stranger:
        with pytest.raises(ConnectionClosed) as closed:
            stranger.send("[" * 2**20)
            stranger.recv(timeout=20)
        assert closed.value.rcvd.code == 1009


def test_what_is_no_http_is_let_be(server):
    for content in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server._place.port), timeout=20) as stranger:
            stranger.sendall(content)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1000):
                pass
    assert fetch(server, "/").status == 200


def test_more_pages_than_there_may_be_are_turned_away(server):
    with ExitStack() as pages:
        for _ in range(MOST_PAGES):
            pages.enter_context(opened(server.address))
        with pytest.raises(InvalidStatus) as refused:
            pages.enter_context(opened(server.address))
        assert refused.value.response.status_code == 503
    waited(lambda: not server.has_pages, "their end", 20)
    with opened(server.address):
        waited(lambda: server.has_pages, "a page", 20)


def test_more_commands_than_the_desk_holds_are_refused_in_words(server, desk):
    page = Page(server.address)
    for _ in range(40):
        page.send({"do": "step"})
    with pytest.raises(TimeoutError):
        page.picture(3.0)
    assert "too many commands wait" in page.notices
    commands = 0
    while desk.next_command():
        commands += 1
    assert commands == 32


def test_a_crop_box_that_cannot_be_saved_is_said(server, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    page = Page(server.address)
    page.send({"do": "crop", "box": {"center": [0, 0, 0], "size": [1, 1, 1], "axes": np.eye(3).tolist()}})
    with pytest.raises(TimeoutError):
        page.picture(2.0)
    assert "viewer_crop.json" in page.notices[0] and server._site.crop is not None
