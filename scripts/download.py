"""Downloads data sets that the configs are for; nothing else that a user runs uses the network.

    python scripts/download.py                          what there is, and how large
    python scripts/download.py tandt_db --out data      download, check, unpack

An interrupted download goes on where it was. Where the owners publish no checksum, size and the archive's own CRCs are
checked, and the SHA-256 of what came is written to OUT/downloads/record.json.
"""

import argparse
import base64
import contextlib
import errno
import hashlib
import http.client
import json
import re
import shutil
import ssl
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from distwar_datasets.errors import DataError
from distwar_gs.cli import run_cli
from distwar_gs.system.files import replacing

ATTEMPTS = 6
"""Connections tried in a row that bring nothing before giving up."""
_CHUNK = 1 << 20
_BUSY = (429, 500, 502, 503, 504)
_TIMEOUT_SECONDS = 60
_GIB = 2**30


@dataclass(frozen=True)
class Source:
    """One file on the network and where its content goes."""

    url: str
    file: str
    """Its name under OUT/downloads."""
    gib: float
    """About how large it is; the server's own figure is told before anything is fetched."""
    page: str
    """Where its owners describe it, and its licence."""
    scenes: Mapping[str, str] = field(default_factory=dict)
    """Folder in the archive, wherever it lies in there -> folder under OUT."""
    sha256: str | None = None
    """Published checksum, or its beginning."""


_360_PAGE = "https://jonbarron.info/mipnerf360"
_360_URL = "https://storage.googleapis.com/gresearch/refraw360/"
_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="


def _under(folder: str, *scenes: str) -> dict[str, str]:
    return {scene: f"{folder}/{scene}" for scene in scenes}


