"""Files that appear whole or not at all, files that can be read to their end, the names of those with Gaussians."""

import contextlib
import errno
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MODEL_SUFFIXES = (".ply", ".splat", ".spz", ".sog")
"""How the names of files with Gaussians end; .compressed.ply is among them."""
SOG_META = "meta.json"
"""The file of a SOG that is a folder: it names the others."""
_CONVERTIBLE = {".ksplat": ".ksplat", ".lcc": ".lcc", ".lcc2": ".lcc2", "lod-meta.json": "streamed SOG"}
"""Formats that splat-transform reads and we do not, by how the names of their files end."""

_LONGEST_NAME = 230  # bytes; a dot, a process' number and an ending are added
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")


_KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
}  # fmt: skip


class WriteError(OSError):
    """A file that could not be written; the message names it and the reason. What was there before is untouched."""


def is_model_file(path: Path) -> bool:
    """Whether a file of Gaussians is meant, by its name, or a folder that is a SOG, and not a run folder."""
    if path.suffix.lower() in MODEL_SUFFIXES or path.name.lower() == SOG_META:
        return True
    return (path / SOG_META).is_file() and not (path / "config.yaml").exists()


def unread_model(path: Path) -> str | None:
    """What to say of a file that is neither read as Gaussians nor a run folder; None for others."""
    name, kinds = path.name.lower(), ", ".join(MODEL_SUFFIXES[:-1]) + f" and {MODEL_SUFFIXES[-1]}"
    kind = next((kind for ending, kind in _CONVERTIBLE.items() if name.endswith(ending)), None)
    if kind is not None and not path.is_dir():
        return (
            f"{path}: {kind} is not read, {kinds} are; convert it with PlayCanvas' splat-transform "
            f"(npx @playcanvas/splat-transform {path.name} {path.stem}.ply)"
        )
    if is_model_file(path) or not path.is_file():
        return None
    return f"{path}: is no run folder, and of files {kinds} are read; convert it to one of them"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write; on success it is renamed over `path`, on failure removed.

    So a reader sees the old file or the new one, never half of one, not even after a power cut: what was written is on
    the disk before it is renamed. Missing folders are made. Raises WriteError where the system refuses (disk full, no
    permission); other errors of the block pass.
    """
    path = Path(path)
    temporary = path.with_name(f".{_short(path.name)}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every file system lets folders be synchronised
            _sync(path.parent)
    except WriteError:  # of another file, which the block writes
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(f"{path}: could not be written ({reason}); check free space and permissions") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def durable_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that appears as `path`, whole and on the disk, when the block ends; not at all if it fails."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield file


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises OSError unless `path` is, or leads to, a regular file: opening a FIFO waits for a writer, perhaps without
    end, and a device may have no end."""
    _check_mode(path, os.stat(path).st_mode)


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """All bytes of a regular file that has no more than `most`. Raises OSError, which says why, for anything else."""
    check_regular(path)
    # What /proc has are regular files by name, but some of them wait, and some never end.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        _check_mode(path, os.fstat(file.fileno()).st_mode)
        content = file.read(most + 1) or b""
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", os.fspath(path))
    return content


def _check_mode(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(mode), 'special')}, not a file", os.fspath(path))


def remove_leftovers(folders: Iterable[Path]) -> list[Path]:
    """Delete the temporary files of `replacing` whose process is gone without having removed them; returns them."""
    found = [path for folder in folders for path in folder.glob(".*.tmp") if _is_left_over(path)]
    for path in found:
        with contextlib.suppress(OSError):  # somebody else's, in a folder of all
            path.unlink()
    return found


def _short(name: str) -> str:
    """A name to which a temporary one can add; names have up to 255 bytes."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    return f"{encoded[: _LONGEST_NAME - 9].decode('utf-8', 'ignore')}-{zlib.crc32(encoded):08x}"


def _is_left_over(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    return match is not None and not _is_another_process(int(match.group(1)))


def _is_another_process(number: int) -> bool:
    """Whether a process other than this one has the number now. A container's first process always has the same, so
    what bears our own number may be of one before us."""
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
