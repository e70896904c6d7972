"""Whole files of every kind the programs read, and ways to break them: what fuzz_readers.py feeds to readers.

Two ways: bytes of a whole file are flipped, cut, repeated and overwritten with numbers that counts should not be; or a
file is written anew around a tree (JSON, YAML, a checkpoint) of which a few nodes are odd, so that it is parsed to the
end. Needs Hypothesis (tests/requirements.txt), which draws every choice.
"""

import copy
import gzip
import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pycolmap
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from distwar_datasets import DataError, load_scene
from distwar_datasets.pixels.imagefile import decode_image, is_turned, read_size
from distwar_datasets.pixels.masks import decode_mask
from distwar_datasets.scene import Mask
from distwar_gs.checkpoints import checkpoint as checkpoints
from distwar_gs.checkpoints import randomness
from distwar_gs.config import Config, ConfigError, as_values, commented_defaults, load_config, override
from distwar_gs.evaluation.metrics import Evaluation, ViewMetrics, append_metrics
from distwar_gs.formats.export import ModelFileError, load_model, load_ply, read_render_mode, save_model, save_ply
from distwar_gs.formats.origins import record_of
from distwar_gs.gaussians.model import as_parameters, initialize, sh_degree_of
from distwar_gs.gaussians.optimizer import load_state_dicts, make_optimizers, state_dicts, step_all
from distwar_gs.strategies.adaptive import Densifier
from distwar_gs.training.sampler import ViewSampler
from distwar_gs.training.state import PARTS
from distwar_gs.viewing.path_files import read_path
from scripts.evaluate_suite import read_records

Draw = Callable[[st.SearchStrategy], Any]
Structured = Callable[[bytes], st.SearchStrategy[bytes]]

SIZE = (24, 16)
COUNTS = (0, 1, 2, 127, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -1.0, 1e-320, 1e308, float("inf"), float("nan"))
ODD_VALUES = (
    None, True, 0, -1, 3, 2**31, 2**63, 10**30, 10**400, 1e308, 5e-324, 0.5, float("nan"), float("inf"), "", "x", "\0",
    "..", "/", ".", "images", "images/a.png", "a\nb", "\ud800", "9" * 5000, [], {}, [[]], [None], [0] * 4, {"x": 1},
    [[0.0] * 4] * 4, [[1e200] * 4] * 4,
)  # fmt: skip
YAML_TEXTS = (
    "9" * 5000, "1_000", "0x", "0b2", "1:99", ".nan", "2001-99-99", "!!binary x", "!!int ''", "!!float x", "!!bool x",
    "!!timestamp x", "!!python/object:os.system x", "!<%0A> x", "!!set {a}", "!!omap [a]", "!!pairs [a]", "&a [*a]",
    "&a {x: *a}", "{<<: x}", "&a {<<: *a}", "{[1]: 2}", "{{a: 1}: 2}", "{? [a] : b}", '"\\0"', '"a\\nb"', "[" * 3000,
    "{a: " * 1500, "*none", "%", "@", "`", "\t", "|", ">", "? x", "- x", "'", "\u2028", "\x85", "1e400", "~",
    "[&a [1,1,1,1,1,1,1,1,1],&b [*a,*a,*a,*a,*a,*a,*a,*a,*a],&c [*b,*b,*b,*b,*b,*b,*b,*b,*b],&d [*c,*c,*c,*c,*c,*c,*c],"
    "&e [*d,*d,*d,*d,*d,*d,*d,*d,*d],&f [*e,*e,*e,*e,*e,*e,*e,*e,*e],&g [*f,*f,*f,*f,*f,*f,*f,*f],[*g,*g,*g,*g,*g,*g]]",
)  # fmt: skip

_CONFIG = """base: base.yaml
train:
  iterations: 7
  seed: 3
data: {images: photos, background: white}
optim:
  means_lr: 1e-4
reduction: {strategy: sw_b, balance_threshold: 8}
"""


@dataclass(frozen=True)
class Reader:
    """One reader: whole inputs for it, ways to break them, and the only errors it may raise."""

    name: str
    errors: tuple[type[Exception], ...]
    prepare: Callable[[Path], list[Path]]
    """Writes a whole input into a folder; returns the files of it that are broken, one at a time."""
    read: Callable[[Path, Path], object]
    """Reads the input (folder, broken file) as the programs do."""
    structured: Structured | None = None
    """Other contents for a file with these bytes, well-formed but odd."""
    names_file: bool = True
    """Whether messages must name a file of the folder (a value of the command line has none)."""
    memory: int = field(default=2**30)
    """Bytes beyond what the process has before reading that reading may take."""


