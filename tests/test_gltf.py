"""glTF with KHR_gaussian_splatting: what is in a file, what comes back from it, and files that are refused."""

import json
import struct

import numpy as np
import pytest
import torch
from foreign_models import FOLDER, assert_within, differences, in_order_of, waves

from distwar_gs.formats import gltf
from distwar_gs.formats.export import ModelFileError, load_exactly, load_model, read_render_mode, save_model
from distwar_gs.formats.turning import half_turn, turned
from distwar_kernels.projection.projection_torch import rotation_matrices

SPLATS = "KHR_gaussian_splatting"


def units(count: int, degree: int) -> dict[str, torch.Tensor]:
    """`waves` with rotations of length 1, as the format has them."""
    params = waves(count, degree)
    return params | {"quats": torch.nn.functional.normalize(params["quats"].double(), dim=1).float()}


def parts(path) -> tuple[dict, bytes]:
    """JSON and binary chunk, by the specification of glTF 2.0, 4.4."""
    content = path.read_bytes()
    magic, version, size = struct.unpack_from("<III", content)
    assert (magic, version, size) == (0x46546C67, 2, len(content)) and size % 4 == 0
    length, kind = struct.unpack_from("<II", content, 12)
    more, other = struct.unpack_from("<II", content, 20 + length)
    assert (kind, other) == (0x4E4F534A, 0x004E4942) and length % 4 == more % 4 == 0 and 28 + length + more == size
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def rewritten(path, told: dict, binary: bytes) -> None:
    """A file of these parts."""
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary)) + struct.pack("<II", len(text), 0x4E4F534A)
    path.write_bytes(head + text + struct.pack("<II", len(binary), 0x004E4942) + binary)


def attribute(told: dict, binary: bytes, name: str) -> np.ndarray:
    """The float32 numbers of an attribute [N, width]."""
    accessor = told["accessors"][told["meshes"][0]["primitives"][0]["attributes"][name]]
    view = told["bufferViews"][accessor["bufferView"]]
    assert accessor["componentType"] == 5126 and view["byteOffset"] % 4 == 0
    bytes_of = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    return np.frombuffer(bytes_of, "<f4").reshape(accessor["count"], -1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 700])
