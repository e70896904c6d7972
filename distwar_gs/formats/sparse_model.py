"""Cameras as a text model of COLMAP, which most programs of photogrammetry read: for poses that were refined."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pycolmap

    from distwar_datasets.scene import Normalisation, PointCloud, View

FILES = ("cameras.txt", "images.txt", "points3D.txt", "rigs.txt", "frames.txt")


def save_colmap_text(
    folder: Path, views: Sequence[View], points: PointCloud | None, normalisation: Normalisation
) -> None:
    """Writes cameras.txt, images.txt and points3D.txt into a folder, in the frame of the input, in the views' order.

    Cameras are those of the photos as they were trained with: as small, and undistorted where they were. Points have no
    tracks. Each file is whole when it appears under its name; newer COLMAPs' rigs.txt and frames.txt lie beside them.
    """
    model = _model_of(views, points, normalisation)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
        model.write_text(scratch)
        for name in FILES:
            if (made := Path(scratch) / name).is_file():
                shutil.move(made, folder / name)


def _model_of(
    views: Sequence[View], points: PointCloud | None, normalisation: Normalisation
) -> pycolmap.Reconstruction:
    import pycolmap

    model, cameras = pycolmap.Reconstruction(), dict[tuple, int]()
    for index, view in enumerate(views):
        key = (view.camera_id, view.width, view.height, view.K.tobytes(), view.lens)
        if key not in cameras:
            cameras[key] = len(cameras) + 1
            model.add_camera_with_trivial_rig(_camera_of(cameras[key], view))
        image = pycolmap.Image(name=view.name, camera_id=cameras[key], image_id=index + 1)
        pose = normalisation.undo_viewmat(view.viewmat)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
    if points is not None:
        for position, color in zip(normalisation.undo_points(points.positions), points.colors, strict=True):
            model.add_point3D(position, pycolmap.Track(), np.asarray(color, np.uint8))
    return model


def _camera_of(camera_id: int, view: View) -> pycolmap.Camera:
    import pycolmap

    from distwar_datasets.lenses import colmap_model

    model, params = "PINHOLE", [view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]]
    if view.lens is not None:
        model, params = colmap_model(view.lens)
    size = {"width": view.width, "height": view.height}
    return pycolmap.Camera(camera_id=camera_id, model=model, params=params, **size)
