"""The downloader against a server in this process: resuming, checksums, bad answers, unsafe and damaged archives."""

import base64
import hashlib
import io
import json
import re
import stat
import threading
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from demo_runs import run_program
from scripts_as_modules import imported_script

from distwar_datasets.errors import DataError


@pytest.fixture(scope="module")
def download():
    with imported_script("download") as module:
        yield module


@dataclass
class Site:
    """What the server holds and how it behaves; the requests it has seen."""

    content: bytes = b""
    etag: str | None = '"v1"'
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next connections are cut, one after the other."""
    status: list[int] = field(default_factory=list)
    """Error codes of the next answers."""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)
    """The Range of each request."""
    url: str = ""


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802 - the name that http.server calls
            answer(self, state)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def answer(request: BaseHTTPRequestHandler, site: Site) -> None:
    """A GET with Range and If-Range as RFC 9110 has them."""
    wanted = request.headers.get("Range")
    site.asked.append(wanted)
    if site.status:
        request.send_error(site.status.pop(0))
        return
    same = request.headers.get("If-Range") in (None, site.etag)
    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges and same else 0
    body = site.content[start:]
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
    if site.etag:
        request.send_header("ETag", site.etag)
    for name, value in ({"Content-Length": str(len(body))} | site.headers).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body[: site.cut_after.pop(0)] if site.cut_after else body)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


SCENES = {"top/train/images/a.png": b"a" * 5000, "top/truck/sparse/0/x.bin": b"x" * 70, "__MACOSX/train/junk": b"j"}


@pytest.fixture
def source(download, site):
    """An archive of two scenes."""
    site.content = zipped(SCENES)
    scenes = {"train": "tandt/train", "truck": "tandt/truck"}
    return download.Source(f"{site.url}/a.zip", "a.zip", 0.1, "https://example.org/a", scenes)


def install(download, source, out, **options):
    download.install(source, out, agree=lambda question: True, **options)


def tree(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------ it works


def test_download_check_unpack(download, source, site, tmp_path, capsys):
    questions = []
    download.install(source, tmp_path, agree=lambda question: questions.append(question) or True)
    assert tree(tmp_path) == ["downloads/record.json", "tandt/train/images/a.png", "tandt/truck/sparse/0/x.bin"]
    assert (tmp_path / "tandt/train/images/a.png").read_bytes() == b"a" * 5000
    record = json.loads((tmp_path / "downloads/record.json").read_text())["a.zip"]
    assert record["bytes"] == len(site.content) and record["sha256"] == hashlib.sha256(site.content).hexdigest()
    assert len(questions) == 1 and "GiB, from http://127" in questions[0] and "https://example.org/a" in questions[0]
    assert "no checksum is published" in capsys.readouterr().out


def test_what_is_there_is_not_fetched_again(download, source, site, tmp_path, capsys):
    install(download, source, tmp_path, keep=True)
    install(download, source, tmp_path)
    assert len(site.asked) == 1 and "is there already" in capsys.readouterr().out
    assert (tmp_path / "downloads/a.zip").read_bytes() == site.content


def test_a_missing_scene_is_put_beside_what_the_user_changed(download, source, site, tmp_path, capsys):
    (tmp_path / "tandt/train").mkdir(parents=True)
    (tmp_path / "tandt/train/mine").write_text("mine")
    install(download, source, tmp_path)
    assert tree(tmp_path / "tandt") == ["train/mine", "truck/sparse/0/x.bin"]
    assert "stays as it is" in capsys.readouterr().out


def test_an_archive_that_the_user_has_put_there(download, source, site, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/a.zip").write_bytes(site.content)
    install(download, source, tmp_path)
    assert site.asked == [] and (tmp_path / "tandt/truck/sparse/0/x.bin").is_file()


# ---------------------------------------------------------------------------------------------------- interruptions


def test_a_cut_connection_goes_on_where_it_was(download, source, site, tmp_path):
    site.cut_after = [1000, 500]
    install(download, source, tmp_path)
    assert site.asked == [None, "bytes=1000-", "bytes=1500-"]
    assert (tmp_path / "tandt/train/images/a.png").read_bytes() == b"a" * 5000


def test_the_next_call_goes_on_where_a_killed_one_was(download, source, site, tmp_path, capsys):
    site.cut_after = [1000] + [0] * download.ATTEMPTS
    with pytest.raises(DataError, match="run this again to go on"):
        install(download, source, tmp_path)
    site.asked.clear()
    install(download, source, tmp_path)
    assert site.asked == ["bytes=1000-"]
    assert (tmp_path / "tandt/train/images/a.png").read_bytes() == b"a" * 5000


def test_killed_between_the_last_byte_and_the_check(download, source, site, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download, "_check", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            install(download, source, tmp_path)
    install(download, source, tmp_path)
    assert len(site.asked) == 1 and (tmp_path / "tandt/train/images/a.png").is_file()


def test_a_server_without_ranges_starts_over(download, source, site, tmp_path, capsys):
    site.ranges, site.cut_after = False, [1000]
    install(download, source, tmp_path)
    assert site.asked == [None, "bytes=1000-"] and "from the beginning" in capsys.readouterr().out
    assert (tmp_path / "tandt/train/images/a.png").read_bytes() == b"a" * 5000


def test_a_server_that_names_no_version_starts_over(download, source, site, tmp_path):
    """Two halves of different versions must not be joined."""
    site.etag, site.cut_after = None, [1000]
    install(download, source, tmp_path)
    assert site.asked == [None, None]


def test_a_new_version_starts_over(download, source, site, tmp_path, capsys):
    site.cut_after = [1000] + [0] * download.ATTEMPTS
    with pytest.raises(DataError):
        install(download, source, tmp_path)
    site.content, site.etag = zipped(SCENES | {"top/train/new": b"n" * 9}), '"v2"'
    install(download, source, tmp_path)
    assert (tmp_path / "tandt/train/new").read_bytes() == b"n" * 9 and "new version" in capsys.readouterr().out


def test_a_busy_server_is_asked_again(download, source, site, tmp_path):
    site.status = [503, 429]
    install(download, source, tmp_path)
    assert len(site.asked) == 3


# -------------------------------------------------------------------------------------------------------- bad answers


def test_gone(download, source, site, tmp_path):
    site.status = [404]
    with pytest.raises(DataError, match="404 Not Found; see https://example.org/a for where the file is now"):
        install(download, source, tmp_path)


def test_a_web_page_instead_of_the_file(download, source, site, tmp_path):
    site.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DataError, match="sent a web page .* download it with a browser .* put it at .*a.zip"):
        install(download, source, tmp_path)


def test_nobody_there(download, source, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(DataError, match="refused"):
        install(download, replace(source, url="http://127.0.0.1:9/a.zip"), tmp_path)


def test_no_is_no(download, source, tmp_path):
    with pytest.raises(DataError, match="a.zip: not downloaded"):
        download.install(source, tmp_path, agree=lambda question: False)
    assert not (tmp_path / "downloads/a.zip").exists()


def test_wrong_published_checksum(download, source, site, tmp_path):
    with pytest.raises(DataError, match="the published SHA-256 is 0000.* It is deleted: run this again"):
        install(download, replace(source, sha256="0" * 64), tmp_path)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("digits", [8, 64])
def test_right_published_checksum(download, source, site, tmp_path, capsys, digits):
    install(download, replace(source, sha256=hashlib.sha256(site.content).hexdigest()[:digits]), tmp_path)
    assert "as the published SHA-256 says" in capsys.readouterr().out


@pytest.mark.parametrize("right", [True, False])
def test_the_md5_that_google_states(download, source, site, tmp_path, capsys, right):
    digest = hashlib.md5(site.content if right else b"other").digest()
    site.headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={base64.b64encode(digest).decode()}"}
    site.cut_after = [1000]
    if right:
        install(download, source, tmp_path)
        assert "as the server's MD5 says" in capsys.readouterr().out
    else:
        with pytest.raises(DataError, match="the server's MD5 is"):
            install(download, source, tmp_path)


def test_no_room_is_told_before_anything_comes(download, source, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 6000}))
    with pytest.raises(DataError, match="are needed and 0.0 GiB are free; make room"):
        install(download, source, tmp_path)
    assert not (tmp_path / "downloads/a.zip.part").exists()


def test_a_disk_that_fills_up(download, source, site, tmp_path, monkeypatch):
    """/dev/full fails as a full disk does; what had come stays and is gone on with."""
    monkeypatch.setattr(download._Partial, "path", property(lambda self: type(self.file)("/dev/full")), raising=True)
    with pytest.raises(DataError, match="the disk is full; make room and run this again, it goes on there"):
        download._receive(io.BytesIO(site.content), partial_of(download, tmp_path, len(site.content)))


def partial_of(download, folder, size):
    partial = download._Partial(folder / "a.zip")
    version = download._Version(size, '"v1"', None)
    return type("Partial", (), {"file": partial.file, "path": partial.path, "size": 0, "version": version})


# ------------------------------------------------------------------------------------------------------ bad archives


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "train/../../evil", "C:/evil", "..\\evil"])
def test_members_that_leave_the_folder(download, source, site, tmp_path, name):
    site.content = zipped({name: b"evil"})
    with pytest.raises(DataError, match="would be written elsewhere"):
        install(download, source, tmp_path / "in")
    assert tree(tmp_path) == ["in/downloads/a.zip", "in/downloads/record.json"]


def test_symbolic_links(download, source, site, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("train")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    site.content = buffer.getvalue()
    with pytest.raises(DataError, match="'train' would be written elsewhere"):
        install(download, source, tmp_path)


def test_a_damaged_archive(download, source, site, tmp_path):
    site.content = site.content.replace(b"a" * 100, b"b" * 100, 1)
    with pytest.raises(DataError, match="is damaged .*CRC.* delete it and run this again"):
        install(download, source, tmp_path)
    assert not (tmp_path / "tandt").exists() and not list(tmp_path.glob(".unpacking*"))


def test_no_archive_at_all(download, source, site, tmp_path):
    site.content = b"not a zip"
    with pytest.raises(DataError, match="a.zip: is damaged"):
        install(download, source, tmp_path)


def test_an_archive_without_the_scene(download, source, site, tmp_path):
    site.content = zipped({"train/a": b"a"})
    with pytest.raises(DataError, match="has no folder truck; its owners have changed it"):
        install(download, source, tmp_path)


# ------------------------------------------------------------------------------------------------------- command line


def test_weights_go_where_torch_looks(download, site, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    site.content = b"weights"
    weights = replace(
        download.FAMILIES["lpips_vgg"][0], url=f"{site.url}/w", sha256=hashlib.sha256(b"weights").hexdigest()
    )
    install(download, weights, tmp_path)
    assert (tmp_path / "torch/hub/checkpoints/vgg16-397923af.pth").read_bytes() == b"weights"


def test_mirror_and_yes(download, source, site, tmp_path, monkeypatch):
    site.content = zipped({f"{scene}/a": b"a" for scene in download.FAMILIES["tandt_db"][0].scenes})
    download.main(["tandt_db", "--out", str(tmp_path), "--mirror", site.url + "/", "--yes", "--keep_archives"])
    assert tree(tmp_path / "db") == ["drjohnson/a", "playroom/a"] and tree(tmp_path / "tandt") == ["train/a", "truck/a"]


def test_without_a_terminal_it_does_not_start_by_itself(site, tmp_path):
    site.content = b"x" * 99
    result = run_program("scripts/download.py", "tandt_db", "--out", tmp_path, "--mirror", site.url)
    assert result.returncode == 1 and "Add --yes" in result.stderr and "Traceback" not in result.stderr


def test_the_list_names_every_scene_of_the_configs(download):
    scenes = [scene for sources in download.FAMILIES.values() for source in sources for scene in source.scenes]
    assert len(scenes) == len(set(scenes)) == 9 + 4 + 8
    result = run_program("scripts/download.py", fresh=True)
    assert result.returncode == 0 and all(scene in result.stdout for scene in scenes)


def test_a_mistyped_name(download):
    with pytest.raises(DataError, match="nerf: not known; there are mipnerf360, "):
        download.main(["nerf"])


@pytest.mark.parametrize("note", ["", "[]", '{"size": "x", "name": null, "md5": null}', '{"bytes": 1}'])
def test_damaged_notes_are_none(download, tmp_path, note):
    """What has come so far is then of no known version, and is fetched again."""
    partial = download._Partial(tmp_path / "a.zip")
    (tmp_path / "a.zip.part").write_bytes(b"half")
    (tmp_path / "a.zip.part.json").write_text(note)
    assert partial.version is None and not partial.complete
    (tmp_path / "record.json").write_text(note)
    download._record(tmp_path / "a.zip", {"bytes": 4})
    assert json.loads((tmp_path / "record.json").read_text())["a.zip"] == {"bytes": 4}
