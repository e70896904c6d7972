"""PLY files that are broken, malicious or of unusual but legal kinds."""

import struct
import tracemalloc

import numpy as np
import plyfile
import pytest
import torch

from datasets.ply import LONGEST_HEADER
from distwar_gs.export import load_ply
from distwar_gs.ply import ModelFileError

COLUMNS = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()  # noqa: SIM905


def header(
    count: object = 2, kind: str = "binary_little_endian", columns: list[str] = COLUMNS, first: str = "", last: str = ""
) -> bytes:
    lines = ["ply", f"format {kind} 1.0", *first.splitlines(), f"element vertex {count}"]
    lines += [name if " " in name else f"property float {name}" for name in columns]
    return "\n".join([*lines, *last.splitlines(), "end_header", ""]).encode()


def rows(count: int = 2, columns: int = len(COLUMNS), value: float | None = None) -> bytes:
    numbers = np.arange(1, count * columns + 1) if value is None else np.full(count * columns, value)
    return numbers.astype("<f4").tobytes()


def typed(name: str, kind: str) -> list[str]:
    """The columns, one of them of another type."""
    return [f"property {kind} {column}" if column == name else column for column in COLUMNS]


COPY = "export or copy it again"

# What the file holds; then what the message must say of it, and the remedy.
BROKEN = {
    "empty": (b"", "no header from `ply` to `end_header`", COPY),
    "something else": (b"\x89PNG\r\n\x1a\n", "no header", COPY),
    "text": (b"hello\n", "no header", COPY),
    "cut within the header": (header()[:100], "no header", COPY),
    "cut within the rows": (header() + rows()[:-1], "2 rows of `vertex`: at least 112 bytes, but 111 follow", COPY),
    "rows missing": (header(3) + rows(), "at least 168 bytes, but 112 follow", COPY),
    "a count of 10^12": (header(10**12) + rows(), "promises 1000000000000 rows", COPY),
    "10^12 in text": (header(10**12, "ascii") + b"1 2 3\n", "promises 1000000000000 rows", COPY),
    "a count beyond 64 bits": (header(10**30) + rows(), "but 112 follow", COPY),
    "a negative count": (header(-2) + rows(), "`element vertex -2` is no element", COPY),
    "a count that is a word": (header("many") + rows(), "`element vertex many` is no element", COPY),
    "no count": (header("") + rows(), "`element vertex` is no element with a count", COPY),
    "10^12 rows of something else": (
        header(last=f"element other {10**12}\nproperty uchar a") + rows(), "rows of `other`", COPY),
    "no rows": (header(0), "its `vertex` element has no rows", "give another file"),
    "no vertices": (header(2).replace(b"vertex", b"points") + rows(), "has no `vertex` element", "give another file"),
    "vertices twice": (header(last="element vertex 1\nproperty uchar a") + rows() + b"0", "two elements of one", COPY),
    "a list of 4 billion": (
        header(columns=[*COLUMNS, "property list uint float f_rest_0"]) + rows() + struct.pack("<2I", 2**32 - 1, 0),
        "`f_rest_0` of `vertex` is a list: lists are for meshes", COPY),
    "a list whose length is a fraction": (
        header(last="element face 1\nproperty list float int a") + rows() + b"\0" * 4, "is no whole number", "export"),
    "faces cut short": (
        header(first="element face 1\nproperty list uchar int a") + b"\x14" + rows(), "rows of `vertex` are", "export"),
    "faces of 4 billion corners": (
        header(first="element face 2\nproperty list uint int a") + b"\xff" * 8 + rows(), "a list is cut short", COPY),
    "a column twice": (header(columns=[*COLUMNS, "opacity"]) + rows(columns=15), "opacity comes twice", COPY),
    "a column of no type": (header(columns=["property x"]) + rows(), "`property x` is no column", "export"),
    "a column of no known type": (header(columns=typed("x", "half")) + rows(), "`property half x` is no column", COPY),
    "a column before any element": (
        b"ply\nformat ascii 1.0\nproperty float x\nend_header\n1\n", "`property float x` is no column", "export"),
    "no format": (header().replace(b"format binary_little_endian 1.0\n", b"") + rows(), "`no format line`", COPY),
    "a later version": (header().replace(b" 1.0", b" 2.0") + rows(), "`format binary_little_endian 2.0`: PLY", COPY),
    "opacities as bytes": (
        header(columns=typed("opacity", "uchar")) + rows(), "column opacity is of type uint8, not floating", "export"),
    "positions as integers": (header(columns=typed("y", "int")) + rows(), "column y is of type int32", "export"),
    "no rotations": (header(columns=COLUMNS[:-1]) + rows(), "column rot_3 is missing", "expected the PLY of a 3D"),
    "a point cloud": (header(columns=["x", "y", "z"]) + rows(), "column rot_0 is missing", "not a point cloud"),
    "10 harmonics": (
        header(columns=[*COLUMNS, *(f"f_rest_{i}" for i in range(10))]) + rows(columns=24), "10 f_rest", "need one"),
    "words for numbers": (header(1, "ascii") + b"one 2 3 4 5 6 7 8 9 10 11 12 13 14\n", "malformed input", "export"),
    "bytes in a text file": (header(1, "ascii") + b"\xff" * 99, "malformed input", COPY),
    "only NaN": (header() + rows(value=np.nan), "none of its 2 Gaussians has sound means, quats", "export it again"),
    "rotations of zeros": (header() + rows(value=0.0), "none of its 2 Gaussians has sound quats", "export it again"),
    "an endless header": (b"ply\nformat ascii 1.0\n" + b"comment again\n" * 10**6, "no header from `ply`", "export"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "names", "remedy"), BROKEN.values(), ids=BROKEN)
