"""The rows of FORMATS say of each format what is true of the files it reads and writes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign_models import waves

from distwar_gs.formats.export import load_exactly, load_model, read_origin, read_render_mode, save_model
from distwar_gs.formats.origins import record_of
from distwar_gs.formats.table import (
    FAR,
    FORMATS,
    HARMONICS,
    MODEL_SUFFIXES,
    ORIGIN,
    PLY,
    RENDER_MODE,
    SOG,
    is_model_file,
    listed,
    read_format,
    written_format,
)

BOTH = [row for row in FORMATS if row.is_written and row.suffix.endswith(MODEL_SUFFIXES)]
"""What is written and read."""
by_suffix = pytest.mark.parametrize("row", BOTH, ids=[row.suffix for row in BOTH])


@by_suffix
def test_harmonics_come_back_or_are_lacking(tmp_path, row):
    path = tmp_path / f"a{row.suffix}"
    save_model(path, waves(60, 2))
    assert load_model(path)["shN"].shape[1] == (0 if HARMONICS in row.lacks else 8)


@by_suffix
def test_the_origin_is_in_the_file_or_beside_it(tmp_path, row):
    path, origin = tmp_path / f"a{row.suffix}", np.array([4e5, -5e6, 1 / 3])
    save_model(path, waves(20, 0), origin=origin)
    assert read_origin(path).tolist() == load_exactly(path)[1].tolist() == origin.tolist()
    assert record_of(path).exists() == (ORIGIN in row.lacks)


@by_suffix
@pytest.mark.parametrize("antialiased", [False, True])
def test_the_render_mode_is_told_or_lacking(tmp_path, row, antialiased):
    path = tmp_path / f"a{row.suffix}"
    save_model(path, waves(20, 0), antialiased=antialiased)
    told = "mip" if antialiased else "default"
    assert read_render_mode(path) == (None if RENDER_MODE in row.lacks else told)


@by_suffix
def test_far_positions_are_held_or_refused(tmp_path, row):
    params = waves(20, 0)
    params["means"] = params["means"] + 1e5
    assert row.is_beyond_reach(params["means"].numpy()) == (FAR in row.lacks)
    path = tmp_path / f"a{row.suffix}"
    if FAR in row.lacks:
        with pytest.raises(ValueError, match=f"no {row.suffix[1:].upper()} reaches so far"):
            save_model(path, params)
    else:
        save_model(path, params)
        assert (load_model(path)["means"].median(0).values > 9e4).all()


@by_suffix
def test_axes_are_turned_where_the_format_has_its_own(tmp_path, row):
    """Read without turning them back, such files show what is in them."""
    path, params = tmp_path / f"a{row.suffix}", waves(20, 0)
    params["means"] = params["means"].abs() + 1.0
    save_model(path, params)
    signs = load_model(path, rub=False)["means"].sign().unique(dim=0).tolist()
    turned = {
        "": [1.0, 1.0, 1.0],
        "x right, y up, z back": [1.0, -1.0, -1.0],
        "x left, y up, z forward": [-1.0, -1.0, 1.0],
    }
    assert signs == [turned[row.axes]]


@pytest.mark.parametrize(
    ("name", "read", "written"),
    [
        ("a.ply", ".ply", ".ply"), ("A.PLY", ".ply", ".ply"), ("a.compressed.ply", ".ply", ".compressed.ply"),
        ("a.Compressed.Ply", ".ply", ".compressed.ply"), ("compressed.ply", ".ply", ".ply"),
        ("a.b.splat", ".splat", ".splat"), ("a.SPZ", ".spz", ".spz"), ("a.sog", ".sog", ".sog"),
        ("a.GLB", ".glb", ".glb"),
        ("a.html", ".ply", ".html"), ("meta.json", ".sog", None), ("a.obj", ".ply", None), ("ply", ".ply", None),
    ],
)  # fmt: skip
def test_names_of_files(name, read, written):
    assert read_format(name).suffix == read
    assert getattr(written_format(Path("folder.spz") / name), "suffix", None) == written


def test_folders_are_sogs_unless_they_are_runs(tmp_path):
    assert read_format(tmp_path) is SOG and not is_model_file(tmp_path)
    (tmp_path / "meta.json").touch()
    assert is_model_file(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert not is_model_file(tmp_path)


def test_what_a_name_says_and_what_a_file_holds_may_differ(tmp_path):
    """A compressed PLY under a plain name, and the other way round."""
    for name, other in (("a.compressed.ply", "b.ply"), ("c.ply", "d.compressed.ply")):
        save_model(tmp_path / name, waves(30, 1))
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
        first, second = load_model(tmp_path / name), load_model(tmp_path / other)
        assert all((first[key] == second[key]).all() for key in first)


def test_every_row_has_the_functions_that_it_promises():
    for row in FORMATS:
        wanted = ["read"] * row.is_read + ["write"] * row.is_written + ["is_beyond_reach"] * (FAR in row.lacks)
        wanted += ["read_origin"] * (row.is_read and ORIGIN not in row.lacks)
        wanted += ["read_render_mode"] * (row.is_read and RENDER_MODE not in row.lacks)
        assert [name for name in wanted if not callable(getattr(row.functions(), name, None))] == [], row
    assert FORMATS[0] is PLY


def test_suffixes_are_listed_in_words():
    assert listed((".a", ".b", ".c"), "or") == ".a, .b or .c"


def test_the_table_loads_no_format():
    """The command lines need it before torch."""
    code = "import sys, distwar_gs.formats.table; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
