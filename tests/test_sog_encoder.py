"""SOG files that we write: what comes back through our reader, and what the pictures hold."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from foreign_models import assert_within, differences, in_order_of, waves
from PIL import Image
from sog_files import write_files
from test_sog import BOUNDS

from distwar_gs.formats.export import load_model, read_render_mode, save_model
from distwar_gs.formats.sog_encoder import encode_sog, palette_size, sections


def arrays_of(params):
    return {name: tensor.numpy() for name, tensor in params.items()}


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 16, 65, 3000])
def test_what_is_written_is_read(tmp_path, count, degree):
    params = waves(count, degree)
    save_model(tmp_path / "a.sog", params)
    loaded = in_order_of(load_model(tmp_path / "a.sog"), params["means"])
    # k-means gives dense values the nearer entries; a rotation whose two largest components are equal loses more.
    wide = {"scales": 9e-3, "sh0": 9e-3, "shN": 1.2e-2, "quats": 7e-5}
    assert_within(differences(loaded, params) | ({} if degree else {"shN": 0.0}), BOUNDS | wide)
    assert loaded["shN"].shape == params["shN"].shape


def test_what_was_read_is_written_as_it_is(tmp_path):
    """A second generation loses nothing: the same pictures, and the same numbers but for the last bits of positions.

    Rotations whose two largest components are equal after rounding may be packed by the other one.
    """
    save_model(tmp_path / "a.sog", waves(3000, 3))
    first = load_model(tmp_path / "a.sog")
    tied = first["quats"].abs().sort(dim=1).values.diff(dim=1)[:, -1] < 3 / 255
    assert tied.float().mean() < 0.15
    first = {name: tensor[~tied] for name, tensor in first.items()}
    meta, pictures = sections(arrays_of(first))
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        for name in ("means_l.webp", "means_u.webp", "quats.webp", "scales.webp", "sh0.webp"):
            written = np.asarray(Image.open(io.BytesIO(archive.read(name))))
            count, channels = len(first["means"]), written.shape[-1]
            kept = written.reshape(-1, channels)[:3000][~tied.numpy()]
            assert (kept == pictures[name].reshape(-1, channels)[:count]).all(), name
    files = {name: webp(pixels) for name, pixels in pictures.items()} | {"meta.json": json.dumps(meta).encode()}
    second = load_model(write_files(tmp_path / "b.sog", files))
    torch.testing.assert_close(second.pop("means"), first.pop("means"), rtol=3e-7, atol=1e-9)
    assert all(torch.equal(second[name], first[name]) for name in second)


def webp(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()


def test_the_same_model_gives_the_same_bytes():
    arrays = arrays_of(waves(3000, 2))
    assert encode_sog(arrays) == encode_sog(arrays)


@pytest.mark.parametrize("antialiased", [False, True])
def test_antialiased_is_recorded(tmp_path, antialiased):
    save_model(tmp_path / "a.sog", waves(30, 0), antialiased=antialiased)
    assert read_render_mode(tmp_path / "a.sog") == ("mip" if antialiased else "default")


def test_one_place_one_size_one_color(tmp_path):
    """No spread to divide by."""
    params = {name: tensor[:1].expand(5, *tensor.shape[1:]).clone() for name, tensor in waves(5, 1).items()}
    save_model(tmp_path / "a.sog", params)
    loaded = load_model(tmp_path / "a.sog")
    for name in ("means", "scales", "sh0", "shN"):
        torch.testing.assert_close(loaded[name], params[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1024), (2047, 1024), (2048, 2048), (14_813, 8192), (10**5, 65536), (10**7, 65536)]
)
def test_palettes_are_as_large_as_those_of_splat_transform(count, size):
    assert palette_size(count) == size