def test_broken_files_end_in_one_line_and_take_no_memory(tmp_path, content, names, remedy):
    (tmp_path / "a.ply").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as caught:
            load_ply(tmp_path / "a.ply")
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.ply'}: ") and "\n" not in message
    assert names in message and remedy in message


def test_a_long_header_is_still_read(tmp_path):
    content = header(first="comment a\n" * ((LONGEST_HEADER - 1000) // 10)) + rows()
    (tmp_path / "a.ply").write_bytes(content)
    assert len(load_ply(tmp_path / "a.ply")["means"]) == 2


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("kind", ["little", "big", "text"])
def test_every_kind_of_ply_reads_the_same(tmp_path, kind, ends):
    table = np.frombuffer(rows(), "<f4").reshape(2, -1)
    body = {"little": rows(), "big": table.astype(">f4").tobytes()}
    text = ends.join(" ".join(map(str, row)).encode() for row in table.tolist())
    name = {"little": "binary_little_endian", "big": "binary_big_endian", "text": "ascii"}[kind]
    (tmp_path / "a.ply").write_bytes(header(kind=name).replace(b"\n", ends) + body.get(kind, text))
    loaded = load_ply(tmp_path / "a.ply")
    assert torch.equal(loaded["means"], torch.from_numpy(table[:, :3].copy()))
    assert torch.equal(loaded["quats"], torch.from_numpy(table[:, 10:].copy()))


def test_other_elements_and_columns_do_not_matter(tmp_path):
    vertices = np.ones(2, [*((name, "<f4") for name in COLUMNS), ("label", "u1"), ("nx", "<f8")])
    other = np.zeros(5, [("a", "i2")])
    described = [plyfile.PlyElement.describe(table, name) for table, name in ((other, "other"), (vertices, "vertex"))]
    plyfile.PlyData(described).write(str(tmp_path / "a.ply"))
    assert load_ply(tmp_path / "a.ply")["means"].tolist() == [[1.0] * 3] * 2


def test_gaussians_that_are_not_finite_are_left_out(tmp_path, caplog):
    table = np.frombuffer(rows(5), "<f4").reshape(5, -1).copy()
    table[0, 1], table[2, 8], table[3, 10:] = np.nan, np.inf, 0.0
    (tmp_path / "a.ply").write_bytes(header(5) + table.tobytes())
    loaded = load_ply(tmp_path / "a.ply")
    assert loaded["means"].tolist() == table[[1, 4], :3].tolist()
    assert {len(tensor) for tensor in loaded.values()} == {2}
    assert "a.ply: 3 of 5 Gaussians are left out: their means, quats, scales are not finite" in caplog.text


def test_infinite_opacities_and_flat_gaussians_are_kept(tmp_path, caplog):
    """As converters write them for alphas of 255 and 0, and for surfels."""
    table = np.frombuffer(rows(), "<f4").reshape(2, -1).copy()
    table[:, 6], table[1, 7] = (np.inf, -np.inf), -np.inf
    (tmp_path / "a.ply").write_bytes(header() + table.tobytes())
    loaded = load_ply(tmp_path / "a.ply")
    assert loaded["opacities"].sigmoid().tolist() == pytest.approx([1.0, 0.0])
    assert loaded["scales"][1, 0].exp().item() == pytest.approx(0.0) and torch.isfinite(loaded["scales"]).all()
    assert caplog.text == ""
