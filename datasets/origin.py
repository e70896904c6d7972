"""Scenes far from the origin of their coordinates, as georeferenced ones are: when 32-bit numbers are too coarse there,
and which round offset brings them near it.

UTM northings are some 5 million metres, positions relative to the centre of the earth 6 million; a float32 there is a
multiple of half a metre. Everything is float64 until the offset is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .scene import Normalisation, Scene, View

_MANTISSA_BITS = 23
_FOCAL_PIXELS = 4096.0  # of the sharpest lens that counts for every scene, so that the image size decides nothing
_PIXEL_SHARE = 1.0 / 16.0
_SMALL_SCENE = 1.0 / 64.0


def scene_origin(scene: Scene, *, always: bool = False) -> np.ndarray:
    """The offset to take off the positions of a scene before they become float32: float64 [3], in the world frame.

    Zeros where float32 is fine enough without: `needs_origin`, for the median camera. `always`: not even then.
    """
    views = (*scene.train, *scene.test)
    centre = scene.normalisation.undo_points(np.median([view.center for view in views], axis=0))
    extent = scene.extent / scene.normalisation.scale
    wanted = always or needs_origin(centre, extent, _longest_lens(views))
    return round_origin(centre, extent) if wanted else np.zeros(3)


def needs_origin(centre: np.ndarray, extent: float, focal: float = 0.0) -> bool:
    """Whether float32 positions about `centre` are too coarse for what is seen there.

    They are where neighbouring float32 numbers lie farther apart than a sixteenth of a pixel, one scene extent away
    from a camera with a focal length of 4096 pixels (or `focal`, if it is longer): 1/65536 of the extent. So it is
    where the origin is 128 extents away, or a little farther (up to 256).

    Args:
        centre: [3], world frame.
        extent: of the scene, in world units.
        focal: the longest focal length of the scene, in pixels of the images as trained.
    """
    farthest = float(np.abs(centre).max())
    spacing = 2.0 ** (math.frexp(farthest)[1] - 1 - _MANTISSA_BITS) if math.isfinite(farthest) else math.inf
    return farthest > 0.0 and spacing > _PIXEL_SHARE * extent / max(_FOCAL_PIXELS, focal)


def round_origin(centre: np.ndarray, extent: float) -> np.ndarray:
    """The round numbers [3] nearest to `centre`, which float64 and decimal notation both hold exactly.

    Multiples of the power of ten just below the extent: of 100 for 500 units. Whole units for smaller scenes; only for
    those below 1/64 of a unit, such as small scenes in kilometres, a power of two below that.
    """
    if extent >= 1.0:
        step = 10.0 ** math.floor(math.log10(extent))
    elif extent >= _SMALL_SCENE:
        step = 1.0
    else:
        step = 2.0 ** math.floor(math.log2(extent))
    return np.round(np.asarray(centre, dtype=np.float64) / step) * step + 0.0  # + 0.0: no -0.0


def near_origin(scene: Scene) -> Scene:
    """A scene whose world frame is its training frame, shifted by `scene_origin`; itself where float32 does without."""
    origin = scene_origin(scene)
    if not origin.any():
        return scene
    shift = Normalisation(origin, 1.0)

    def moved(views: Sequence[View]) -> tuple[View, ...]:
        return tuple(replace(view, viewmat=shift.apply_viewmat(view.viewmat)) for view in views)

    return replace(
        scene,
        train=moved(scene.train),
        test=moved(scene.test),
        points=scene.points and replace(scene.points, positions=shift.apply_points(scene.points.positions)),
        normalisation=shift,
        bounds=scene.bounds and (shift.apply_points(scene.bounds[0]), shift.apply_points(scene.bounds[1])),
    )


def _longest_lens(views: Sequence[View]) -> float:
    return max(float(max(view.K[0, 0], view.K[1, 1])) for view in views)
