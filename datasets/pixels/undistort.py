"""Photographs of any camera -> views that the renderer draws: with the lens that took them, or resampled to pinhole
images, once, into a cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from ..errors import DataError
from ..lenses import Lens, lens_of
from ..names import unique_stems
from ..scene import Mask, View
from .cache import cached_folder, file_fingerprint
from .imagefile import decode_image, is_turned, map_threads, save_png
from .masks import decode_mask, save_mask
from .pairing import same_shape

logger = logging.getLogger(__name__)

IMAGE, MASK = ".png", ".mask.png"
"""How the names of a view's undistorted image and mask go on."""
UNDISTORT = ("auto", "always", "never")
"""Which photographs are resampled: those of lenses that the renderer cannot draw, all that are no pinholes', none."""
_LEAST_SEEN = 0.5
"""Of the places of an image, the share that rays must lead to for a lens that is drawn."""
MIN_FORWARD = 0.1
"""Smallest z of a unit ray at the image border (84 degrees off axis) for which a pinhole image is worth having."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A view with the COLMAP camera that took it, at the size of the image; `K` is nominal while it distorts."""

    view: View
    camera: pycolmap.Camera


def camera_at_size(camera: pycolmap.Camera, size: tuple[int, int], model: Path, image: Path) -> pycolmap.Camera:
    """A copy of the camera in pixels of `size` (width, height), the size of `image`; each axis has its own ratio.

    Raises DataError, naming the `model` file or folder, for a camera without a positive focal length, and for an image
    of another shape than the camera's.
    """
    finite = camera.width > 0 and camera.height > 0 and np.isfinite(camera.params).all()
    if not finite or (camera.is_perspective() and min(camera.focal_length_x, camera.focal_length_y) <= 0):
        raise DataError(f"{model}: camera {camera.camera_id} is not usable ({camera}); calibrate again")
    width, height = size
    if not same_shape((camera.width, camera.height), size):
        turned = "EXIF says it is turned: store its pixels upright, or " if is_turned(image) else ""
        raise DataError(
            f"{image}: is {width}x{height} but its camera {camera.camera_id} is {camera.width}x{camera.height}; "
            f"{turned}use the images that the cameras were calibrated on, not cropped and not rotated"
        )
    scaled = pycolmap.Camera(camera.todict())
    scaled.rescale(width, height)
    return scaled


def drawn_views(source: Path, label: str, shots: Sequence[Shot], model: Path, undistort: str) -> tuple[list[View], str]:
    """All views as they are trained on, in order, and a note on lenses and undistortion, or "".

    `label` names the image folder, `model` the file or folder of the cameras; undistort: one of UNDISTORT. Raises
    DataError for a camera that can neither be drawn nor undistorted, and when an image or the cache fails.
    """
    lenses = _lenses_of(shots, model, undistort)
    bent = [shot for shot in shots if lenses[id(shot.camera)] is not None]
    distorted = [shot for shot in shots if lenses[id(shot.camera)] is None and not is_pinhole(shot.camera)]
    notes = []
    if bent:
        notes.append(f"through {_models_of(bent)} lenses")
        logger.info("%d images are trained on through their %s lenses, as they are", len(bent), _models_of(bent))
    if distorted:
        notes.append(f"undistorted from {_models_of(distorted)}")
        logger.info(
            "%d images have %s distortion: training on undistorted copies", len(distorted), _models_of(distorted)
        )
    views = {id(shot): _through_lens(shot.view, lenses[id(shot.camera)]) for shot in shots}
    if distorted:
        views |= dict(zip(map(id, distorted), undistort_views(source, label, distorted), strict=True))
    return [views[id(shot)] for shot in shots], ", ".join(notes)


def _models_of(shots: Sequence[Shot]) -> str:
    return ", ".join(sorted({shot.camera.model_name for shot in shots}))


def _lenses_of(shots: Sequence[Shot], model: Path, undistort: str) -> dict[int, Lens | None]:
    """By the id of the camera, the lens to draw it through; None: a pinhole, or it is to be undistorted."""
    lenses: dict[int, Lens | None] = {}
    for camera in {id(shot.camera): shot.camera for shot in shots}.values():
        lens = None if undistort == "always" or is_pinhole(camera) else drawn_lens(camera)
        if lens is None and not is_pinhole(camera):
            _check_undistortion(camera, model, undistort)
        lenses[id(camera)] = lens
    return lenses


def _through_lens(view: View, lens: Lens | None) -> View:
    return view if lens is None else replace(view, lens=lens, K=lens.K)


def is_pinhole(camera: pycolmap.Camera) -> bool:
    """Whether the camera is a pinhole as it is, also by a distorting model whose coefficients are all zero."""
    # is_undistorted() is also true of an ideal fisheye, whose mapping is not a pinhole's.
    return camera.is_perspective_pinhole() and camera.is_undistorted()


