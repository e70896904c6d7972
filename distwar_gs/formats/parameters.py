"""What a Gaussian is made of, a row per parameter. The model, the optimisers, checkpoints, the memory that is needed
and files read it; the order is that of the fused rasteriser (distwar_kernels.fused.ops.PARAMETERS)."""

import math
from dataclasses import dataclass

DEGREES = range(4)
"""Of spherical harmonics."""


def harmonics_of(degree: int) -> int:
    """How many harmonics there are above degree 0: 0, 3, 8, 15."""
    return (degree + 1) ** 2 - 1


@dataclass(frozen=True)
class ParameterRow:
    """A row of SCHEMA."""

    name: str
    shape: tuple[int, ...] | None
    """Per Gaussian; None: (number of harmonics above degree 0, 3)."""
    rate: str
    """Its learning rate, in the section `optim`."""
    columns: tuple[str, ...]
    """In the PLY of the 3DGS reference, in the order of its numbers; "f_rest_{}" stands for 0, 1, 2, ..., all harmonics
    of red before those of green and of blue."""

    def shape_at(self, degree: int) -> tuple[int, ...]:
        """Per Gaussian, in a model with harmonics up to this degree."""
        return (harmonics_of(degree), 3) if self.shape is None else self.shape

    def columns_at(self, degree: int) -> list[str]:
        """In the PLY of a model with harmonics up to this degree."""
        if self.shape is not None:
            return list(self.columns)
        return [self.columns[0].format(index) for index in range(math.prod(self.shape_at(degree)))]


SCHEMA = (
    ParameterRow("means", (3,), "means_lr", ("x", "y", "z")),
    ParameterRow("quats", (4,), "quats_lr", ("rot_0", "rot_1", "rot_2", "rot_3")),
    ParameterRow("scales", (3,), "scales_lr", ("scale_0", "scale_1", "scale_2")),
    ParameterRow("opacities", (), "opacities_lr", ("opacity",)),
    ParameterRow("sh0", (1, 3), "sh0_lr", ("f_dc_0", "f_dc_1", "f_dc_2")),
    ParameterRow("shN", None, "shN_lr", ("f_rest_{}",)),
)

ROWS = {row.name: row for row in SCHEMA}
"""By name."""


def numbers_of(degree: int) -> int:
    """How many numbers a Gaussian has: 59 at degree 3."""
    return sum(math.prod(row.shape_at(degree)) for row in SCHEMA)


def columns_of(name: str) -> tuple[str, ...]:
    """The columns of a parameter that has the same ones at every degree."""
    return ROWS[name].columns
