"""The rows of SCHEMA against those who have their own idea of a Gaussian: the kernels, the settings, the PLY."""

import dataclasses
import math

import plyfile
import pytest
import torch
from foreign_models import waves
from fused_scenes import PARAMETERS
from torch.nn import Parameter

from distwar_gs.config import ModelConfig, OptimConfig
from distwar_gs.formats.export import save_ply
from distwar_gs.formats.parameters import DEGREES, ROWS, SCHEMA, harmonics_of, numbers_of
from distwar_gs.gaussians.memory import bytes_per_gaussian
from distwar_gs.gaussians.model import PARAMETER_NAMES, initialize, parameter_count, sh_degree_of
from distwar_gs.gaussians.optimizer import make_optimizers
from distwar_gs.rendering.renderer import RASTERIZERS


def test_the_order_is_that_of_the_fused_rasteriser():
    """Which takes the tensors without their names."""
    assert tuple(ROWS) == PARAMETER_NAMES == PARAMETERS


@pytest.mark.parametrize("degree", DEGREES)
def test_models_begin_with_these_shapes(degree):
    model = initialize(torch.rand(5, 3), torch.rand(5, 3), ModelConfig(sh_degree=degree), "cpu")
    assert {name: tuple(param.shape) for name, param in model.items()} == {
        row.name: (5, *row.shape_at(degree)) for row in SCHEMA
    }
    assert parameter_count(model) == 5 * numbers_of(degree) and sh_degree_of(model) == degree
    assert model["shN"].shape[1] == harmonics_of(degree)


def test_each_learning_rate_is_a_setting_of_its_own():
    keys = {field.name for field in dataclasses.fields(OptimConfig)}
    assert len({row.rate for row in SCHEMA}) == len(SCHEMA) and {row.rate for row in SCHEMA} <= keys
    model = {name: Parameter(value) for name, value in waves(3, 3).items()}
    for row in SCHEMA:
        changed = dataclasses.replace(OptimConfig(), **{row.rate: 0.123})
        rates = {name: one.param_groups[0]["lr"] for name, one in make_optimizers(model, changed, 1.0).items()}
        assert [name for name, rate in rates.items() if math.isclose(rate, 0.123)] == [row.name]


@pytest.mark.parametrize("degree", DEGREES)
def test_each_number_has_its_column(tmp_path, degree):
    """Numbers that are all different are found in the columns of their row."""
    model = waves(4, degree)
    save_ply(tmp_path / "a.ply", model)
    table = plyfile.PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    for row in SCHEMA:
        values = model[row.name].transpose(1, -1) if row.shape is None else model[row.name]
        names = row.columns_at(degree)
        assert len(names) == math.prod(row.shape_at(degree))
        for index, name in enumerate(names):
            assert torch.equal(torch.tensor(table[name]), values.reshape(4, -1)[:, index]), name
    normals = {"nx", "ny", "nz"}
    assert {one.name for one in table.properties} - normals == {n for row in SCHEMA for n in row.columns_at(degree)}


@pytest.mark.parametrize(("degree", "numbers"), [(0, 14), (1, 23), (2, 38), (3, 59)])
def test_memory_counts_each_number_three_times(degree, numbers):
    """With both moments of Adam, and spare room; statistics and lazy Adam add three numbers."""
    assert numbers_of(degree) == numbers
    for rasterizer in RASTERIZERS:
        kept, _ = bytes_per_gaussian(degree, rasterizer, "lazy")
        assert 12 * numbers + 12 <= kept <= 1.25 * 12 * numbers + 13