def drawn_lens(camera: pycolmap.Camera) -> Lens | None:
    """The lens to draw a camera through that is no pinhole; None where the renderer has none, or rays lead to too few
    places of the image: coefficients that fit its middle only."""
    lens = lens_of(camera)
    if lens is None:
        return None
    across, down = ((np.arange(16) + 0.5) / 16 * side for side in (camera.width, camera.height))
    places = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
    return lens if np.isfinite(lens.rays(places)).all(axis=1).mean() >= _LEAST_SEEN else None


def _check_undistortion(camera: pycolmap.Camera, model: Path, undistort: str) -> None:
    """Raises DataError, naming `model`, for a camera that no pinhole image can replace, or may not."""
    where = f"{model}: camera {camera.camera_id} ({camera.model_name})"
    if undistort == "never":
        raise DataError(
            f"{where} has no lens that can be drawn; use data.undistort=auto to train on undistorted copies"
        )
    if camera.is_perspective() and _sees_forward(camera):
        return
    remedy = "crop its photos, or cut perspective views out of them, and run COLMAP on those"
    if undistort == "always" and drawn_lens(camera) is not None:
        remedy = "set data.undistort=auto to train on its photos as they are"
    raise DataError(
        f"{where} sees too wide an angle to become a pinhole image (or its distortion folds before the border);"
        f" {remedy}"
    )


def undistort_views(source: Path, label: str, shots: Sequence[Shot]) -> list[View]:
    """The views with pinhole cameras, their images undistorted into a cache (PNG, bilinear, no blank border).

    `label` names the image folder and is part of the cache key, with the camera parameters and every file's
    fingerprint. Names keep their order. Raises DataError when an image or the cache fails.
    """
    options = pycolmap.UndistortCameraOptions()
    cameras = [pycolmap.undistort_camera(options, shot.camera) for shot in shots]
    stems = unique_stems([shot.view.name for shot in shots], (IMAGE, MASK))
    files = list(zip(shots, stems, strict=True))

    def build(folder: Path) -> None:
        map_threads(lambda file: _undistort_file(options, file[0], folder / file[1]), files)

    sizes = {
        stem + suffix: (camera.width, camera.height)
        for (shot, stem), camera in zip(files, cameras, strict=True)
        for suffix in ((IMAGE, MASK) if shot.view.mask else (IMAGE,))
    }
    key = [label, [_key(shot, source, label) for shot in shots]]
    folder = cached_folder(source, f"undistorted-{label}", key, sizes, build)
    return [
        _pinhole_view(shot.view, camera, folder / stem) for (shot, stem), camera in zip(files, cameras, strict=True)
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


def _key(shot: Shot, source: Path, label: str) -> list:
    camera, view = shot.camera, shot.view
    params = [float(value) for value in camera.params]
    places = [view.name, f"{label}/{view.name}"]
    image = file_fingerprint(view.image_path, source, *places)
    places += [f"masks/{view.name}", f"masks/{view.name}.png"]
    mask = _mask_key(view.mask, source, places) if view.mask else []
    return [view.name, camera.model_name, camera.width, camera.height, params, *image, mask]


def _mask_key(mask: Mask, source: Path, usual: Sequence[str]) -> list:
    key = [*file_fingerprint(mask.path, source, *usual), mask.inverted]
    return [*key, "alpha", _mask_key(mask.also, source, usual) if mask.also else []] if mask.is_alpha else key


def _undistort_file(options: pycolmap.UndistortCameraOptions, shot: Shot, stem: Path) -> None:
    view, pixels = shot.view, decode_image(shot.view.image_path)
    planes = [_undistort_pixels(options, pixels[..., :3], shot.camera)]
    if pixels.shape[-1] == 4:
        planes.append(_undistort_pixels(options, pixels[..., 3], shot.camera)[..., None])
    if view.mask:
        kept = decode_mask(view.mask, (view.width, view.height)).astype(np.uint8) * 255
        # A pixel blended from ignored ones is ignored.
        kept = _undistort_pixels(options, kept, shot.camera) == 255
        save_mask(_file(stem, MASK), kept)
        if view.alpha_is_mask:  # nor is it to be seen in others when the copy is resized, which alpha weights
            planes[1] = kept[..., None].astype(np.uint8) * 255
    save_png(_file(stem, IMAGE), np.concatenate(planes, axis=-1))


def _undistort_pixels(
    options: pycolmap.UndistortCameraOptions, pixels: np.ndarray, camera: pycolmap.Camera
) -> np.ndarray:
    bitmap = pycolmap.Bitmap.from_array(np.ascontiguousarray(pixels))
    return pycolmap.undistort_image(options, bitmap, camera)[0].to_array()


def _pinhole_view(view: View, camera: pycolmap.Camera, stem: Path) -> View:
    return replace(
        view, image_path=_file(stem, IMAGE), width=camera.width, height=camera.height,
        K=camera.calibration_matrix(), mask=view.mask and Mask(_file(stem, MASK)),
    )  # fmt: skip


def _file(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