def test_what_comes_back_has_the_bits_that_were_written(tmp_path, count, degree):
    params, path = units(count, degree), tmp_path / "a.glb"
    save_model(path, params)
    loaded = load_model(path)
    assert all(torch.equal(loaded[name], params[name]) for name in ("means", "quats", "sh0", "shN"))
    assert torch.allclose(loaded["scales"], params["scales"], rtol=0, atol=2e-7)
    assert torch.allclose(loaded["opacities"].sigmoid(), params["opacities"].sigmoid(), rtol=0, atol=2e-7)
    again = tmp_path / "b.glb"
    save_model(again, load_model(path))
    told, binary = parts(again)
    for name in ("POSITION", f"{SPLATS}:ROTATION", f"{SPLATS}:SCALE", f"{SPLATS}:SH_DEGREE_0_COEF_0"):
        np.testing.assert_array_equal(attribute(told, binary, name), attribute(*parts(path), name))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_file_says_what_the_extension_asks_for(tmp_path, degree):
    params = waves(50, degree)
    save_model(tmp_path / "a.glb", params)
    told, binary = parts(tmp_path / "a.glb")
    primitive = told["meshes"][0]["primitives"][0]
    assert told["extensionsUsed"] == [SPLATS] and primitive["mode"] == 0
    assert primitive["extensions"][SPLATS]["kernel"] == "ellipse"
    assert primitive["extensions"][SPLATS]["colorSpace"] == "srgb_rec709_display"
    names = {"POSITION", "COLOR_0", *(f"{SPLATS}:{name}" for name in ("ROTATION", "SCALE", "OPACITY"))}
    names |= {f"{SPLATS}:SH_DEGREE_{d}_COEF_{n}" for d in range(degree + 1) for n in range(2 * d + 1)}
    assert set(primitive["attributes"]) == names
    positions = attribute(told, binary, "POSITION")
    np.testing.assert_array_equal(positions, params["means"].numpy() * np.float32([-1, -1, 1]))
    accessor = told["accessors"][primitive["attributes"]["POSITION"]]
    assert accessor["min"] == positions.min(0).tolist() and accessor["max"] == positions.max(0).tolist()
    rotations = attribute(told, binary, f"{SPLATS}:ROTATION")
    np.testing.assert_allclose(np.linalg.norm(rotations, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(attribute(told, binary, f"{SPLATS}:SCALE"), params["scales"].exp(), rtol=1e-6)
    np.testing.assert_allclose(attribute(told, binary, f"{SPLATS}:OPACITY")[:, 0], params["opacities"].sigmoid(), 1e-6)
    if degree:
        second = attribute(told, binary, f"{SPLATS}:SH_DEGREE_1_COEF_1")
        np.testing.assert_array_equal(second, params["shN"][:, 1])  # of z, which stays


@pytest.mark.parametrize(("axis", "signs"), [("x", [1, -1, -1]), ("z", [-1, -1, 1])])
def test_half_a_turn_is_what_any_turn_is(axis, signs):
    arrays = {name: tensor.numpy() for name, tensor in units(40, 3).items()}
    half, whole = half_turn(arrays, axis), turned(arrays, np.diag(np.float64(signs)))
    for name in ("means", "shN"):
        np.testing.assert_allclose(half[name], whole[name], atol=1e-5)
    shapes = [
        covariances(torch.from_numpy(each["quats"]), torch.from_numpy(arrays["scales"])) for each in (half, whole)
    ]
    assert torch.allclose(*shapes, atol=1e-5)
    assert all(np.array_equal(half_turn(half, axis)[name], arrays[name]) for name in arrays)


def covariances(quats: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """[N, 3, 3]."""
    halves = rotation_matrices(quats) * scales.exp()[:, None]
    return halves @ halves.mT


def test_a_file_of_splat_transform():
    params, loaded = waves(300, 1), load_model(FOLDER / "waves.glb")
    ordered = in_order_of(loaded, params["means"])
    found = differences(ordered, params)
    found.pop("quats")  # which it turns otherwise, by half a turn of the Gaussian's own: the same Gaussian
    bounds = {"means": 0.0, "scales": 1e-6, "opacities": 1e-6, "sh0": 0.0, "shN": 1e-6}
    assert_within(found, bounds)
    pairs = [covariances(each["quats"], each["scales"]) for each in (ordered, params)]
    assert torch.allclose(*pairs, rtol=1e-4, atol=1e-6)


def test_what_is_written_beside_the_gaussians(tmp_path):
    origin = np.array([4e5, -5e6, 1 / 3])
    save_model(tmp_path / "a.glb", waves(5, 0), antialiased=True, origin=origin)
    assert parts(tmp_path / "a.glb")[0]["asset"]["extras"] == {"SplatRenderMode": "mip", "SplatOrigin": origin.tolist()}
    assert read_render_mode(tmp_path / "a.glb") == "mip" and (load_exactly(tmp_path / "a.glb")[1] == origin).all()


def test_integers_are_read_as_the_extension_allows(tmp_path):
    """Rotations as normalised shorts, opacities as normalised bytes, with a stride; another file's writer may do so."""
    params, path = units(64, 0), tmp_path / "a.glb"
    save_model(path, params)
    told, binary = parts(path)
    exact = load_model(path)
    attributes = told["meshes"][0]["primitives"][0]["attributes"]
    quats = np.round(32767 * attribute(told, binary, f"{SPLATS}:ROTATION")).astype("<i2")
    alphas = np.round(255 * attribute(told, binary, f"{SPLATS}:OPACITY")).astype("u1").repeat(4, axis=1)
    for name, values, kind in ((f"{SPLATS}:ROTATION", quats, 5122), (f"{SPLATS}:OPACITY", alphas, 5121)):
        told["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": values.nbytes})
        told["bufferViews"][-1] |= {"byteStride": 4} if kind == 5121 else {}
        told["accessors"][attributes[name]] |= {"bufferView": len(told["bufferViews"]) - 1, "componentType": kind,
                                                "normalized": True}  # fmt: skip
        binary += values.tobytes()
    told["buffers"][0]["byteLength"] = len(binary)
    rewritten(path, told, binary)
    found = load_model(path)
    assert torch.allclose(found["quats"], exact["quats"], atol=3e-5) and torch.equal(found["means"], exact["means"])
    assert torch.allclose(found["opacities"].sigmoid(), exact["opacities"].sigmoid(), atol=0.5 / 255 + 1e-6)


def moved(told: dict) -> None:
    told["nodes"][0]["translation"] = [1, 0, 0]


def twice(told: dict) -> None:
    told["meshes"][0]["primitives"] *= 2


def compressed(told: dict) -> None:
    primitive = told["meshes"][0]["primitives"][0]
    primitive["extensions"][SPLATS]["extensions"] = {"KHR_gaussian_splatting_compression_spz_2": {"bufferView": 0}}


def linear(told: dict) -> None:
    told["meshes"][0]["primitives"][0]["extensions"][SPLATS]["colorSpace"] = "lin_rec709_display"


def plain(told: dict) -> None:
    del told["meshes"][0]["primitives"][0]["extensions"]


def beyond(told: dict) -> None:
    told["accessors"][0]["count"] = 10**6


def negative(told: dict) -> None:
    told["accessors"][0]["byteOffset"] = -4


def partial(told: dict) -> None:
    del told["meshes"][0]["primitives"][0]["attributes"][f"{SPLATS}:SH_DEGREE_1_COEF_2"]


def strange_origin(told: dict) -> None:
    told["asset"]["extras"]["SplatOrigin"] = ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (moved, "a node moves, turns or scales its Gaussians"), (twice, "holds 2 parts of Gaussians"),
        (compressed, "compressed or changed by KHR_gaussian_splatting_compression_spz_2"),
        (linear, "its colorSpace is lin_rec709_display"), (plain, "holds no Gaussians (KHR_gaussian_splatting)"),
        (beyond, "not a readable .glb file (ValueError: accessor 0 reaches beyond"),
        (negative, "not a readable .glb file (ValueError: accessor 0 reaches beyond"),
        (partial, "not a readable .glb file (KeyError"), (strange_origin, "does not give three finite numbers"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_files_that_are_refused(tmp_path, change, message):
    path = tmp_path / "a.glb"
    save_model(path, waves(20, 1))
    told, binary = parts(path)
    change(told)
    rewritten(path, told, binary)
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_broken_files_are_one_line(tmp_path):
    """Cut at every length, and with every byte of the head spoiled."""
    path = tmp_path / "a.glb"
    save_model(path, waves(2, 0))
    content = path.read_bytes()
    broken = [content[:size] for size in range(0, len(content), 7)]
    broken += [content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :] for place in range(20)]
    for changed in broken:
        path.write_bytes(changed)
        with pytest.raises(ModelFileError, match="not a readable .glb file"):
            load_model(path)


def test_more_than_a_file_can_hold_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(gltf, "_MOST_BYTES", 1000)
    with pytest.raises(ModelFileError, match="20 Gaussians are 0.0 GiB, and a .glb holds 4; write a .ply or .spz"):
        save_model(tmp_path / "a.glb", waves(20, 0))
    assert list(tmp_path.iterdir()) == []
