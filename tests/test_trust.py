"""Where kernels are kept, and whose place that is."""

import grp
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from distwar_kernels import KernelError, trust

SOMEBODY = 54321


@pytest.fixture
def library(tmp_path) -> Path:
    """A library of our own in a folder of our own."""
    path = tmp_path / "kernels/key/lib.so"
    path.parent.mkdir(parents=True)
    path.write_text("")
    for part in (path, *path.parents[:2]):
        part.chmod(0o755)
    return path


def test_a_folder_of_our_own_is_trusted(library):
    trust.check_trusted(library)
    trust.check_trusted(library.parents[1] / "not/there.so")
    trust.check_trusted(library.parents[2] / "not/even/there.so")


@pytest.mark.parametrize("part", [0, 1, 2], ids=["the library", "its folder", "the folder above"])
@pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
def test_what_others_can_write_is_not(library, monkeypatch, part, mode):
    monkeypatch.setattr(trust, "_is_private", lambda path, status: False)
    path = (library, *library.parents)[part]
    path.chmod(mode)
    message = f"{path}: others can write to it, and what lies there is run; chmod go-w {path}, or set TORCH_EXTENS"
    with pytest.raises(KernelError, match=message):
        trust.check_trusted(library)
    os.chmod(path, mode & ~0o022)  # the remedy
    trust.check_trusted(library)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["the library", "its folder", "the folder above"])
def test_what_belongs_to_somebody_else_is_not(library, monkeypatch, part):
    path = (library, *library.parents)[part]
    if os.geteuid() == 0:
        os.chown(path, SOMEBODY, SOMEBODY)
    else:  # we are somebody else, and what is root's is trusted
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(KernelError, match=r"belongs to \S.*, not to you, and what .* is run; set TORCH_EXTENSIONS_DIR"):
        trust.check_trusted(library)


def test_all_may_write_above_where_they_can_only_rename_their_own(library):
    """As in /tmp; but not in the folder itself."""
    library.parents[1].chmod(0o1777)
    trust.check_trusted(library)
    library.parent.chmod(0o1777)
    with pytest.raises(KernelError, match="others can write"):
        trust.check_trusted(library)


def test_links(library, tmp_path):
    """The chosen folder may be one; a library's folder is not: somebody else may have laid it there."""
    (tmp_path / "chosen").symlink_to(library.parents[1])
    trust.check_trusted(tmp_path / "chosen/key/lib.so")
    (library.parents[1] / "other").symlink_to(library.parent)
    with pytest.raises(KernelError, match="other: is a symbolic link"):
        trust.check_trusted(library.parents[1] / "other/lib.so")


@pytest.mark.parametrize(
    ("group", "members", "access_list", "private"),
    [
        ("ada", [], False, True),
        ("ada", ["ada"], False, True),
        ("ada", ["bob"], False, False),
        ("staff", [], False, False),
        ("ada", [], True, False),
    ],
)
def test_the_users_own_group_may_write(library, monkeypatch, group, members, access_list, private):
    """Where each user has a group, a umask of 002 is usual."""
    monkeypatch.setattr(pwd, "getpwuid", lambda number: SimpleNamespace(pw_name="ada"))
    monkeypatch.setattr(grp, "getgrgid", lambda number: SimpleNamespace(gr_name=group, gr_mem=members))
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"] if access_list else [])
    library.parent.chmod(0o775)
    assert (trust.distrust(library) is None) == private


HOMELESS = {"HOME": None, "XDG_CACHE_HOME": None, "TORCH_EXTENSIONS_DIR": None}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TORCH_EXTENSIONS_DIR": "/a/b", "XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/d/.cache/distwar_kernels"),
        ({"TORCH_EXTENSIONS_DIR": "", "HOME": "/d"}, "/d/.cache/distwar_kernels"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/distwar_kernels"),
        ({"XDG_CACHE_HOME": "/c", "HOME": ""}, "/c/distwar_kernels"),
        ({"XDG_CACHE_HOME": "c"}, f"/temporary/distwar_kernels-{os.geteuid()}"),  # relative ones do not count (XDG)
        ({"HOME": ""}, f"/temporary/distwar_kernels-{os.geteuid()}"),
        ({}, f"/temporary/distwar_kernels-{os.geteuid()}"),
    ],
)
def test_the_folder_of_kernels(monkeypatch, variables, expected):
    """The last: a user of whom the system knows no home either."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    for name, value in (HOMELESS | variables).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(trust.tempfile, "gettempdir", lambda: "/temporary")
    assert trust.kernel_folder() == Path(expected)
