"""Checkpoints that declare more than they hold: refused before memory is taken."""

import io
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from test_checkpoint import checkpoint

from distwar_gs import checkpoint as cp
from distwar_gs.checkpoint_archive import check_archive

GIB = 2**30


@pytest.fixture
def saved(tmp_path) -> Path:
    return cp.save_checkpoint(tmp_path, checkpoint())


@pytest.fixture
def little_memory():
    """1 GiB more than there is by now."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + GIB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def rewritten(path: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with each part as `change(name, content)` makes it."""
    with zipfile.ZipFile(path) as archive:
        parts = [(part.filename, archive.read(part)) for part in archive.infolist()]
    other = path.with_name("step_8.pt")
    with zipfile.ZipFile(other, "w", compression) as archive:
        for name, content in parts:
            archive.writestr(name, change(name, content))
    return other


def with_pickle(path: Path, content: bytes) -> Path:
    return rewritten(path, lambda name, old: content if name.endswith("data.pkl") else old)


def resized(path: Path, count: int) -> Path:
    """Its first tensor of 18 numbers or more claims `count` of them."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read("archive/data.pkl" if "archive/data.pkl" in archive.namelist() else "step_7/data.pkl")
    number = b"K\x12" if count < 2**31 else None  # BININT1 18: means of 6 Gaussians
    assert content.count(b"K\x12") >= 1
    new = b"J" + struct.pack("<i", count) if number and count < 2**31 else b"\x8a\x08" + struct.pack("<q", count)
    return with_pickle(path, content.replace(b"K\x12", new, 1))


def refused(path: Path, words: str) -> None:
    with pytest.raises(cp.DamagedCheckpointError, match=words) as error:
        cp.load_checkpoint(path, "cpu")
    assert "\n" not in str(error.value)


def test_what_torch_writes_passes(saved, tmp_path):
    check_archive(saved)
    for number, content in enumerate(
        [[torch.zeros(3, dtype=dtype) for dtype in (torch.bool, torch.uint8, torch.int16, torch.float64)],
         [torch.zeros(5)[1:3], torch.nn.Parameter(torch.zeros(2)), OrderedDict(a=torch.zeros(0)), "text", 2**70],
         torch.zeros(2, dtype=torch.complex64), torch.zeros(3, dtype=torch.bfloat16)]
    ):  # fmt: skip
        torch.save(content, tmp_path / f"{number}.pt")
        check_archive(tmp_path / f"{number}.pt")


@pytest.mark.parametrize("count", [19, 10**6, 2**31 - 1, 10**12])
def test_a_tensor_that_claims_more_than_is_there(saved, little_memory, count):
    """torch.load believes it, and the tensor ends beyond its memory."""
    refused(resized(saved, count), f"is declared as {4 * count:,} bytes, and has 72")


def test_a_part_that_unpacks_to_gigabytes(saved, little_memory):
    bomb = rewritten(saved, lambda name, content: content, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data/99", "w") as part:
        for _ in range(64):
            part.write(bytes(2**24))
    assert bomb.stat().st_size < 2**21
    refused(bomb, "its parts are compressed, which torch.save never does")


def test_parts_that_lie_over_each_other(saved):
    """Each entry of a zip's list may point to the same bytes: a hundred of them are a hundred times as much."""
    other = rewritten(saved, lambda name, content: bytes(10**6) if name.endswith("data/0") else content)
    content = other.read_bytes()
    with zipfile.ZipFile(other) as archive:
        entry = next(part for part in archive.infolist() if part.filename.endswith("data/0"))
        start = archive.start_dir
    listed = content[start : content.rindex(b"PK\x05\x06")]
    one = listed[listed.index(b"PK\x01\x02", listed.index(entry.filename.encode()) - 60) :]
    one = one[: 46 + len(entry.filename)]
    many = b"".join(one.replace(b"data/0", b"data/" + bytes([65 + i])) for i in range(26))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0, 0, len(listed + many), start, 0)
    count = listed.count(b"PK\x01\x02") + 26
    end = end[:8] + struct.pack("<HH", count, count) + end[12:]
    other.write_bytes(content[:start] + listed + many + end)
    refused(other, r"it declares 2\d,\d{3},\d{3} bytes, and has 1,\d{3},\d{3}")


def test_two_parts_of_one_name(saved):
    """Which of them torch reads need not be the one that was looked at."""
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr(archive.namelist()[0].upper(), b"")
    refused(saved, "two of its parts have one name")


class Call:
    """Pickled as a call."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("called", [Call(bytearray, 10**11), Call(torch.FloatTensor, 10**10)])
def test_a_pickle_that_asks_for_memory(saved, little_memory, called):
    """torch.load allows both, and they take as much as a number says."""
    refused(with_pickle(saved, pickle.dumps({"format": called}, protocol=2)), "it calls (bytearray|FloatTensor)")


def test_a_pickle_that_mentions_a_place_far_away(saved, little_memory):
    """Python's reader in C would take 8 bytes for each place before it."""
    refused(with_pickle(saved, b"\x80\x02Nr" + struct.pack("<I", 2**31) + b"."), "not a checkpoint of distwar-gs")


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"\x80\x02}Q.", b"\x80\x02(X\x07\x00\x00\x00storageK\x01tQ."])
def test_a_pickle_that_is_none(saved, content):
    refused(with_pickle(saved, content), "cut off, or no checkpoint at all")


def test_an_archive_without_a_pickle(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/b", b"c")
    (tmp_path / "step_1.pt").write_bytes(buffer.getvalue())
    refused(tmp_path / "step_1.pt", "no data.pkl in it")
