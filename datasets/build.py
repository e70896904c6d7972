"""From what a reader found to a Scene: which views are for what, and everything in the training frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import DataError
from .extent import camera_extent, distances_from_middle, stray_cameras, view_depths
from .name_lists import NameLists
from .scene import Normalisation, PointCloud, Scene, View
from .splits import NO_LIST, Split

logger = logging.getLogger(__name__)

TEST_EVERY = 8
"""Every which image is held out unless someone says otherwise."""


@dataclass(frozen=True, eq=False)
class RawScene:
    """What a reader found, in the world frame, before splitting and normalising."""

    kind: str
    views: tuple[View, ...]
    image_source: str
    test_views: tuple[View, ...] | None = None
    """Further views that are for testing only; then no view of `views` is held out."""
    test_rule: str = ""
    """Where `test_views` come from, for the metrics' protocol."""
    lists: tuple[NameLists, ...] = ()
    """What the cameras' own file says of which of `views` are for testing."""
    points: PointCloud | None = None
    bounds: tuple[np.ndarray, np.ndarray] | None = None


def split_views(
    views: Sequence[View], test_every: int, hold_out: bool
) -> tuple[tuple[View, ...], tuple[View, ...], str]:
    """Train views, test views and the rule in words; sorted by name, every `test_every`-th is held out.

    The first view is a test view, as in Mip-NeRF 360 and 3DGS (scene/dataset_readers.py, llffhold).
    """
    ordered = tuple(sorted(views, key=lambda view: view.name))
    if not hold_out or test_every == 0:
        return ordered, (), "none"
    test = ordered[::test_every]
    train = tuple(view for index, view in enumerate(ordered) if index % test_every)
    return train, test, f"every {_ordinal(test_every)} image by name held out"


def build_scene(
    source: Path, raw: RawScene, *, test_every: int, hold_out: bool, normalise: bool, split: Split | None = None
) -> Scene:
    """Split `raw` into train and test views and move everything into the training frame.

    split: which views are for what, where a list says so; it comes before `test_every` and the test views of `raw`.
    Raises DataError when no train view would be left.
    """
    train, test, rule = _split(raw, test_every, hold_out, split)
    if not train:
        raise DataError(
            f"{source}: {len(raw.views)} image(s), all held out for testing ({rule}); train on all with --no_eval, "
            f"hold out fewer with a larger --test_every, or give another list with --test_list ({NO_LIST}: no list)"
        )
    depths = view_depths(train + test, raw.points)
    stray = stray_cameras(train + test, depths)
    _name_strays(source, train + test, stray)
    near_depths = depths[~stray & np.isfinite(depths[:, 0]), 0]
    extent = camera_extent(_where(train, ~stray[: len(train)]) or train)
    frame = _normalisation(_where(train + test, ~stray), extent) if normalise else Normalisation.identity()
    return Scene(
        source=source,
        kind=raw.kind,
        train=_transform_views(train, frame),
        test=_transform_views(test, frame),
        points=raw.points and replace(raw.points, positions=frame.apply_points(raw.points.positions)),
        normalisation=frame,
        extent=1.0 if normalise else extent,
        image_source=raw.image_source,
        split_rule=rule,
        bounds=raw.bounds and (frame.apply_points(raw.bounds[0]), frame.apply_points(raw.bounds[1])),
        nearest=float(near_depths.min()) * frame.scale if len(near_depths) else None,
    )


def _split(
    raw: RawScene, test_every: int, hold_out: bool, split: Split | None
) -> tuple[tuple[View, ...], tuple[View, ...], str]:
    if not hold_out or (raw.test_views is None and split is None):
        return split_views(raw.views, test_every, hold_out)
    everything = (*raw.views, *(raw.test_views or ()))
    if split:
        train = tuple(view for view in everything if view.name in split.train)
        test, rule = tuple(view for view in everything if view.name in split.test), split.rule
    else:
        train, test, rule = raw.views, raw.test_views or (), raw.test_rule
    if test_every not in (0, TEST_EVERY):
        logger.warning(
            "test_every %d has no effect, since it is given which images are for testing (%s); --test_list %s holds "
            "out every %s image instead", test_every, rule, NO_LIST, _ordinal(test_every),
        )  # fmt: skip
    return split_views(train, 0, False)[0], split_views(test, 0, False)[0], rule


def _where(views: Sequence[View], chosen: np.ndarray) -> list[View]:
    return [view for view, wanted in zip(views, chosen, strict=True) if wanted]


def _name_strays(source: Path, views: Sequence[View], stray: np.ndarray) -> None:
    if not stray.any():
        return
    distances = distances_from_middle(views)
    times = distances / np.median(distances[~stray]).clip(1e-12)
    shown = [f"{views[i].name} ({times[i]:.0f} times as far)" for i in np.flatnonzero(stray)[:5]]
    logger.warning(
        "%s: far from all other cameras (%d of %d): %s%s. The size of the scene is taken from the others; if these are "
        "misplaced, take their images out of the dataset",
        source, stray.sum(), len(views), ", ".join(shown), ", ..." if stray.sum() > len(shown) else "",
    )  # fmt: skip


def _normalisation(views: Sequence[View], extent: float) -> Normalisation:
    return Normalisation(np.mean([view.center for view in views], axis=0), 1.0 / extent)


def _transform_views(views: Sequence[View], frame: Normalisation) -> tuple[View, ...]:
    return tuple(replace(view, viewmat=frame.apply_viewmat(view.viewmat)) for view in views)


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
