"""SOG files, bundles and folders, of both versions: what they hold, and broken ones."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import FOLDER, assert_within, differences, in_order_of, waves
from hypothesis import strategies as st
from PIL import Image
from sog_files import sog_parts, write_files, write_sog
from stress.fuzz_inputs import Reader, broken_bytes, odd_trees
from stress.fuzz_readers import fuzz

from distwar_gs.formats.export import find_ply, load_model, read_render_mode
from distwar_gs.formats.ply import ModelFileError

KINDS = ["a.sog", "folder", "folder/meta.json"]
# One step of what a byte stands for is 1/85 (scales), 1/85 (colours), 1/320 (harmonics), 1/180 (rotations); logits of
# version 1 are from -4 to 4. Positions have 16 bits over +-2.3, stretched by up to 9 where they are far out.
BOUNDS = {"means": 4e-4, "quats": 3e-5, "scales": 6.5e-3, "opacities": 4e-3, "sh0": 6.5e-3, "shN": 1.7e-3}


def written(folder, kind, *arguments, **options):
    path = folder / kind
    write_sog(path.parent if path.name == "meta.json" else path, *arguments, **options)
    return path


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read(tmp_path, kind, version):
    params = waves(300, 2)
    loaded = load_model(written(tmp_path, kind, params, version))
    assert_within(differences(loaded, params), BOUNDS)
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in loaded.values())


def test_what_splat_transform_wrote_is_read():
    """Its palette of harmonics has fewer entries than there are Gaussians."""
    params = waves(300, 1)
    loaded = in_order_of(load_model(FOLDER / "waves.sog"), params["means"])
    assert_within(differences(loaded, params), BOUNDS | {"quats": 7e-5, "shN": 2.7e-3})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [2, 16, 65])
def test_degrees_and_counts(tmp_path, count, degree, version):
    params = waves(count, degree)
    loaded = load_model(write_sog(tmp_path / "a.sog", params, version))
    found = differences(loaded, params)
    assert_within(found, BOUNDS) if degree else assert_within(found | {"shN": 0.0}, BOUNDS)
    assert loaded["shN"].shape == params["shN"].shape


def test_files_in_a_folder_of_the_bundle(tmp_path):
    whole = load_model(write_sog(tmp_path / "a.sog", waves(30, 1)))
    inner = load_model(write_sog(tmp_path / "b.sog", waves(30, 1), folder="scene/"))
    assert all(torch.equal(whole[name], inner[name]) for name in whole)


def test_other_names_and_png(tmp_path):
    """Names are what meta.json says; other lossless pictures may be used."""
    meta, pictures = sog_parts(waves(30, 1), 2)
    files = {}
    for name, pixels in pictures.items():
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        files[f"x_{name}.png"] = data.getvalue()
    for section in ("means", "scales", "quats", "sh0", "shN"):
        meta[section]["files"] = [f"x_{name}.png" for name in meta[section]["files"]]
    path = write_files(tmp_path / "a.sog", files | {"meta.json": json.dumps(meta).encode()}, "", zipfile.ZIP_DEFLATED)
    usual = load_model(write_sog(tmp_path / "b.sog", waves(30, 1)))
    assert all(torch.equal(load_model(path)[name], usual[name]) for name in usual)


def test_a_codebook_without_its_first_number(tmp_path):
    """As splat-transform wrote it for a while: the step below the second one is meant."""
    meta, _ = sog_parts(waves(30, 1), 2)
    usual = load_model(write_sog(tmp_path / "a.sog", waves(30, 1)))
    book = list(meta["scales"]["codebook"])
    book[0] = None
    repaired = load_model(write_sog(tmp_path / "b.sog", waves(30, 1), scales={**meta["scales"], "codebook": book}))
    step = (meta["scales"]["codebook"][255] - meta["scales"]["codebook"][0]) / 255
    torch.testing.assert_close(repaired["scales"], usual["scales"], rtol=0, atol=1.1 * step)
    assert (repaired["scales"] != usual["scales"]).sum() < 5


def test_rotations_of_an_unknown_kind_are_left_out(tmp_path, caplog):
    meta, pictures = sog_parts(waves(30, 0), 2)
    pictures["quats.webp"][0, 3, 3] = 200
    files = {name: webp(pixels) for name, pixels in pictures.items()}
    write_files(tmp_path / "a.sog", files | {"meta.json": json.dumps(meta).encode()})
    loaded, usual = load_model(tmp_path / "a.sog"), load_model(write_sog(tmp_path / "b.sog", waves(30, 0)))
    assert torch.equal(loaded["means"], usual["means"][[i for i in range(30) if i != 3]])
    assert "1 of 30 Gaussians are left out" in caplog.text


def webp(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("more", "mode"),
    [({}, "default"), ({"antialias": True}, "mip"), ({"antialias": False}, "default"),
     ({"model": "antialiased"}, "mip"), ({"model": "2dgs"}, "default")],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_antialiased(tmp_path, kind, more, mode):
    assert read_render_mode(written(tmp_path, kind, waves(4, 0), **more)) == mode


def test_a_sog_is_never_taken_for_a_run_folder(tmp_path):
    folder = write_sog(tmp_path / "capture", waves(4, 0))
    assert find_ply(folder) == find_ply(folder / "meta.json") == folder / "meta.json"
    assert find_ply(tmp_path / "a.sog") == tmp_path / "a.sog"


@pytest.mark.parametrize("name", ["a.ksplat", "A.KSPLAT", "scene.lcc", "lod-meta.json"])
def test_formats_that_are_not_read_name_what_converts_them(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0\1")
    with pytest.raises(
        ModelFileError, match=r"is not read, \.ply, \.splat, \.spz, \.sog and \.glb are; .*splat-transform"
    ):
        find_ply(tmp_path / name)


# ------------------------------------------------------------------------------------------------------ broken files


def changed(**sections):
    """A bundle of which sections of meta.json are changed by functions, or replaced."""

    def make(path):
        meta, pictures = sog_parts(waves(30, 1), 2)
        for name, change in sections.items():
            meta[name] = change(meta[name]) if callable(change) else change
        files = {name: webp(pixels) for name, pixels in pictures.items()}
        write_files(path, files | {"meta.json": json.dumps(meta).encode()})

    return make


def named(files, **more):
    return lambda section: {**section, "files": files, **more}


def bomb(path):
    """Pictures of one colour: some hundred bytes each, for 4000 x 4000 Gaussians."""
    meta, pictures = sog_parts(waves(4, 0), 2)
    flat = {name: webp(np.full((4000, 4000, pixels.shape[2]), 255, np.uint8)) for name, pixels in pictures.items()}
    write_files(path, flat | {"meta.json": json.dumps(meta | {"count": 16_000_000}).encode()})


def wide_picture(path):
    meta, pictures = sog_parts(waves(4, 0), 2)
    files = {name: webp(pixels) for name, pixels in pictures.items()}
    files["sh0.webp"] = webp(np.zeros((8000, 8000, 4), np.uint8))
    write_files(path, files | {"meta.json": json.dumps(meta).encode()})


def huge_member(path):
    write_files(path, {"meta.json": bytes(2**24)}, "", zipfile.ZIP_DEFLATED)


MEANS, HARMONICS = ["means_l.webp", "means_u.webp"], ["shN_centroids.webp", "shN_labels.webp"]
BROKEN = {
    "no zip": (lambda path: path.write_bytes(b"hello"), "File is not a zip file"),
    "cut short": (lambda path: (changed()(path), path.write_bytes(path.read_bytes()[:-40])), "not a zip file"),
    "no meta": (lambda path: write_files(path, {"a.webp": b""}), "meta.json"),
    "no JSON": (lambda path: write_files(path, {"meta.json": b"{"}), "Expecting property name"),
    "a list": (lambda path: write_files(path, {"meta.json": b"[]"}), "meta.json is no table of values"),
    "version 3": (changed(version=3), "version 3; 1 and 2 are read"),
    "a count in words": (changed(count="many"), "'many' Gaussians"),
    "no Gaussians": (changed(count=0), "0 Gaussians"),
    "more Gaussians than pixels": (changed(count=65), "has 8x4 pixels for 65 Gaussians"),
    "10^12 Gaussians": (changed(count=10**12), "that promise 1,000,000,000,000 Gaussians"),
    "no section": (changed(scales={}), "no 'files'|no 'codebook'"),
    "a short codebook": (changed(scales=named(["scales.webp"], codebook=[1.0])), "codebook of scales: not 256 numbers"),
    "a codebook of words": (changed(scales=named(["scales.webp"], codebook=["a"] * 256)), "could not convert"),
    "one picture of two": (changed(means=lambda section: section | {"files": ["means_l.webp"]}), "list index out of"),
    "no picture": (changed(scales=named(["none.webp"])), "none.webp"),
    "a picture that is none": (changed(scales=named(["meta.json"])), "cannot identify image file"),
    "bounds that are none": (changed(means=named(MEANS, mins=[0, "x", 0])), "could not convert"),
    "endless bounds": (changed(means=named(MEANS, maxs=[1e400, 1, 1])), "bounds of means"),
    "four bands": (changed(shN=named(HARMONICS, bands=4)), "4 bands of harmonics"),
    "another width": (changed(shN=named(HARMONICS, bands=2)), "is 192 pixels wide, not 512"),
    "a bomb": (bomb, "that promise 16,000,000 Gaussians"),
    "a picture far too large": (wide_picture, "8000x8000 pixels, far more than Gaussians"),
    "a meta of 16 MiB": (huge_member, "meta.json has 16,777,216 bytes, more than"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=BROKEN)
def test_broken_files_end_in_one_line(tmp_path, make, words):
    make(tmp_path / "a.sog")
    with pytest.raises(ModelFileError, match=rf"a\.sog: not a readable SOG file \(.*({words}).*\); export or copy it"):
        load_model(tmp_path / "a.sog")


@pytest.mark.parametrize("name", ["../secret.webp", "/etc/passwd", "a/../../secret.webp"])
def test_names_that_lead_elsewhere_are_not_followed(tmp_path, name):
    meta, _ = sog_parts(waves(4, 0), 2)
    folder = write_sog(tmp_path / "in/folder", waves(4, 0), scales={**meta["scales"], "files": [name]})
    (tmp_path / "in/secret.webp").write_bytes(b"")
    with pytest.raises(ModelFileError, match="is no file beside meta.json"):
        load_model(folder)


def write_both(folder: Path) -> list[Path]:
    """A bundle and a folder; the files to break."""
    write_sog(folder / "a.sog", waves(30, 1))
    return [folder / "a.sog", *sorted(write_sog(folder / "scene", waves(30, 1)).iterdir())]


def odd_meta(whole: bytes) -> st.SearchStrategy[bytes]:
    """meta.json with odd values in it; of other files, bytes."""
    if not whole.startswith(b"{"):
        return broken_bytes(whole)
    return odd_trees(json.loads(whole)).map(lambda tree: json.dumps(tree).encode())


@pytest.mark.parametrize("seed", [0, 1000])
def test_fuzzed_files_are_read_or_refused_in_one_line(tmp_path, seed):
    reader = Reader("sog", (ModelFileError,), write_both, read_either, odd_meta)
    tally = fuzz(reader, seed, seconds=60, executions=150, keep=tmp_path)
    assert not tally.crashes, f"{tally.crashes}; the inputs are in {tmp_path}"
    assert tally.refused > 10 and tally.executions >= 20


def read_either(folder: Path, path: Path) -> None:
    path = path if path.suffix == ".sog" else folder / "scene"
    load_model(path)
    read_render_mode(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.sog: no such file; give a run folder"):
        load_model(tmp_path / "none.sog")
