"""Files on disk -> one Scene value. Pixels come later, from `datasets.images.ImageStore` (the only part with torch)."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from .colmap import MODEL_PLACES, OTHER_PLACES, find_model, read_colmap, scene_of
from .errors import DataError
from .name_lists import NameLists, given_lists, lists_of_transforms
from .origin import near_origin, needs_origin, round_origin, scene_origin
from .pairing import as_written
from .prepare import ImageOptions
from .scene import TEST_EVERY, Mask, Normalisation, PointCloud, RawScene, Scene, View, build_scene
from .splits import NO_LIST, Split, chosen_split, named_split
from .transforms import HELD_FILES, SHARED_FILE, TRAIN_FILE, read_transforms

__all__ = [
    "DataError",
    "Mask",
    "Normalisation",
    "PointCloud",
    "Scene",
    "View",
    "load_scene",
    "near_origin",
    "needs_origin",
    "round_origin",
    "scene_origin",
]

logger = logging.getLogger(__name__)


def load_scene(
    source_path: str | os.PathLike[str],
    *,
    images: str = "images",
    resolution: int = -1,
    masks: str | None = "masks",
    invert_masks: bool = False,
    alpha: str = "background",
    test_every: int = TEST_EVERY,
    test_list: str | os.PathLike[str] | None = None,
    hold_out: bool = True,
    normalise: bool = True,
) -> Scene:
    """Read the dataset at `source_path`; image headers only, no pixels.

    source_path: a folder with a COLMAP model, `transforms_train.json` or `transforms.json`; or a transforms file, to
        choose it where a folder has a COLMAP model too; or the folder of a scene's COLMAP model (scene/sparse/1).
    images: folder of a COLMAP dataset's images.
    resolution: 1 to 16 divide the size (a folder `images_N` is used when its images are copies of them); a larger
        number is the width in pixels; -1 keeps the size but brings images wider than 1600 pixels to 1600.
    masks: folder of masks, used when it is there, else masks beside the images (`datasets.masks.with_masks`); black is
        ignored. Masks that a transforms file names come first; None: no masks.
    invert_masks: white is ignored instead.
    alpha: what transparency means: "background" shows through it, or a "mask" ignores it, beside other masks.
    test_every: every n-th image by name is a test view, starting with the first (0: none); ignored where the dataset
        or `test_list` says which views are for testing (datasets.splits).
    test_list: file with the names of the test images, one a line; it comes before all that the dataset says. "none":
        no list, nor what the dataset says. None: the dataset's own, if it has any.
    hold_out: False trains on all images, those of lists included, but not on images that the dataset has for testing
        only (transforms_test.json, test_frames).
    normalise: shift the mean camera to the origin and scale the camera extent to 1; recorded on the Scene.
    Raises DataError, whose message names the file and the remedy.
    """
    source = as_written(Path(), _at_home(source_path))
    if test_every < 0:
        raise DataError(f"test_every {test_every}: use a positive number, or 0 to hold out nothing")
    options = ImageOptions(images=images, resolution=resolution, masks=masks, invert_masks=invert_masks, alpha=alpha)
    folder, place = _find_cameras(source, options)
    _say_which_cameras(folder, place)
    raw = read_transforms(place, options) if place.is_file() else read_colmap(folder, place, options)
    if str(test_list) == NO_LIST:
        raw = replace(raw, test_views=None, lists=())
    split = None
    if hold_out and str(test_list) != NO_LIST:
        split = _split(folder, place, raw, Path(_at_home(test_list)) if test_list else None)
    elif test_list and not hold_out:
        logger.info("%s is not used: no image is held out", test_list)
    return build_scene(folder, raw, test_every=test_every, hold_out=hold_out, normalise=normalise, split=split)


def _at_home(path: str | os.PathLike[str]) -> str:
    """A path whose ~ is the user's home, where there is one; pathlib raises an error where there is none."""
    return os.path.expanduser(os.fspath(path))


def _find_cameras(source: Path, options: ImageOptions) -> tuple[Path, Path]:
    """The folder of the scene, and the transforms file or the folder of the COLMAP model that has its cameras.

    Raises DataError where there are none.
    """
    if source.suffix == ".json" and source.is_file():
        return source.parent, source
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give the folder that holds the dataset with -s/--source_path")
    if (source / TRAIN_FILE).is_file():
        return source, source / TRAIN_FILE
    shared = (source / SHARED_FILE).is_file()
    model = find_model(source) or (None if shared else find_model(source, OTHER_PLACES))
    if model:
        return scene_of(source, model, options)
    if shared:
        return source, source / SHARED_FILE
    there = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
    raise DataError(
        f"{source}: no dataset found; looked for {TRAIN_FILE}, {SHARED_FILE} and for a COLMAP model (images.bin or "
        f"images.txt) in {', '.join((*MODEL_PLACES, *OTHER_PLACES[:-1]))}, and in it; the folder holds {there}"
    )


def _say_which_cameras(folder: Path, place: Path) -> None:
    """Of a COLMAP model and a transforms.json in one folder, which was taken, and what of the other is used."""
    model, transforms = find_model(folder), folder / SHARED_FILE
    rest = "of the other, only what it says about which images are for testing is used"
    if place.is_file() and model:
        logger.info("%s: cameras are those of %s, not of the COLMAP model %s; %s", folder, place.name,
                    model.relative_to(folder), rest)  # fmt: skip
    elif place.is_dir() and transforms.is_file():
        logger.info("%s: cameras are those of the COLMAP model %s, not of %s (-s %s takes these); %s", folder,
                    place.relative_to(folder), transforms.name, transforms, rest)  # fmt: skip


def _split(folder: Path, place: Path, raw: RawScene, test_list: Path | None) -> Split | None:
    """Which views are for what by the list of the user, else by those of the dataset, whichever file names them.

    place: where the cameras came from, a model's folder or a transforms file.
    """
    names = [view.name for view in (*raw.views, *(raw.test_views or ()))]
    if test_list:
        return named_split(test_list, folder, names)
    if raw.test_views is not None and not raw.lists:
        return None
    lists: dict[Path, NameLists] = {}
    for found in (*raw.lists, *given_lists(folder, place), *_lists_of_others(folder, place)):
        lists.setdefault(found.path, found)
    return chosen_split(list(lists.values()), names)


def _lists_of_others(folder: Path, place: Path) -> list[NameLists]:
    """The lists of cameras that lie there too and are not used."""
    if place.is_file():
        model = find_model(folder)
        return given_lists(folder, model) if model else []
    try:
        lists = lists_of_transforms([folder / name for name in (SHARED_FILE, *HELD_FILES)])
    except DataError as error:
        logger.warning("%s; it is not used", error)
        return []
    return [lists] if lists else []
