"""SPZ: files of another program, our bytes against the format's words, its frame, its reach, and broken files."""

import gzip
import math
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from foreign_models import FOLDER, assert_within, differences, waves

from distwar_gs.export import load_model, read_render_mode, save_model
from distwar_gs.ply import ModelFileError
from distwar_gs.spz import encode_spz
from distwar_kernels.sh.sh_torch import spherical_harmonics_torch

# Half a step of each number; harmonics lose 3 or 4 of their 8 bits, those beyond 1 were cut.
BOUNDS = {"means": 2**-12, "quats": 3e-6, "scales": 1 / 31.9, "opacities": 1 / 509, "sh0": 0.0134, "shN": 0.0665}


def written(path, degree: int = 3, **options) -> dict:
    params = waves(300, degree)
    save_model(path, params, **options)
    return params


def test_a_file_of_splat_transform():
    """It writes 12 fractional bits, and turns from a PLY's axes to the format's."""
    assert_within(differences(load_model(FOLDER / "waves.spz"), waves(300, 3)), BOUNDS)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("rub", [True, False])
def test_our_own_files(tmp_path, degree, rub):
    params = written(tmp_path / "a.spz", degree, rub=rub)
    loaded = load_model(tmp_path / "a.spz", rub=rub)
    assert_within(differences(loaded, params), BOUNDS | {"means": 2**-20})


@pytest.mark.parametrize("antialiased", [True, False])
def test_the_bytes_are_those_the_format_prescribes(tmp_path, antialiased):
    """One Gaussian, decoded number by number from the README's words."""
    params = {name: tensor[7:8] for name, tensor in written(tmp_path / "a.spz", 1).items()}
    save_model(tmp_path / "a.spz", params, antialiased=antialiased, rub=False)
    content = gzip.decompress((tmp_path / "a.spz").read_bytes())
    magic, version, count, degree, bits, flags, zero = struct.unpack_from("<IIIBBBB", content)
    assert (magic, version, count, degree, flags, zero) == (0x5053474E, 3, 1, 1, antialiased, 0)
    body = content[16:]
    assert len(body) == 9 + 1 + 3 + 3 + 4 + 9
    position = [int.from_bytes(body[3 * axis : 3 * axis + 3], "little", signed=True) / 2**bits for axis in range(3)]
    assert position == pytest.approx(params["means"][0].tolist(), abs=2**-bits)
    assert body[9] / 255 == pytest.approx(params["opacities"].sigmoid().item(), abs=0.5 / 255)
    for axis in range(3):
        assert (body[10 + axis] / 255 - 0.5) / 0.15 == pytest.approx(params["sh0"][0, 0, axis].item(), abs=0.0134)
        assert body[13 + axis] / 16 - 10 == pytest.approx(params["scales"][0, axis].item(), abs=1 / 31.9)
    word = int.from_bytes(body[16:20], "little")
    largest, xyzw = word >> 30, [0.0] * 4
    for component in (3, 2, 1, 0):  # the last stored is in the lowest bits
        if component != largest:
            xyzw[component] = (-1 if word & 512 else 1) * (word & 511) / 511 * math.sqrt(0.5)
            word >>= 10
    xyzw[largest] = math.sqrt(1 - sum(number**2 for number in xyzw))
    wxyz = torch.tensor([xyzw[3], *xyzw[:3]])
    assert abs(torch.cosine_similarity(wxyz, params["quats"][0], dim=0).item()) == pytest.approx(1.0, abs=1e-5)
    harmonics = [(byte - 128) / 128 for byte in body[20:]]  # colour varies fastest
    assert harmonics == pytest.approx(params["shN"][0].flatten().tolist(), abs=0.0315)


def test_version_2_is_read(tmp_path):
    """Rotations of x, y, z as bytes, w positive."""
    header = struct.pack("<4sIIBBBx", b"NGSP", 2, 1, 0, 12, 1)
    positions = b"".join((4096 * number & 0xFFFFFF).to_bytes(3, "little") for number in (1, -2, 3))
    rotation = bytes(round(127.5 * (number + 1)) for number in (0.5, -0.5, 0.1))
    (tmp_path / "a.spz").write_bytes(
        gzip.compress(header + positions + bytes([128, 255, 0, 128, 160, 144, 176]) + rotation)
    )
    loaded = load_model(tmp_path / "a.spz", rub=False)
    assert loaded["means"].tolist() == [[1.0, -2.0, 3.0]] and loaded["scales"].tolist() == [[0.0, -1.0, 1.0]]
    assert loaded["quats"][0].tolist() == pytest.approx([0.7, 0.5, -0.5, 0.1], abs=0.01)
    assert read_render_mode(tmp_path / "a.spz") == "mip"


def test_the_frame_is_right_up_back(tmp_path):
    """A Gaussian 2 right, 3 down and 5 ahead; what it looks like from a direction stays with the direction."""
    params = waves(40, 3)
    params["means"][0] = torch.tensor([2.0, 3.0, 5.0])
    save_model(tmp_path / "a.spz", params)
    turned, back = load_model(tmp_path / "a.spz", rub=False), load_model(tmp_path / "a.spz")
    assert turned["means"][0].tolist() == [2.0, -3.0, -5.0] and back["means"][0].tolist() == [2.0, 3.0, 5.0]
    directions = torch.nn.functional.normalize(waves(40, 0)["means"], dim=1)
    flipped = directions * torch.tensor([1.0, -1.0, -1.0])
    looks = [
        spherical_harmonics_torch(3, seen[None], torch.cat([model["sh0"], model["shN"]], dim=1)[None])
        for model, seen in ((back, directions), (turned, flipped))
    ]
    torch.testing.assert_close(*looks, rtol=1e-5, atol=1e-5)
    axes, turned_axes = (_covariances(model) for model in (back, turned))
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    torch.testing.assert_close(turned_axes, flip @ axes @ flip, rtol=1e-4, atol=1e-7)


