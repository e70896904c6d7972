"""Every photograph once, under a name of its own: whatever is keyed by a view's name is its alone."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .errors import DataError, printable
from .names import fold, unique_name
from .undistort import Shot

logger = logging.getLogger(__name__)

_SAME = 1e-3  # of a rotation's entries, of the cameras' spread, of intrinsics: what rounding in files changes


def without_repeats(shots: Sequence[Shot], model: Path) -> list[Shot]:
    """The shots, in order, less those of a file that came before with the same pose and camera, with a warning.

    Trainers that keep both see this photograph twice as often as others. Raises DataError, naming the file `model`
    that lists them, where one photograph has two poses, cameras or masks: one of the two is wrong.
    """
    first: dict[str, Shot] = {}
    spread = _spread(shots)
    kept, repeated = [], []
    for shot in shots:
        key = _file_key(shot.view.image_path)
        if key not in first:
            first[key] = shot
            kept.append(shot)
        else:
            _check_equal(first[key], shot, spread, model)
            repeated.append(shot.view.name)
    if repeated:
        shown = printable(", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else ""))
        logger.warning("%s: %d images are listed more than once and are taken once: %s", model, len(repeated), shown)
    return kept


def with_unique_names(shots: Sequence[Shot]) -> list[Shot]:
    """The shots, in order, with numbers added to the names that several photographs have.

    Only a photograph that is both for training and for testing has one name for both views.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    for shot in shots:
        owners[shot.view.name].append(_file_key(shot.view.image_path))
    names: dict[tuple[str, str], str] = {}
    taken = set(owners)
    for name, files in owners.items():
        for file in dict.fromkeys(files[:1] + files):
            names[name, file] = name if file == files[0] else unique_name(name, taken)
            taken.add(names[name, file])
    renamed = {new: name for (name, _), new in names.items() if new != name}
    for new, name in list(renamed.items())[:5]:
        logger.warning("several images are called %s; one of them is %s from here on", printable(name), printable(new))
    keys = [(shot.view.name, _file_key(shot.view.image_path)) for shot in shots]
    return [replace(shot, view=replace(shot.view, name=names[key])) for shot, key in zip(shots, keys, strict=True)]


def _file_key(path: Path) -> str:
    """What is equal for two paths to one file (links to it are other files): on disks that ignore case, its spelling
    is not part of it."""
    normal = os.path.normpath(path)
    folded = os.path.join(os.path.dirname(normal), fold(os.path.basename(normal)))
    same = folded != normal and os.path.exists(folded) and os.path.samefile(folded, normal)
    return folded if same else normal


def _spread(shots: Sequence[Shot]) -> float:
    """The greatest distance of a camera from the mean of all, in the units of the scene."""
    centers = np.stack([shot.view.center for shot in shots]) if shots else np.zeros((1, 3))
    return float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max())


def _check_equal(one: Shot, other: Shot, spread: float, model: Path) -> None:
    """Raise DataError unless both shots of a photograph say the same of it."""
    a, b = one.view, other.view
    turned = np.abs(a.viewmat[:3, :3] - b.viewmat[:3, :3]).max() > _SAME
    moved = np.linalg.norm(a.center - b.center) > _SAME * spread + 1e-9 * np.linalg.norm(a.center)
    lens = (one.camera.model_name, one.camera.width, one.camera.height)
    same_lens = lens == (other.camera.model_name, other.camera.width, other.camera.height)
    same_lens = same_lens and np.allclose(one.camera.params, other.camera.params, rtol=_SAME, atol=_SAME)
    what = "poses" if turned or moved else "cameras" if not same_lens else "masks" if a.mask != b.mask else ""
    if what:
        twice = f"{a.name} is listed twice" if a.name == b.name else f"{a.name} and {b.name} are one photograph"
        raise DataError(f"{model}: {twice} ({a.image_path}), with two {what}; take the wrong one out")
