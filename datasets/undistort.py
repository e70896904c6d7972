"""Photographs of distorting cameras resampled, once, to what a pinhole camera would have seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from .cache import cached_folder, file_fingerprint
from .errors import DataError
from .imagefile import decode_image, map_threads, save_png
from .scene import View

MIN_FORWARD = 0.1
"""Smallest z of a unit ray at the image border (84 degrees off axis) for which a pinhole image is worth having."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A view with the COLMAP camera that took it, at the size of the image; `K` is nominal while it distorts."""

    view: View
    camera: pycolmap.Camera


def is_distorted(camera: pycolmap.Camera, model: Path) -> bool:
    """False when the camera is a pinhole as it is (also a distorting model whose coefficients are all zero).

    Raises DataError, naming the `model` folder, for a camera that no pinhole image can replace: a panorama, or a
    fisheye lens too wide.
    """
    if camera.is_perspective_pinhole():
        return not camera.is_undistorted()
    # is_undistorted() is also true of an ideal fisheye, whose mapping is not a pinhole's.
    if camera.is_perspective_fisheye() and _sees_forward(camera):
        return True
    raise DataError(
        f"{model}: camera {camera.camera_id} ({camera.model_name}) sees too wide an angle to become a pinhole image; "
        "cut perspective views out of its photos, or crop them, and run COLMAP on those"
    )


def undistort_views(source: Path, label: str, shots: Sequence[Shot]) -> list[View]:
    """The views with pinhole cameras, their images undistorted into a cache (PNG, bilinear, no blank border).

    `label` names the image folder and is part of the cache key, with the camera parameters and every file's
    fingerprint. Names keep their order. Raises DataError when an image or the cache fails.
    """
    options = pycolmap.UndistortCameraOptions()
    cameras = [pycolmap.undistort_camera(options, shot.camera) for shot in shots]
    names = [f"{shot.view.name}.png" for shot in shots]

    def build(folder: Path) -> None:
        map_threads(lambda job: _undistort_file(options, job[0], folder / job[1]), list(zip(shots, names, strict=True)))

    sizes = {name: (camera.width, camera.height) for name, camera in zip(names, cameras, strict=True)}
    folder = cached_folder(source, f"undistorted-{label}", [label, [_key(shot) for shot in shots]], sizes, build)
    return [
        _pinhole_view(shot.view, camera, folder / name)
        for shot, camera, name in zip(shots, cameras, names, strict=True)
    ]


def _sees_forward(camera: pycolmap.Camera) -> bool:
    """Whether the middle of each side and each corner of the image look forward, and are projected back there.

    Past its limit a fisheye model unprojects to a wrong ray without an error; the way back tells.
    """
    width, height = camera.width, camera.height
    border = [(x, y) for x in (0.0, width / 2, width) for y in (0.0, height / 2, height)]
    for pixel in np.array(border):
        ray = camera.cam_ray_from_img(pixel)
        if ray is None or ray[2] < MIN_FORWARD:
            return False
        back = camera.img_from_cam(ray)
        if back is None or np.abs(back - pixel).max() > 1.0:
            return False
    return True


def _key(shot: Shot) -> list:
    camera = shot.camera
    params = [float(value) for value in camera.params]
    fingerprint = file_fingerprint(shot.view.image_path)
    return [shot.view.name, camera.model_name, camera.width, camera.height, params, *fingerprint]


def _undistort_file(options: pycolmap.UndistortCameraOptions, shot: Shot, target: Path) -> None:
    pixels = decode_image(shot.view.image_path)
    planes = [_undistort_pixels(options, pixels[..., :3], shot.camera)]
    if pixels.shape[-1] == 4:
        planes.append(_undistort_pixels(options, pixels[..., 3], shot.camera)[..., None])
    save_png(target, np.concatenate(planes, axis=-1))


def _undistort_pixels(
    options: pycolmap.UndistortCameraOptions, pixels: np.ndarray, camera: pycolmap.Camera
) -> np.ndarray:
    bitmap = pycolmap.Bitmap.from_array(np.ascontiguousarray(pixels))
    return pycolmap.undistort_image(options, bitmap, camera)[0].to_array()


def _pinhole_view(view: View, camera: pycolmap.Camera, path: Path) -> View:
    return replace(view, image_path=path, width=camera.width, height=camera.height, K=camera.calibration_matrix())
