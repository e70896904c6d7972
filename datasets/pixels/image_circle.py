"""The circle that a fisheye's image is in, where its surround is black in all photos of a camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from .imagefile import decode_image, map_threads

FEWEST, MOST = 3, 8
"""Photos that are looked at: of fewer, what is black in all may be what they show."""
BLACK = 16
"""Of 255: what is not brighter in any channel is black; a surround is not quite after JPEG."""
_CORNER = 0.02  # of the shorter side
_LEAST_RADIUS = 0.35  # of the shorter side
_ROUND = 0.08  # of the radius: between which a half of all directions must agree
_DIRECTIONS = 180
_INWARDS = 0.985  # the rim of a lens is dark and blurred


def black_surround(paths: Sequence[Path], size: tuple[int, int], center: tuple[float, float]) -> np.ndarray | None:
    """bool [height, width] at `size` (width, height): what is inside the circle; None where none is seen.

    A circle is seen where three corners or more are black in all photos, and the black that hangs together with these
    begins equally far from `center` (the lens's principal point, in pixels of `size`) in most directions.
    """
    if len(paths) < FEWEST:
        return None
    brightest = np.max(map_threads(lambda path: _brightness(path, size), list(paths[:MOST])), axis=0)
    surround = _joined_to_corners(brightest <= BLACK)
    radius = None if surround is None else _radius(surround, center)
    return None if radius is None else _distances(size, center) <= _INWARDS * radius


def _brightness(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The brightest channel of each pixel, uint8 [height, width]."""
    pixels = decode_image(path)
    if pixels.shape[1::-1] != size:
        pixels = np.asarray(Image.fromarray(pixels[..., :3]).resize(size, Image.Resampling.BOX))
    return pixels[..., :3].max(axis=-1)


def _joined_to_corners(black: np.ndarray) -> np.ndarray | None:
    """Of what is black, the parts that hang together with black corners; None where fewer than three are black."""
    side = max(1, round(_CORNER * min(black.shape)))
    corners = [
        (rows, columns) for rows in (slice(side), slice(-side, None)) for columns in (slice(side), slice(-side, None))
    ]
    dark = [corner for corner in corners if black[corner].all()]
    if len(dark) < 3:
        return None
    parts, _ = ndimage.label(black)
    return np.isin(parts, [parts[corner].flat[0] for corner in dark])


def _radius(surround: np.ndarray, center: tuple[float, float]) -> float | None:
    """Where it begins, in the middle of all directions in which there is some; None for what is not round."""
    height, width = surround.shape
    distances = _distances((width, height), center)[surround]
    rows, columns = np.nonzero(surround)
    angles = np.arctan2(rows + 0.5 - center[1], columns + 0.5 - center[0])
    direction = ((angles / (2.0 * np.pi) + 0.5) * _DIRECTIONS).astype(int) % _DIRECTIONS
    begins = np.full(_DIRECTIONS, np.inf)
    np.minimum.at(begins, direction, distances)
    low, middle, high = np.quantile(begins[np.isfinite(begins)], (0.25, 0.5, 0.75))
    is_circle = middle >= _LEAST_RADIUS * min(width, height) and high - low <= _ROUND * middle
    return float(middle) if is_circle else None


def _distances(size: tuple[int, int], center: tuple[float, float]) -> np.ndarray:
    """[height, width] of pixel centres from the centre."""
    across, down = (np.arange(side) + 0.5 - middle for side, middle in zip(size, center, strict=True))
    return np.hypot(across, down[:, None])