def cases(reader: Reader, whole: Sequence[bytes]) -> st.SearchStrategy[tuple[int, bytes]]:
    """Which of a reader's files to break, and the bytes to put there."""

    def contents(index: int) -> st.SearchStrategy[tuple[int, bytes]]:
        ways = broken_bytes(whole[index])
        if reader.structured:
            ways = st.one_of(ways, reader.structured(whole[index]))
        return st.tuples(st.just(index), ways)

    return st.integers(0, len(whole) - 1).flatmap(contents)


# ------------------------------------------------------------------------------------------------- breaking bytes


@st.composite
def broken_bytes(draw: Draw, whole: bytes) -> bytes:
    """`whole` after one to four mutations."""
    data = bytearray(whole)
    for mutate in draw(st.lists(st.sampled_from(_MUTATIONS), min_size=1, max_size=4)):
        mutate(draw, data, draw(st.integers(0, max(0, len(data) - 1))))
    return bytes(data)


def _flip(draw: Draw, data: bytearray, at: int) -> None:
    if data:
        data[at] ^= 1 << draw(st.integers(0, 7))


def _cut_end(draw: Draw, data: bytearray, at: int) -> None:
    del data[at:]


def _cut_out(draw: Draw, data: bytearray, at: int) -> None:
    del data[at : at + draw(st.integers(1, 64))]


def _insert(draw: Draw, data: bytearray, at: int) -> None:
    data[at:at] = draw(st.binary(min_size=1, max_size=16))


def _repeat(draw: Draw, data: bytearray, at: int) -> None:
    piece = bytes(data[at : at + draw(st.integers(1, 64))])
    data[at:at] = piece * draw(st.integers(1, 40))


def _swap(draw: Draw, data: bytearray, at: int) -> None:
    size, other = draw(st.sampled_from((1, 4, 8))), draw(st.integers(0, max(0, len(data) - 1)))
    here, there = bytes(data[at : at + size]), bytes(data[other : other + size])
    data[at : at + len(here)], data[other : other + len(there)] = there, here


def _count(draw: Draw, data: bytearray, at: int) -> None:
    size, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("little", "big")))
    number = draw(st.sampled_from(COUNTS)) % 256**size
    data[at : at + size] = number.to_bytes(size, order)


def _float(draw: Draw, data: bytearray, at: int) -> None:
    code = draw(st.sampled_from("fd"))
    number = np.float32(draw(st.sampled_from(FLOATS))) if code == "f" else draw(st.sampled_from(FLOATS))
    data[at : at + struct.calcsize(code)] = struct.pack(f"<{code}", number)


def _token(draw: Draw, data: bytearray, at: int) -> None:
    """Another number, or a word, where text has one."""
    token = re.compile(rb"[-+\w.]+").search(data, at)
    if token:
        new = draw(st.one_of(*map(st.sampled_from, (COUNTS, FLOATS, ("-1", "", "x", "1e999", "PINHOLE")))))
        data[token.start() : token.end()] = str(new).encode()


_MUTATIONS = (_flip, _cut_end, _cut_out, _insert, _repeat, _swap, _count, _count, _float, _token)


# -------------------------------------------------------------------------------------------------- breaking trees


@st.composite
def odd_trees(draw: Draw, whole: Any, odd: Sequence[Any] = ODD_VALUES) -> Any:
    """A copy of nested dicts and lists with one to three nodes replaced, or taken out."""
    tree = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        tree = _with_odd_node(draw, tree, odd)
    return tree


def _with_odd_node(draw: Draw, tree: Any, odd: Sequence[Any]) -> Any:
    if not (isinstance(tree, dict | list) and tree) or draw(st.integers(0, 9)) == 0:
        return copy.deepcopy(draw(st.sampled_from(odd)))
    key = draw(st.sampled_from(list(tree) if isinstance(tree, dict) else range(len(tree))))
    if draw(st.integers(0, 9)) == 0:
        del tree[key]
    else:
        tree[key] = _with_odd_node(draw, tree[key], odd)
    return tree


