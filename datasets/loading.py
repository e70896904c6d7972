"""A folder, or a file of cameras, to a Scene: which of its files tell the cameras, and which views are for testing."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from .build import TEST_EVERY, RawScene, build_scene
from .errors import DataError
from .name_lists import NameLists, given_lists
from .names import as_written
from .pixels.prepare import ImageOptions
from .readers.kinds import Cameras, find_cameras, lists_of_others, others_beside
from .scene import Scene
from .splits import NO_LIST, Split, chosen_split, named_split

logger = logging.getLogger(__name__)


def load_scene(
    source_path: str | os.PathLike[str],
    *,
    images: str = "images",
    resolution: int = -1,
    masks: str | None = "masks",
    invert_masks: bool = False,
    alpha: str = "background",
    undistort: str = "auto",
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
    masks: folder of masks, used when it is there, else masks beside the images (`pixels.masks.with_masks`);
        black is ignored. Masks that a transforms file names come first; None: no masks.
    invert_masks: white is ignored instead.
    alpha: what transparency means: "background" shows through it, or a "mask" ignores it, beside other masks.
    undistort: photos of lenses that are no pinholes: "auto" leaves them as they are where the renderer can draw them
        (`View.lens`), "always" resamples them to pinhole images, "never" refuses what cannot be drawn.
    test_every: every n-th image by name is a test view, starting with the first (0: none); ignored where the dataset
        or `test_list` says which views are for testing (`splits`).
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
    options = ImageOptions(images=images, resolution=resolution, masks=masks, invert_masks=invert_masks, alpha=alpha,
                           undistort=undistort)  # fmt: skip
    cameras = find_cameras(source, options)
    _say_which_cameras(cameras)
    folder = cameras.folder
    raw = cameras.reader.read(folder, cameras.place, options)
    if str(test_list) == NO_LIST:
        raw = replace(raw, test_views=None, lists=())
    split = None
    if hold_out and str(test_list) != NO_LIST:
        split = _split(cameras, raw, Path(_at_home(test_list)) if test_list else None)
    elif test_list and not hold_out:
        logger.info("%s is not used: no image is held out", test_list)
    return build_scene(folder, raw, test_every=test_every, hold_out=hold_out, normalise=normalise, split=split)


def _at_home(path: str | os.PathLike[str]) -> str:
    """A path whose ~ is the user's home, where there is one; pathlib raises an error where there is none."""
    return os.path.expanduser(os.fspath(path))


def _say_which_cameras(cameras: Cameras) -> None:
    """Where a folder has cameras of two kinds, which were taken, and what of the others is used."""
    folder, place = cameras.folder, cameras.place
    for reader, other in others_beside(cameras):
        instead = f" (-s {other} takes these)" if other.is_file() else ""
        logger.info(
            "%s: cameras are those of %s, not of %s%s; of the other, only what it says about which images are for "
            "testing is used", folder, cameras.reader.called(folder, place), reader.called(folder, other), instead,
        )  # fmt: skip


def _split(cameras: Cameras, raw: RawScene, test_list: Path | None) -> Split | None:
    """Which views are for what by the list of the user, else by those of the dataset, whichever file names them."""
    folder, place = cameras.folder, cameras.place
    names = [view.name for view in (*raw.views, *(raw.test_views or ()))]
    if test_list:
        return named_split(test_list, folder, names)
    if raw.test_views is not None and not raw.lists:
        return None
    lists: dict[Path, NameLists] = {}
    for found in (*raw.lists, *given_lists(folder, place), *lists_of_others(cameras)):
        lists.setdefault(found.path, found)
    return chosen_split(list(lists.values()), names)
