"""The crop box: outside it nothing is drawn in the viewer. It is kept in the run folder, in the frame of the input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distwar_datasets.scene import Normalisation
from distwar_gs.system.files import read_bounded, replacing
from distwar_gs.viewing.live.orders import CropBox, OrderError, crop_box

FILE = "viewer_crop.json"
"""In the run folder."""
LONGEST = 10_000
"""Bytes of it, at most."""


def rows_inside(box: CropBox, means: Tensor) -> Tensor:
    """[N] bool: whether centres [N, 3], in the box's frame, are in it."""
    center, axes, half = (
        torch.as_tensor(numbers, dtype=means.dtype, device=means.device)
        for numbers in (box.center, box.axes, 0.5 * box.size)
    )
    return (((means - center) @ axes.T).abs() <= half).all(dim=-1)


def as_values(box: CropBox) -> dict[str, Any]:
    """Plain numbers, as `orders.crop_box` takes them."""
    return {"center": box.center.tolist(), "size": box.size.tolist(), "axes": box.axes.tolist()}


def save_crop(folder: Path, box: CropBox | None, frame: Normalisation) -> Path:
    """Write the box; None removes the file. Raises OSError where that cannot be done."""
    path = folder / FILE
    if box is None:
        path.unlink(missing_ok=True)
        return path
    moved = CropBox(frame.undo_points(box.center), box.size / frame.scale, box.axes)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(as_values(moved), indent=1) + "\n", encoding="utf-8")
    return path


def load_crop(folder: Path, frame: Normalisation) -> CropBox | None:
    """The box that was saved, in the training frame; None: there is none, or the file holds no box."""
    try:
        content = json.loads(read_bounded(folder / FILE, LONGEST))
        box = crop_box(content)
    except (OSError, ValueError, RecursionError, OrderError):
        return None
    return CropBox(frame.apply_points(np.asarray(box.center)), box.size * frame.scale, box.axes)