def _odd_json(whole: bytes) -> st.SearchStrategy[bytes]:
    return odd_trees(json.loads(whole)).map(lambda tree: json.dumps(tree).encode())


@st.composite
def _odd_yaml(draw: Draw, whole: bytes) -> bytes:
    """Odd values in the place of sound ones, and YAML that only a person would write."""
    if draw(st.booleans()):
        tree = draw(odd_trees(yaml.safe_load(whole)))
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    lines = whole.decode().splitlines()
    at, text = draw(st.integers(0, len(lines) - 1)), draw(st.sampled_from(YAML_TEXTS))
    key, colon, _ = lines[at].partition(":")
    lines[at] = draw(st.sampled_from((f"{key}{colon} {text}", f"{text}: 1", f"  {text}: 1", text)))
    return "\n".join(lines).encode()


def _odd_override(whole: bytes) -> st.SearchStrategy[bytes]:
    keys = st.sampled_from([*as_values(Config()), "train", "train.sed", ""])
    texts = st.sampled_from(YAML_TEXTS) | st.text(max_size=12) | st.floats().map(str) | st.integers().map(str)
    return st.builds(lambda key, text: f"{key}={text}".encode("utf-8", "surrogatepass"), keys, texts)


def _odd_checkpoint(whole: bytes) -> st.SearchStrategy[bytes]:
    tensors = (torch.zeros(()), torch.zeros(0), torch.zeros(3, 4), torch.zeros(2, dtype=torch.uint8))
    wide = (torch.zeros(1).expand(2**40), torch.zeros(4).to_sparse(), torch.full((4, 3), float("nan")))

    def saved(tree: Any) -> bytes:
        file = io.BytesIO()
        torch.save(tree, file)
        return file.getvalue()

    odd = [value for value in ODD_VALUES if value != "\ud800"]  # which torch.save cannot write
    tree = torch.load(io.BytesIO(whole), weights_only=True)
    return odd_trees(tree, [*odd, *tensors, *wide]).map(saved)


# -------------------------------------------------------------------------------------------- pictures and PLY files


_EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "GIF": "png", "PPM": "jpg"}
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16")


@st.composite
def _odd_pictures(draw: Draw, whole: bytes) -> bytes:
    """A picture of an unusual mode or size; or a PNG with any header and sound checksums; broken or not."""
    if draw(st.booleans()):
        data = _png(draw)
    else:
        size = draw(st.sampled_from(((1, 1), (1, 3000), (17, 5))))
        data = _encoded(Image.new(draw(st.sampled_from(_MODES)), size), draw(st.sampled_from(list(_EXTENSIONS))))
    return draw(broken_bytes(data)) if draw(st.booleans()) else data


def _encoded(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    try:
        image.save(file, format)
    except (OSError, ValueError):  # a format that does not know this mode
        image.convert("RGB").save(file, format)
    return file.getvalue()


def _png(draw: Draw) -> bytes:
    width, height = (draw(st.sampled_from((0, 1, 24, 9000, 13_000, 2**16, 2**31 - 1))) for _ in range(2))
    depth, colour, interlaced = (draw(st.sampled_from(values)) for values in ((1, 2, 8, 16, 3), range(8), (0, 1, 2)))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    pixels = zlib.compress(draw(st.sampled_from((b"", b"\0" * 2000, b"\xff" * 500, b"\0" * 10**6))))
    extra = draw(st.sampled_from((b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"eXIf", b"acTL", b"fcTL", b"pHYs", b"sRGB")))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (extra, draw(st.binary(max_size=12))), (b"IDAT", pixels), (b"IEND", b""))
    )


_PLY_COUNTS = ("0", "1", "4", "-1", "4000000000", "99999999999999999999", "x", "", "1e3")
_PLY_PROPERTIES = (
    "float x", "double y", "uchar z", "int x", "list uchar int x", "list int float y", "list float x", "uchar red",
    "list uchar uchar red", "float", "list", "odd x", "float f_rest_0", "float x y", "uint opacity",
)  # fmt: skip


