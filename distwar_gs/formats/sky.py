"""The sky of a model: what lies behind its Gaussians, in a file beside theirs, or made Gaussians itself.

NAME.sky.json holds the coefficients of distwar_gs.rendering.environment, in the axes of the input. Only viewers of
this project read it; so that a plain file of Gaussians looks the same anywhere, the sky can be baked: a sphere of
Gaussians far around everything, each with the colour of its direction.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.table import SOG_META
from distwar_gs.system.files import replacing
from distwar_kernels.constants import HARMONIC0
from distwar_kernels.sh.sh_torch import sh_basis

COUNTS = (1, 4, 9, 16)
"""Coefficients of the degrees that there are."""
BAKED = 5000
"""Gaussians of a sphere: one for each 3 degrees."""
WIDTH = 0.65
"""Their standard deviation, in distances to the next. Narrower ones leave gaps; wider ones mix colours from farther,
and from one side, since what is nearer by its depth comes first. 0.6 to 0.75 are nearest to the sky, by measurement."""
FAR = 20.0
"""Radius of the sphere at the least, in distances from the middle within which nine of ten Gaussians lie: from anywhere
among them a direction is then off by 3 degrees at the most, less than harmonics show."""
BEYOND = 2.0
"""The same in distances of the farthest Gaussian: none may be hidden."""
OPAQUE = 6.9
"""Opacity of the sphere's, as a logit: 0.999."""
_LONGEST = 100_000  # bytes of a file


def sky_of(path: str | os.PathLike[str]) -> Path:
    """Where the sky of the model `path` is: NAME.sky.json beside it, of a SOG's folder in there."""
    path = Path(path) / SOG_META if os.path.isdir(path) else Path(path)
    return path.with_name(f"{path.name}.sky.json")


def save_sky(path: str | os.PathLike[str], coefficients: Tensor | None) -> None:
    """Write the sky [K, 3] of the model `path` beside it; without one, remove that of an earlier model of this name."""
    record = sky_of(path)
    if coefficients is None:
        record.unlink(missing_ok=True)
        return
    meaning = (
        f"behind the Gaussians of {Path(path).name}: 0.5 + spherical harmonics, in the order of f_dc and f_rest, of "
        "the direction of view in the axes of the input"
    )
    numbers = {"coefficients": coefficients.detach().double().cpu().tolist(), "meaning": meaning}
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")


def read_sky(path: str | os.PathLike[str]) -> Tensor | None:
    """The sky that lies beside the model `path`, float32 [K, 3]; None: no such file.

    Raises: ModelFileError for a file that does not hold three finite numbers for each of 1, 4, 9 or 16 harmonics.
    """
    record = sky_of(path)
    if not record.is_file():
        return None
    try:
        if record.stat().st_size > _LONGEST:
            raise ValueError("too long")
        numbers = np.array(json.loads(record.read_bytes())["coefficients"], dtype=np.float64)
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise ModelFileError(
            f"{record}: not readable ({type(error).__name__}: {error}); export the model again, or delete this file to "
            "go without a sky"
        ) from None
    if numbers.ndim != 2 or numbers.shape[1] != 3 or len(numbers) not in COUNTS or not np.isfinite(numbers).all():
        raise ModelFileError(
            f"{record}: `coefficients` must be 1, 4, 9 or 16 rows of three finite numbers; export the model again, or "
            "delete this file to go without a sky"
        )
    return torch.from_numpy(numbers).float()


# ------------------------------------------------------------------------------------------------------------ baking


def with_sky(params: Mapping[str, Tensor], coefficients: Tensor, count: int = BAKED) -> dict[str, Tensor]:
    """The Gaussians and behind them the sky [K, 3], as a sphere of so many more.

    params: as `load_exactly` gives them; so is what is returned. Their axes are those of the input.
    """
    means = params["means"].double()
    center = means.median(dim=0).values
    distances = (means - center).norm(dim=1)
    radius = max(FAR * float(distances.quantile(0.9)), BEYOND * float(distances.max()), 1e-3)
    directions = even_directions(count)
    rows = len(params["shN"][0])
    sphere = {
        "means": center + radius * directions,
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
        "scales": torch.full((count, 3), float(np.log(WIDTH * radius * np.sqrt(4.0 * np.pi / count)))),
        "opacities": torch.full((count,), OPAQUE),
        "sh0": _seen(coefficients, directions)[:, None] / HARMONIC0,
        "shN": torch.zeros(count, rows, 3),
    }
    return {name: torch.cat([tensor, sphere[name].to(tensor.dtype)]) for name, tensor in params.items()}


def _seen(coefficients: Tensor, directions: Tensor) -> Tensor:
    """[N, 3] colours less the gray of harmonics, at least black."""
    degree = COUNTS.index(len(coefficients))
    return (sh_basis(degree, directions) @ coefficients.double()).clamp_min(-0.5)


def even_directions(count: int) -> Tensor:
    """float64 [count, 3] of length 1, about equally far apart: on a spiral that turns by the golden angle."""
    index = torch.arange(count, dtype=torch.float64)
    height, turn = 1.0 - (2.0 * index + 1.0) / count, index * (np.pi * (3.0 - np.sqrt(5.0)))
    ring = (1.0 - height.square()).sqrt()
    return torch.stack([ring * turn.cos(), ring * turn.sin(), height], dim=1)
