"""Folders of derived images (undistorted, resized), built once beside the data and reused while their key matches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from .errors import DataError
from .imagefile import read_size
from .names import portable

logger = logging.getLogger(__name__)

FOLDER_NAME = ".distwar_cache"
FORMAT = 1
"""Part of every key; raise it when the way of making derived images changes."""

_TEMPORARY = re.compile(r"\.making-(\d+)-(.*)-\w+")
_DAY_S = 86400


def cached_folder(
    source: Path, label: str, key: object, sizes: Mapping[str, tuple[int, int]], build: Callable[[Path], None]
) -> Path:
    """A folder with the images `sizes` (name -> width, height), made by `build(folder)` unless it is there already.

    It lies at `<source>/.distwar_cache/<label>-<digest of key>`, or under the user's cache when the source cannot be
    written or has a link there that leads out of it: scenes are downloaded, and a link could name any file to read or
    to write. `build` works under a temporary name that is renamed when complete, so that an interrupted run leaves
    nothing half-made. `key` is anything JSON can hold. Raises DataError when neither place can be written.
    """
    places = _places(source, portable(label), key)
    for folder in places:
        if _is_complete(folder, sizes):
            logger.info("reusing %d cached images in %s", len(sizes), folder)
            return folder
    for folder in places:
        temporary = _temporary_beside(folder)
        if temporary is not None:
            return _build(folder, temporary, sizes, build)
    tried = " and ".join(map(str, places))
    raise DataError(f"{tried}: neither can be written; make one of the folders writable")


def file_fingerprint(path: Path, source: Path, *usual: str) -> list[int | str]:
    """Bytes and modification time in ns: enough to notice a changed file without reading it.

    Files of two folders may be alike in both, as an archive leaves them: a path relative to `source` that is none of
    the `usual` ones is part of it. In a cache the folder tells.
    """
    status = path.stat()
    place = Path(os.path.relpath(path, source)).as_posix()
    known = place in usual or FOLDER_NAME in path.parts
    return [status.st_size, status.st_mtime_ns, *([] if known else [place])]


def _places(source: Path, label: str, key: object) -> list[Path]:
    """Where the folder may be, the best place first."""
    places = []
    if leads_out(source, source / FOLDER_NAME):
        logger.warning("%s is a link that leads out of the scene: not followed", source / FOLDER_NAME)
    else:
        places.append(source / FOLDER_NAME / f"{label}-{_digest(key)}")
    # Every scene's are there: alike ones must not share a folder.
    return [*places, user_cache() / f"{label}-{_digest([str(source.absolute()), key])}"]


def leads_out(folder: Path, path: Path) -> bool:
    """Whether links on the way to `path` lead out of `folder`."""
    try:
        return not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return True


def user_cache() -> Path:
    """The user's cache folder of this program (XDG base directory specification); one among temporary files for a user
    without a home."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if cache.startswith("~"):  # neither HOME nor the system's list of users has a home
        return Path(tempfile.gettempdir()) / f"distwar-gs-{os.geteuid()}"
    return Path(cache) / "distwar-gs"


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()[:12]


def _is_complete(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> bool:
    """Whether the folder has all images; one that holds links is not of our making."""
    try:
        if not folder.is_dir() or folder.is_symlink():
            return False
        real = folder.resolve()
        within = {place for name in sizes for place in PurePath(name).parents}
        if any((folder / place).resolve() != real / place for place in within):
            return False
        return all(
            not os.path.islink(folder / name) and read_size(folder / name) == size for name, size in sizes.items()
        )
    except (DataError, OSError, RuntimeError):
        return False


def _temporary_beside(folder: Path) -> Path | None:
    """A fresh folder on the same file system, or None where nothing can be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".making-{os.getpid()}-{platform.node()}-"))
    except OSError:
        return None


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".making-*"):
        with contextlib.suppress(OSError):  # it may have been finished meanwhile
            if _is_left_over(path):
                logger.info("removing %s, unfinished since its process was killed", path)
                shutil.rmtree(path)


def _is_left_over(path: Path) -> bool:
    """Whether nobody works in a temporary folder any more: its process is gone from this machine, or a day is over
    (another machine that shares the data, and a container of another name, cannot be asked)."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or match[2] != platform.node():
        return time.time() - path.stat().st_mtime > _DAY_S
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return int(match[1]) == os.getpid()  # made before us, by one that had our number: we make one at a time


def _build(folder: Path, temporary: Path, sizes: Mapping[str, tuple[int, int]], build: Callable[[Path], None]) -> Path:
    logger.info("writing %d images to %s (once)", len(sizes), folder)
    start = time.perf_counter()
    try:
        build(temporary)
        _publish(temporary, folder, sizes)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); free some disk space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("wrote %d images in %.1f s", len(sizes), time.perf_counter() - start)
    return folder


def _publish(temporary: Path, folder: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    temporary.chmod(0o755)  # mkdtemp makes it private, but a shared dataset has a shared cache
    if folder.is_symlink():
        folder.unlink()
    with contextlib.suppress(OSError):
        temporary.rename(folder)
        return
    # Another process finished the same work first, and reads it; or what is there has lost files.
    if not _is_complete(folder, sizes):
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