def _covariances(params: dict) -> torch.Tensor:
    w, x, y, z = torch.nn.functional.normalize(params["quats"], dim=1).T
    rows = (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z),
            1 - 2 * (x * x + z * z), 2 * (y * z - w * x), 2 * (x * z - w * y), 2 * (y * z + w * x),
            1 - 2 * (x * x + y * y))  # fmt: skip
    rotations = torch.stack(rows, dim=1).reshape(-1, 3, 3)
    return rotations @ torch.diag_embed((2 * params["scales"]).exp()) @ rotations.mT


@pytest.mark.parametrize("size", [1e-5, 1.0, 200.0])
def test_positions_are_as_fine_as_the_farthest_allows(tmp_path, size):
    params = waves(50, 0)
    params["means"] *= size
    save_model(tmp_path / "a.spz", params)
    error = (load_model(tmp_path / "a.spz")["means"] - params["means"]).abs().max().item()
    farthest = params["means"].abs().max().item()
    assert error <= max(farthest * 2**-22, 2**-24) and error <= 2**-12


def test_what_is_too_far_away_is_drawn_in(tmp_path):
    params = waves(5, 0)
    params["means"][2] = torch.tensor([40_960.0, -8192.0, 0.0])
    save_model(tmp_path / "a.spz", params)
    loaded = load_model(tmp_path / "a.spz")
    assert loaded["means"][2].tolist() == pytest.approx([2048.0, -409.6, 0.0], abs=1e-2)
    shrunk = params["scales"][2] + math.log(2048 / 40_960)
    assert loaded["scales"][2].tolist() == pytest.approx(shrunk.tolist(), abs=1 / 31)
    torch.testing.assert_close(loaded["means"][3:], params["means"][3:], rtol=0, atol=2**-12)


def spz(count: int = 1, *, version: int = 3, degree: int = 0, bits: int = 12, magic: bytes = b"NGSP", body: int = 20):
    return gzip.compress(struct.pack("<4sIIBBBx", magic, version, count, degree, bits, 0) + bytes(body))


COPY = "export or copy it again"
BROKEN = {
    "empty": (b"", "unpack requires a buffer of 16 bytes", COPY),
    "not gzip": (b"hello, this is no SPZ", "incorrect header check", COPY),
    "something else in gzip": (spz(magic=b"PNG\n"), "not SPZ within its gzip", COPY),
    "cut": (encode_spz({n: t.numpy() for n, t in waves(99, 1).items()})[:-900], "bytes", COPY),
    "fewer than promised": (spz(2), "its header promises 56 bytes, 36 are there", COPY),
    "4 billion": (spz(2**32 - 1), "its header promises 4294967295 Gaussians", COPY),
    "none": (spz(0), "its header promises 0 Gaussians", COPY),
    "degree 9": (spz(degree=9), "degree 9 of harmonics", COPY),
    "200 fractional bits": (spz(bits=200), "200 fractional bits", COPY),
    "version 1": (spz(version=1), "no SPZ of version 2 or 3", COPY),
    "version 4": (
        b"NGSP" + bytes(40),
        "SPZ of version 4 is not read",
        "save it as version 3, or give the model as PLY",
    ),
}


@pytest.mark.parametrize(("content", "names", "remedy"), BROKEN.values(), ids=BROKEN)
def test_broken_files(tmp_path, content, names, remedy):
    (tmp_path / "a.spz").write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load_model(tmp_path / "a.spz")
    message = str(caught.value)
    assert "a.spz: " in message and "\n" not in message and names in message and remedy in message


def test_a_bomb_is_not_unpacked(tmp_path):
    """16 MiB of zeros behind a header of one Gaussian: what the header does not promise stays packed."""
    (tmp_path / "a.spz").write_bytes(spz(body=16 * 2**20))
    assert len(load_model(tmp_path / "a.spz")["means"]) == 1


def test_a_bomb_of_gaussians_is_refused_before_memory_is_taken(tmp_path):
    """A million Gaussians, all the same: 65 MB in 64 KB. Unpacked, 50 million in 3 MB took 15 GiB."""
    count = 1_000_000
    header = struct.pack("<4sIIBBBx", b"NGSP", 3, count, 3, 12, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(header + bytes(65 * count), 6))
    assert (tmp_path / "a.spz").stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"bytes that promise 1,000,000 Gaussians, 0\.2 GiB\); export or copy"):
            load_model(tmp_path / "a.spz")
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_the_same_model_gives_the_same_file():
    arrays = {name: tensor.numpy() for name, tensor in waves(30, 2).items()}
    assert encode_spz(arrays) == encode_spz(arrays)
    assert np.array_equal(arrays["means"], waves(30, 2)["means"].numpy())  # and leaves the arrays alone
