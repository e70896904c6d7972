"""Where built kernels are kept, and whether that is a place of this user's own: what lies there is run.

A folder is trusted if its owner is this user or root and nobody else can write to it. The group's right to write counts
as others', unless the group is the user's own (a umask of 002 goes with such groups). Others may write to the folder
above if it is sticky, as /tmp is: they cannot put theirs in the place of ours there.
"""

import contextlib
import grp
import os
import pwd
import stat
import tempfile
from pathlib import Path

from distwar_kernels.errors import KernelError

VARIABLE = "TORCH_EXTENSIONS_DIR"


def kernel_folder() -> Path:
    """The folder for built kernels: that of TORCH_EXTENSIONS_DIR, else ~/.cache/distwar_kernels; for a user without a
    home one in XDG_CACHE_HOME, else in the folder of temporary files."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    home = "" if os.environ.get("HOME") == "" else os.path.expanduser("~/.cache")  # which an empty one makes /.cache
    for cache in (home, os.environ.get("XDG_CACHE_HOME", "")):
        if os.path.isabs(cache):
            return Path(cache) / "distwar_kernels"
    return Path(tempfile.gettempdir()) / f"distwar_kernels-{os.geteuid()}"


def check_trusted(library: Path) -> None:
    """Raises KernelError if others could have written a library, or can replace it: by the rights of its file, its
    folder, or the folder above. What is not there yet will be ours."""
    if found := distrust(library):
        raise KernelError(f"{found[0]}, and what lies there is run; {found[1]}")


def distrust(library: Path) -> tuple[str, str] | None:
    """Why a library's place is not trusted, and the remedy; None: it is."""
    found = (_distrust(path, path == library.parent.parent) for path in (*library.parents[1::-1], library))
    return next(filter(None, found), None)


def _distrust(path: Path, above: bool) -> tuple[str, str] | None:
    """As `distrust`, of one file or folder. `above`: it holds the folders of libraries, so it may be a link, and others
    may write to it if it is sticky."""
    try:
        status = path.stat() if above else path.lstat()
    except OSError:
        return None
    elsewhere = f"set {VARIABLE} to a folder of your own"
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path}: belongs to {_user(status.st_uid)}, not to you", elsewhere
    if stat.S_ISLNK(status.st_mode):
        return f"{path}: is a symbolic link", f"remove it, or {elsewhere}"
    bits = status.st_mode & (stat.S_IWOTH | (0 if _is_private(path, status) else stat.S_IWGRP))
    if bits and not (above and status.st_mode & stat.S_ISVTX):
        mine = status.st_uid == os.geteuid()
        return f"{path}: others can write to it", f"chmod go-w {path}, or {elsewhere}" if mine else elsewhere
    return None


def _is_private(path: Path, status: os.stat_result) -> bool:
    """Whether the group is the user's own: named as the user, without other members, and no access list adds others."""
    with contextlib.suppress(OSError, KeyError):
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(status.st_gid)
        if group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}:
            return "system.posix_acl_access" not in os.listxattr(path)
    return False


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