@st.composite
def _odd_ply(draw: Draw, whole: bytes) -> bytes:
    """The file's own header and rows with lines of another header among them, or such a header alone."""
    element, line = st.sampled_from(("vertex", "face", "", "vertex vertex")), st.sampled_from(_PLY_PROPERTIES)
    lines = [f"element {draw(element)} {draw(st.sampled_from(_PLY_COUNTS))}"]
    lines += [f"property {text}" for text in draw(st.lists(line, max_size=5))]
    odd = "".join(f"{text}\n" for text in lines).encode()
    head, end, rows = whole.partition(b"end_header\n")
    if draw(st.booleans()):
        return head + odd + end + rows
    form = draw(st.sampled_from(("ascii", "binary_little_endian", "binary_big_endian", "odd")))
    rows = draw(st.sampled_from((b"", b"1 2 3 4\n" * 4, b"x\n", b"1\n" * 9, b"\xff" * 64, b"\n" * 5)))
    return f"ply\nformat {form} 1.0\n".encode() + odd + b"end_header\n" + rows


# ----------------------------------------------------------------------------------------------------- whole inputs


def _write_photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in "abcd":
        Image.new("RGB", SIZE, (90, 120, 30)).save(folder / f"{name}.png")


def _poses() -> list[np.ndarray]:
    """World-to-camera [4, 4], four cameras in a row that look along z."""
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, 3] = [[x, 0.1 * x * x, 3.0] for x in range(4)]
    return list(poses)


