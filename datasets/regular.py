"""Files that can be read to their end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
}  # fmt: skip


def check_regular(path: Path) -> None:
    """Raise OSError for what is not there, or neither a file nor a folder: opening a FIFO waits for a writer, for ever
    perhaps, and a device may have no end. (A folder's own error comes when it is opened.)"""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(mode), 'special')}, not a file", os.fspath(path))