FAMILIES: dict[str, tuple[Source, ...]] = {
    "mipnerf360": (
        Source(_360_URL + "360_v2.zip", "360_v2.zip", 11.7, _360_PAGE,
               _under("360_v2", "bicycle", "bonsai", "counter", "garden", "kitchen", "room", "stump")),
        Source(_360_URL + "360_extra_scenes.zip", "360_extra_scenes.zip", 3.3, _360_PAGE,
               _under("360_v2", "flowers", "treehill")),
    ),
    "tandt_db": (
        Source("https://repo-sam.inria.fr/fungraph/3d-gaussian-splatting/datasets/input/tandt_db.zip", "tandt_db.zip",
               0.64, "https://repo-sam.inria.fr/fungraph/3d-gaussian-splatting",
               _under("tandt", "train", "truck") | _under("db", "drjohnson", "playroom")),
    ),
    "nerf_synthetic": (
        Source(_DRIVE + "18JxhpWD-4ZmuFKLzKlAw-w5PpzZxXOcG", "nerf_synthetic.zip", 1.3, "https://www.matthewtancik.com/nerf",
               _under("nerf_synthetic", "chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship")),
    ),
    "lpips_vgg": (
        # The beginning of the SHA-256 is part of the name: the convention of torch.hub.
        Source("https://download.pytorch.org/models/vgg16-397923af.pth", "vgg16-397923af.pth", 0.52,
               "https://docs.pytorch.org/vision/stable/models/vgg.html", sha256="397923af"),
    ),
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Fetch, check and unpack what was asked for; without a name, list what there is."""
    args = _parser().parse_args(arguments)
    if unknown := [name for name in args.names if name not in FAMILIES]:
        raise DataError(f"{unknown[0]}: not known; there are {', '.join(FAMILIES)}")
    if not args.names:
        print(listing())
    for name in args.names:
        for source in FAMILIES[name]:
            if args.mirror:
                source = replace(source, url=f"{args.mirror.rstrip('/')}/{source.file}")
            install(source, args.out, agree=_yes if args.yes else ask, keep=args.keep_archives)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=Path("data"), help="(default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="do not ask before downloading")
    parser.add_argument("--keep_archives", action="store_true", help="keep the archives once they are unpacked")
    parser.add_argument("--mirror", metavar="URL", help="take the files from this address instead of their owners'")
    return parser


def listing() -> str:
    """What can be downloaded."""
    rows = [(name, source) for name, sources in FAMILIES.items() for source in sources]
    lines = [
        f"{name:<15} {source.gib:>5.1f} GiB  {source.file:<21} {', '.join(source.scenes)}" for name, source in rows
    ]
    return "\n".join([*lines, "python scripts/download.py NAME ... --out data"])


def install(source: Source, out: Path, *, agree: Callable[[str], bool], keep: bool = False) -> None:
    """Bring one source to where it belongs, unless it is there. DataError says what went wrong and what to do."""
    targets = [out / folder for folder in source.scenes.values()] or [_weights_file(source.file)]
    if all(target.exists() for target in targets):
        print(f"{source.file}: is there already ({', '.join(map(str, targets))})")
        return
    archive = out / "downloads" / source.file
    if not archive.exists():
        fetch(source, archive, agree)
    if source.scenes:
        unpack(archive, out, source.scenes)
        if not keep:
            archive.unlink()
    else:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        shutil.move(archive, targets[0])
    print(f"{source.file}: now in {', '.join(map(str, targets))}")


def _weights_file(name: str) -> Path:
    """Where torch.hub, and so torchvision, looks for weights."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _yes(question: str) -> bool:
    print(question)
    return True


def ask(question: str) -> bool:
    """Ask on the terminal; DataError where there is none."""
    if not sys.stdin.isatty():
        raise DataError(f"{question} Add --yes to go on")
    return input(f"{question} Go on? [y/N] ").strip().lower() in ("y", "yes")


# -------------------------------------------------------------------------------------------------------- the network


@dataclass(frozen=True)
class _Version:
    """Which content a server is sending."""

    size: int
    """Bytes of the whole file."""
    name: str | None
    """A strong ETag or, failing that, the date (RFC 9110, 13.1.5); None: it cannot be gone on with."""
    md5: str | None
    """Of the whole file, hexadecimal, if the server tells."""


@dataclass
class _Partial:
    """What has come so far of a file, and of which version: FILE.part and FILE.part.json."""

    file: Path
    """Where the whole file will be."""

    @property
    def path(self) -> Path:
        return self.file.with_name(self.file.name + ".part")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def version(self) -> _Version | None:
        """Of what the bytes are; None before anything has come, or where that is no longer known."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            version = _Version(**json.loads(self._note.read_text(encoding="utf-8")))
            return version if isinstance(version.size, int) else None
        return None

    @property
    def total(self) -> int:
        """Bytes of the whole file; 0 where that is not known."""
        return self.version.size if self.version else 0

    @property
    def complete(self) -> bool:
        """Whether all has come."""
        return self.version is not None and self.size == self.version.size

    def begin(self, version: _Version) -> None:
        """Forget what has come and note what will."""
        self.drop()
        with replacing(self._note) as temporary:
            temporary.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def drop(self) -> None:
        """Forget what has come."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file its name."""
        self.path.rename(self.file)
        self.drop()

    @property
    def _note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")


def fetch(source: Source, file: Path, agree: Callable[[str], bool]) -> None:
    """Download to `file`, going on after what an earlier call has brought, and check it.

    Raises DataError when the server or the network fails, the disk is full, the answer is no, or a checksum is wrong;
    what has come is kept, unless its checksum is wrong.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial, asked, fruitless = _Partial(file), False, 0
    while not partial.complete:
        before = partial.size
        try:
            with _request(source, partial) as response:
                _begin(source, response, partial)
                if not asked and not agree(_question(source, partial)):
                    raise DataError(f"{source.file}: not downloaded")
                asked = True
                _receive(response, partial)
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code not in _BUSY:
                raise _refused(source, error) from error
            reason = f"{error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if not partial.complete:
            fruitless = 0 if partial.size > before else fruitless + 1
            _pause(source, partial, reason, fruitless)
    _check(source, partial)
    partial.finish()


def _request(source: Source, partial: _Partial) -> http.client.HTTPResponse:
    headers = {"User-Agent": "distwar-gs", "Accept-Encoding": "identity"}
    if partial.size and partial.version and partial.version.name:
        headers |= {"Range": f"bytes={partial.size}-", "If-Range": partial.version.name}
    return urllib.request.urlopen(urllib.request.Request(source.url, headers=headers), timeout=_TIMEOUT_SECONDS)


def _begin(source: Source, response: http.client.HTTPResponse, partial: _Partial) -> None:
    """Make sure that what comes continues what has come, or drop that."""
    if "text/html" in response.headers.get("Content-Type", ""):
        raise DataError(
            f"{source.url}: the server sent a web page instead of the file; download it with a browser (see "
            f"{source.page}), put it at {partial.file} and run this again"
        )
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        total = partial.total
        if response.headers.get("Content-Range") == f"bytes {partial.size}-{total - 1}/{total}":
            return
        raise DataError(f"{source.url}: the server sent another part than was asked for; delete {partial.path}")
    if partial.size:
        print(f"{source.file}: the server cannot go on where it was, or has a new version: from the beginning")
    if not (length := response.headers.get("Content-Length", "")).isdigit():
        raise DataError(f"{source.url}: the server does not tell the size; try another --mirror")
    partial.begin(_Version(int(length), _version_name(response.headers), _stated_md5(response.headers)))


def _version_name(headers: http.client.HTTPMessage) -> str | None:
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _stated_md5(headers: http.client.HTTPMessage) -> str | None:
    """What Google's storage sends of the whole file (x-goog-hash: crc32c=...,md5=...), hexadecimal."""
    match = re.search(r"md5=([A-Za-z0-9+/]{22}==)", ",".join(headers.get_all("x-goog-hash") or []))
    return base64.b64decode(match[1]).hex() if match else None


def _question(source: Source, partial: _Partial) -> str:
    """What is about to be done. DataError if the disk has no room for the file and, unpacked, about as much again."""
    total = partial.total
    left = total - partial.size
    needed, free = left + (total if source.scenes else 0), shutil.disk_usage(partial.file.parent).free
    if free < needed:
        raise DataError(
            f"{partial.file.parent}: {needed / _GIB:.1f} GiB are needed and {free / _GIB:.1f} GiB are free; make room, "
            "or choose another disk with --out"
        )
    rest = f", {left / _GIB:.2f} GiB of it still to come" if partial.size else ""
    return f"{source.file}: {total / _GIB:.2f} GiB{rest}, from {source.url} (licence: {source.page})."


def _receive(response: http.client.HTTPResponse, partial: _Partial) -> None:
    total = partial.version.size if partial.version else None
    bar = tqdm(total=total, initial=partial.size, unit="B", unit_scale=True, desc=partial.file.name, disable=None)
    try:
        with bar, partial.path.open("ab") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{partial.path}: the disk is full; make room and run this again, it goes on there"
            ) from error
        raise