def _reconstruction() -> pycolmap.Reconstruction:
    """Four photos by a pinhole and a distorting camera, and points that two of them saw."""
    model = pycolmap.Reconstruction()
    for number, (kind, params) in enumerate((("PINHOLE", [20, 21]), ("OPENCV", [20, 21])), start=1):
        params = [*params, 11.5, 8, *([0.05, 0.01, 0.001, 0] if kind == "OPENCV" else [])]
        camera = pycolmap.Camera(camera_id=number, model=kind, width=SIZE[0], height=SIZE[1], params=params)
        model.add_camera_with_trivial_rig(camera)
    for index, pose in enumerate(_poses()):
        seen = np.arange(12.0).reshape(6, 2)
        image = pycolmap.Image(f"{'abcd'[index]}.png", seen, camera_id=1 + index % 2, image_id=index + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
    for index in range(6):
        track = pycolmap.Track([pycolmap.TrackElement(1, index), pycolmap.TrackElement(2, index)])
        model.add_point3D(np.array([0.1 * index, 0, 0]), track, np.array([9, 9, 9], np.uint8))
    return model


def _colmap(text: bool) -> Callable[[Path], list[Path]]:
    def prepare(folder: Path) -> list[Path]:
        _write_photos(folder / "images")
        place = folder / "sparse/0"
        place.mkdir(parents=True)
        (_reconstruction().write_text if text else _reconstruction().write_binary)(place)
        return sorted(place.iterdir())

    return prepare


def _lists(folder: Path) -> list[Path]:
    """Lists of test images of every kind, beside a text model."""
    _colmap(text=True)(folder)
    contents = {
        "test.txt": "b.png\nimages/d.png\n",
        "train_list.txt": "a.png\nc\n",
        "scene.tsv": "filename\tsplit\nb.png\ttest\n",
        "train_test_lists.json": json.dumps({"train": ["a.png", "c.png"], "test": ["b.png"], "has_masks": False}),
        "transforms.json": json.dumps({"frames": [{"file_path": "a.png"}], "test_frames": [{"file_path": "b.png"}]}),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def _transforms(folder: Path) -> list[Path]:
    _write_photos(folder / "images")
    Image.new("L", SIZE, 255).save(folder / "mask.png")
    poses = [np.linalg.inv(pose) @ np.diag([1.0, -1.0, -1.0, 1.0]) for pose in _poses()]
    frames: list[dict] = [
        {"file_path": f"images/{name}.png", "transform_matrix": pose.tolist()}
        for name, pose in zip("abcd", poses, strict=True)
    ]
    frames[1] |= {"mask_path": "mask.png", "k1": 0.05, "camera_model": "OPENCV"}
    intrinsics = {"w": SIZE[0], "h": SIZE[1], "fl_x": 20.0, "fl_y": 21.0, "cx": 11.5, "cy": 8.0, "x_fov": None}
    lists = {"train_filenames": ["images/a.png", "images/b.png"], "test_filenames": ["images/c.png"]}
    meta = {**intrinsics, **lists, "ply_file_path": "points.ply", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    table = np.zeros(4, [*((axis, "f4") for axis in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))])
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")]).write(str(folder / "points.ply"))
    return [folder / "transforms.json"]


def _cloud(folder: Path) -> list[Path]:
    return [_transforms(folder)[0].with_name("points.ply")]


def _gaussians(count: int = 4) -> dict[str, torch.nn.Parameter]:
    config = Config().model
    positions = np.random.default_rng(0).normal(size=(count, 3))
    return initialize(positions, np.full((count, 3), 128, np.uint8), config, "cpu")


def _gaussian_ply(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    save_ply(folder / "model.ply", _gaussians())
    ply = plyfile.PlyData.read(str(folder / "model.ply"))
    plyfile.PlyData(ply.elements, text=True).write(str(folder / "text.ply"))
    return sorted(folder.iterdir())


def _formats(folder: Path) -> list[Path]:
    for name in ("model.spz", "model.splat", "model.compressed.ply"):
        save_model(folder / name, _gaussians())
    return sorted(folder.iterdir())


def _origin(folder: Path) -> list[Path]:
    """What lies beside a model that is relative to an origin."""
    folder.mkdir(parents=True)
    save_model(folder / "a.splat", _gaussians(), origin=np.array([452310.0, 5411950.0, -263.5]))
    return [record_of(folder / "a.splat")]


def _paths(folder: Path) -> list[Path]:
    """The same three poses in every kind of file that is read as a camera path."""
    folder.mkdir(parents=True)
    pose = [[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, -3.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]]
    lens = {"width": 24, "height": 16, "fx": 20.0, "fy": 21.0, "cx": 12.0, "cy": 8.0, "origin": [1.0, 2.0, 3.0]}
    camera = {"id": 0, "position": [2.0, -3.0, 1.5], "rotation": [row[:3] for row in pose[:3]], **lens}
    filmed = {"camera_to_world": [number for row in pose for number in row], "fov": 50.0, "aspect": 1.5}
    contents = {
        "cameras.json": [camera] * 3,
        "camera_path.json": {
            "camera_type": "perspective", "render_width": 24, "render_height": 16, "fps": 24, "seconds": 0.5,
            "camera_path": [filmed] * 3,
        },
        "transforms.json": {"fl_x": 20.0, "w": 24, "h": 16, "frames": [{"transform_matrix": pose}] * 3},
        "poses.json": [pose] * 3,
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    np.save(folder / "poses.npy", np.array([pose] * 3))
    np.savetxt(folder / "poses.txt", np.array([pose] * 3).reshape(3, 16))
    return sorted(folder.iterdir())


def _odd_path(whole: bytes) -> st.SearchStrategy[bytes]:
    return _odd_json(whole) if whole.startswith((b"{", b"[")) else broken_bytes(whole)


def _odd_format(whole: bytes) -> st.SearchStrategy[bytes]:
    """What is packed, broken before it is packed; a PLY of another header."""
    if whole.startswith(b"\x1f\x8b"):
        return broken_bytes(gzip.decompress(whole)).map(gzip.compress)
    return _odd_ply(whole) if whole.startswith(b"ply") else broken_bytes(whole)


def _configs(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text("base: all.yaml\ntrain: {test_iterations: [5, 10], resume: null}\n")
    (folder / "all.yaml").write_text("\n".join(commented_defaults().splitlines()[:80]))
    (folder / "config.yaml").write_text(_CONFIG)
    return [folder / "base.yaml", folder / "config.yaml"]


def _override(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    (folder / "set.txt").write_text("train.test_iterations=[1, 2]")
    return [folder / "set.txt"]


def _checkpoint(folder: Path) -> list[Path]:
    """Of four Gaussians, after a step."""
    params = _gaussians()
    optimizers = make_optimizers(params, Config().optim, 1.0)
    for param in params.values():
        param.grad = torch.ones_like(param)
    step_all(optimizers)
    sampler = ViewSampler(3, torch.Generator())
    sampler.next()
    parts = {
        "params": params, "optimizers": state_dicts(optimizers), "densification": _densifier(4).state_dict(),
        "rng": randomness.capture_rng({"host": torch.Generator()}), "sampler": sampler.state_dict(),
        "clock": {"elapsed_seconds": 1.0},
    }  # fmt: skip
    state = checkpoints.Checkpoint(1, as_values(Config()), {"kind": "colmap", "training views": 3}, parts)
    return [checkpoints.save_checkpoint(folder, state)]


def _densifier(count: int) -> Densifier:
    return Densifier(count, "cpu", 1.0, Config().densification, False)


def _continue(folder: Path, path: Path) -> None:
    """What a resumed run does with a checkpoint."""
    saved = checkpoints.load_checkpoint(path, "cpu", PARTS)
    if saved.config["densification.strategy"] != "adc":
        return  # which such a run refuses
    params = as_parameters(saved.params, "cpu")
    sh_degree_of(params)
    optimizers = make_optimizers(params, Config().optim, 1.0)
    load_state_dicts(optimizers, saved.parts["optimizers"])
    _densifier(len(params["means"])).load_state_dict(saved.parts["densification"])
    randomness.restore_rng(saved.parts["rng"], {"host": torch.Generator()})
    ViewSampler(10**6, torch.Generator()).load_state_dict(saved.parts["sampler"])
    _ = saved.step + 1, saved.elapsed_seconds + 1.0, saved.scene.get("kind")


def _pictures(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for format in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        (folder / f"a.{_EXTENSIONS[format]}").write_bytes(_encoded(Image.fromarray(pixels), format))
    Image.fromarray(pixels).convert("P").save(folder / "palette.png", transparency=3)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    Image.fromarray(pixels).convert("CMYK").save(folder / "turned.jpg", exif=Image.Exif())
    Image.fromarray(pixels).save(folder / "packed.tif", compression="tiff_lzw")
    return sorted(folder.iterdir())


def _decode(folder: Path, path: Path) -> None:
    read_size(path)
    is_turned(path)
    assert decode_image(path).dtype == np.uint8


def _decode_mask(folder: Path, path: Path) -> None:
    kept = decode_mask(Mask(path), SIZE[::-1])
    assert kept.shape == SIZE and kept.dtype == bool


def _metrics(folder: Path) -> list[Path]:
    _append(folder, folder / "metrics.json")
    return [folder / "metrics.json"]


def _append(folder: Path, path: Path) -> None:
    evaluation = Evaluation((ViewMetrics("a.png", 30.0, 0.9),), {"split_rule": "none"})
    append_metrics(path, 7, "test", evaluation, {"gaussians": 4})


READERS = {
    reader.name: reader
    for reader in (
        Reader("colmap_binary", (DataError,), _colmap(text=False), lambda folder, path: load_scene(folder)),
        Reader("colmap_text", (DataError,), _colmap(text=True), lambda folder, path: load_scene(folder)),
        Reader("lists", (DataError,), _lists, lambda folder, path: load_scene(folder, test_list=path)),
        Reader("transforms", (DataError,), _transforms, lambda folder, path: load_scene(folder), _odd_json),
        Reader("point_cloud", (DataError,), _cloud, lambda folder, path: load_scene(folder), _odd_ply),
        Reader("gaussians", (ModelFileError,), _gaussian_ply,
            lambda folder, path: (load_ply(path), read_render_mode(path)), _odd_ply),
        Reader("formats", (ModelFileError,), _formats, lambda folder, path: load_model(path), _odd_format),
        Reader("origin", (ModelFileError,), _origin, lambda folder, path: load_model(folder / "a.splat"), _odd_json),
        Reader("path", (DataError,), _paths, lambda folder, path: read_path(path), _odd_path),
        Reader("config", (ConfigError,), _configs, lambda folder, path: load_config(folder / "config.yaml"), _odd_yaml),
        Reader("override", (ConfigError,), _override,
            lambda folder, path: override(path.read_bytes().decode("utf-8", "surrogateescape")),
            _odd_override, names_file=False),
        Reader("checkpoint", (checkpoints.CheckpointError,), _checkpoint, _continue, _odd_checkpoint),
        Reader("image", (DataError,), _pictures, _decode, lambda whole: _odd_pictures(whole), memory=3 * 2**30),
        Reader("mask", (DataError,), _pictures, _decode_mask, lambda whole: _odd_pictures(whole), memory=3 * 2**30),
        Reader("metrics", (), _metrics, _append, _odd_json),
        Reader("results", (DataError,), _metrics, lambda folder, path: read_records(path), _odd_json),
    )
}  # fmt: skip
