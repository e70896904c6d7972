"""Boxes outside of which nothing stays: bounds given by hand, and the crop box that the live viewer saves."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distwar_gs.system.errors import ConfigError
from distwar_gs.system.files import read_bounded
from distwar_gs.viewing.live.crop import FILE, LONGEST, rows_inside
from distwar_gs.viewing.live.orders import CropBox, OrderError, crop_box


def bounds_box(numbers: Sequence[float]) -> CropBox:
    """The box between two corners X0 Y0 Z0 X1 Y1 Z1, along the axes. ConfigError where the second is not beyond the
    first, or a number is not finite."""
    low, high = np.array(numbers[:3], dtype=np.float64), np.array(numbers[3:], dtype=np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        given = " ".join(f"{number:g}" for number in numbers)
        raise ConfigError(f"--bounds {given}: no box; give X0 Y0 Z0 X1 Y1 Z1 with X0 < X1, Y0 < Y1 and Z0 < Z1")
    return CropBox(0.5 * (low + high), high - low, np.eye(3))


def read_crop(path: Path) -> CropBox:
    """The box in a file of the live viewer, in the frame of the input, which may lie far from its origin. ConfigError
    for a file that holds none."""
    try:
        content = json.loads(read_bounded(path, LONGEST))
        center = np.array(content["center"], dtype=np.float64)
        box = crop_box({**content, "center": [0.0, 0.0, 0.0]})
        if center.shape != (3,) or not np.isfinite(center).all():
            raise OrderError("center is not three finite numbers")
    except FileNotFoundError:
        raise ConfigError(f"{path}: not there; the live viewer saves a crop box as {FILE} in the run folder") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:  # an OrderError is a ValueError
        reason = str(error) if isinstance(error, OrderError) else "not JSON with center, size and axes"
        raise ConfigError(f"{path}: holds no crop box ({reason}); save it again with the live viewer") from None
    return replace(box, center=center)


def is_inside(box: CropBox, means: np.ndarray) -> np.ndarray:
    """bool [N]: which centers, float64 [N, 3], in the frame of the box, are in it."""
    return rows_inside(box, torch.from_numpy(means)).numpy()