def _pause(source: Source, partial: _Partial, reason: str, fruitless: int) -> None:
    """Wait, longer each time, before the next attempt. DataError when that has not helped for a while."""
    if fruitless >= ATTEMPTS:
        raise DataError(f"{source.url}: {reason}; {partial.size / _GIB:.2f} GiB have come, run this again to go on")
    print(f"{source.file}: {reason}; trying again")
    time.sleep(min(30.0, 0.5 * 2**fruitless))


def _refused(source: Source, error: urllib.error.HTTPError) -> DataError:
    return DataError(f"{source.url}: {error.code} {error.reason}; see {source.page} for where the file is now, "
                     "and name the place with --mirror")  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- checking


def _check(source: Source, partial: _Partial) -> None:
    """Compare with what is published, or with what the server says; record what came."""
    sha256, md5 = _digests(partial.path)
    if source.sha256:
        expected, actual, kind = source.sha256, sha256[: len(source.sha256)], "published SHA-256"
    else:
        expected, actual, kind = (partial.version.md5 if partial.version else None) or "", md5, "server's MD5"
    if expected and expected != actual:
        partial.drop()
        raise DataError(
            f"{source.file}: its checksum begins {actual[:16]}, the {kind} is {expected[:16]}; it was damaged on the "
            "way, or its owners have changed it. It is deleted: run this again"
        )
    if expected:
        print(f"{source.file}: as the {kind} says")
    else:
        print(f"{source.file}: no checksum is published; its size is right, its content is checked while unpacking")
    _record(partial.file, {"url": source.url, "bytes": partial.size, "sha256": sha256})


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 and MD5, hexadecimal."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc="checking", disable=None)
    with bar, path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            bar.update(len(chunk))
    return sha256.hexdigest(), md5.hexdigest()


def _record(file: Path, entry: Mapping[str, object]) -> None:
    record = file.parent / "record.json"
    entries = {}
    with contextlib.suppress(OSError, ValueError):  # none yet, or damaged: what is being written is worth more
        entries = dict(json.loads(record.read_text(encoding="utf-8")))
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(entries | {file.name: entry}, indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- unpacking


def unpack(archive: Path, out: Path, scenes: Mapping[str, str]) -> None:
    """Move the scenes of a zip archive to their folders under `out`; those that are there stay as they are.

    Every member's CRC is checked. Raises DataError for a damaged archive, for members that would be written elsewhere,
    and for a scene that is not in it.
    """
    temporary = out / f".unpacking-{archive.stem}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as contents:
            members = [member for member in contents.infolist() if "__MACOSX" not in member.filename]
            _check_members(archive, members, out)
            _extract(contents, members, temporary)
        for scene, target in scenes.items():
            _move(_found(temporary, scene, archive), out / target)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: is damaged ({error}); delete it and run this again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{out}: the disk is full; make room and run this again, {archive} is kept") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_members(archive: Path, members: Iterable[zipfile.ZipInfo], out: Path) -> None:
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or ":" in member.filename or link:
            raise DataError(
                f"{archive}: member {member.filename!r} would be written elsewhere; do not use this archive"
            )
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(out).free
    if free < needed:
        raise DataError(
            f"{out}: unpacking needs {needed / _GIB:.1f} GiB and {free / _GIB:.1f} GiB are free; make room and run "
            f"this again, {archive} is kept"
        )


def _extract(contents: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    total = sum(member.file_size for member in members)
    with tqdm(total=total, unit="B", unit_scale=True, desc="unpacking", disable=None) as bar:
        for member in members:
            contents.extract(member, folder)
            bar.update(member.file_size)


def _found(folder: Path, scene: str, archive: Path) -> Path:
    """The folder named `scene` nearest to the top."""
    places = [path for path in folder.rglob(scene) if path.is_dir()]
    if not places:
        raise DataError(f"{archive}: has no folder {scene}; its owners have changed it, unpack it by hand")
    return min(places, key=lambda path: len(path.parts))


def _move(folder: Path, target: Path) -> None:
    if target.exists():
        print(f"{target}: is there already and stays as it is")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
