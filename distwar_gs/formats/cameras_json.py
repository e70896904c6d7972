"""cameras.json, as the 3DGS reference writes it (utils/camera_utils.py, camera_to_JSON) and its viewers read it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distwar_gs.system.files import replacing

if TYPE_CHECKING:
    from distwar_datasets.scene import Normalisation, View


def save_cameras_json(
    path: str | os.PathLike[str], views: Sequence[View], normalisation: Normalisation, origin: np.ndarray | None = None
) -> None:
    """Write the cameras as the 3DGS viewers read them, atomically, in the frame of the run's PLYs.

    A list with, for each view: id, img_name, width, height, position (camera centre), rotation (camera-to-world, rows),
    fy, fx in pixels, and beyond the reference's layout cx, cy (pixel centres at +0.5) and, if the positions are
    relative to one, origin (added to a position it gives the frame of the input); of a photo that no pinhole took also
    lens and lens_numbers (distwar_kernels/cameras.py), whose scale in the middle fx and fy are.
    """
    frame = normalisation if origin is None else normalisation.about(origin)
    told = {} if origin is None or not origin.any() else {"origin": origin.tolist()}
    entries = [_camera_entry(index, view, frame) | told for index, view in enumerate(views)]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _camera_entry(index: int, view: View, normalisation: Normalisation) -> dict[str, Any]:
    to_world = np.linalg.inv(normalisation.undo_viewmat(view.viewmat))
    lens = {"lens": view.lens.model, "lens_numbers": list(view.lens.numbers)} if view.lens else {}
    return {
        "id": index,
        "img_name": view.name,
        "width": view.width,
        "height": view.height,
        "position": to_world[:3, 3].tolist(),
        "rotation": to_world[:3, :3].tolist(),
        "fy": float(view.K[1, 1]),
        "fx": float(view.K[0, 0]),
        "cx": float(view.K[0, 2]),
        "cy": float(view.K[1, 2]),
    } | lens
