"""Mapping: poses and points, one photo after the other or all at once, made again when the result is doubtful."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from distwar_datasets.errors import DataError
from distwar_gs.capture.features import staged_photos
from distwar_gs.capture.global_mapping import map_globally
from distwar_gs.capture.intrinsics import START
from distwar_gs.capture.model_agreement import Pair, judged_pairs
from distwar_gs.capture.work import AUTO, Work

ATTEMPTS = 3
"""At cameras that do not contradict the matches."""
MOST_CONTRADICTED = 0.01
"""Share of the pairs of photos; more means that a group of photos is at the wrong place."""
OTHER_STARTS = ("OPENCV", "OPENCV_FISHEYE")
"""Lens models to begin with where START places fewer than half of the photos."""

USUAL_FOCAL_LENGTH, USUAL_FISHEYE_FOCAL_LENGTH = 1.2, 0.45
"""In units of the longer side; 1.2: COLMAP's guess, 0.45: 127 degrees across."""


@dataclass(frozen=True)
class Mapped:
    """What one attempt has made: its largest model."""

    folder: Path
    parts: int
    """Models that the photos fell into."""
    images: int
    pairs: int
    """That were judged (model_agreement.py)."""
    contradicted: list[Pair]

    @property
    def wrong(self) -> bool:
        """Whether some photos seem to be at the wrong place."""
        return len(self.contradicted) > MOST_CONTRADICTED * self.pairs

    @property
    def rank(self) -> tuple[int, int]:
        """More photos are better, then fewer contradictions."""
        return self.images, -len(self.contradicted)


def find_cameras(work: Work) -> None:
    """Poses and points of as many photos as can be placed; starts over when interrupted. DataError if there are none.

    With the lens model left open, mapping begins with START; where that places fewer than half of the photos, with
    models of more parameters.
    """
    shutil.rmtree(work.folder / "models", ignore_errors=True)
    photos = len(staged_photos(work))
    starts = [START, *OTHER_STARTS] if work.settings.camera == AUTO else [work.settings.camera]
    best, used = None, starts[0]
    for start in starts:
        set_lens(work, start)
        found = consistent_model(work, work.folder / "models" / start)
        if found and (best is None or found.rank > best.rank):
            best, used = found, start
        if best and best.images >= photos / 2:
            break
    if not best:
        raise DataError(
            f"{work.settings.photos}: no two photos could be placed relative to each other; take more of them, with "
            "more overlap and texture, sharp, from different places (not turning on the spot)"
        )
    shutil.rmtree(work.model, ignore_errors=True)
    best.folder.rename(work.model)
    work.notes |= {
        "parts": best.parts, "pairs": best.pairs, "contradicted_pairs": len(best.contradicted), "start": used,
        "starts_tried": starts[: starts.index(start) + 1],
    }  # fmt: skip


def consistent_model(work: Work, folder: Path) -> Mapped | None:
    """A model that its own matches contradict is made again, beginning with the pair of photos that contradicts it
    most; the better one is kept.
    """
    best: Mapped | None = None
    tried: list[tuple[int, int] | None] = [None]
    while True:
        found = mapped(work, folder / str(len(tried)), tried[-1])
        best = max(filter(None, (best, found)), key=lambda model: model.rank, default=None)
        if work.settings.mapper == "global":  # which has no first pair
            return best
        beginnings = [pair for pair in best.contradicted if pair.image_ids not in tried] if best and best.wrong else []
        if not best or not beginnings or len(tried) == ATTEMPTS:
            return best
        work.say(f"{len(best.contradicted)} of {best.pairs} pairs of photos contradict the model: another try")
        tried.append(max(beginnings, key=lambda pair: pair.matches).image_ids)


def mapped(work: Work, folder: Path, first: tuple[int, int] | None) -> Mapped | None:
    """One attempt at mapping; an incremental one from COLMAP's own choice of a first pair, or from the given one."""
    folder.mkdir(parents=True)
    if work.settings.mapper == "global":
        map_globally(work, folder)
    else:
        _map_incrementally(work, folder, first)
    models = {path: pycolmap.Reconstruction(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if not models:
        return None
    largest = max(models, key=lambda path: models[path].num_reg_images())
    pairs, contradicted = judged(work, models[largest])
    return Mapped(largest, len(models), models[largest].num_reg_images(), pairs, contradicted)


def _map_incrementally(work: Work, folder: Path, first: tuple[int, int] | None) -> None:
    options = pipeline_options(work)
    if first:
        options.init_image_id1, options.init_image_id2 = first
        options.mapper.init_min_tri_angle = 4.0  # degrees, instead of 16: this pair it must be
        options.init_num_trials = 1  # instead of 200, which find the same
    run_mapping(work, options, folder, already=2)


def judged(work: Work, model: pycolmap.Reconstruction) -> tuple[int, list[Pair]]:
    """How many pairs of photos could contradict a model, and those that do."""
    with pycolmap.Database.open(work.database) as database:
        pairs = judged_pairs(database, model)
    return len(pairs), [pair for pair in pairs if pair.contradicted]


def pipeline_options(work: Work) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's, for this run."""
    return pycolmap.IncrementalPipelineOptions(num_threads=work.threads, random_seed=0)


def run_mapping(
    work: Work, options: pycolmap.IncrementalPipelineOptions, folder: Path, already: int, begun: Path | str = ""
) -> dict[int, pycolmap.Reconstruction]:
    """COLMAP's incremental mapper, with a bar that begins at `already` photos; goes on with the model in `begun`."""
    placed = itertools.count(already)  # one at a time
    latest = [0]

    def one_more() -> None:
        latest[0] = next(placed)

    return work.call(
        pycolmap.incremental_mapping, work.database, work.images, folder, options, input_path=begun,
        next_image_callback=one_more, count=lambda: latest[0], total=len(staged_photos(work)), unit="camera",
    )  # fmt: skip


def set_lens(work: Work, name: str) -> None:
    """All cameras of the database get lens model `name`: EXIF's focal length, else a usual one, and no distortion."""

    def undistorted(camera: pycolmap.Camera) -> pycolmap.Camera:
        other = pycolmap.Camera.create_from_model_name(camera.camera_id, name, 1.0, camera.width, camera.height)
        other.has_prior_focal_length = camera.has_prior_focal_length
        usual = USUAL_FISHEYE_FOCAL_LENGTH if other.is_perspective_fisheye() else USUAL_FOCAL_LENGTH
        focal = camera.mean_focal_length() if camera.has_prior_focal_length else usual * max(other.width, other.height)
        other.params = [
            focal if index in other.focal_length_idxs() else value for index, value in enumerate(other.params)
        ]
        return other

    update_cameras(work, undistorted)


def update_cameras(work: Work, change: Callable[[pycolmap.Camera], pycolmap.Camera], only: Iterable[int] = ()) -> None:
    """Replace cameras of the database (`only`: numbers; none: all) of another lens model than `change` makes of them.

    COLMAP goes on with a model only where the database's cameras are of the same lens models.
    """
    chosen = set(only)
    with pycolmap.Database.open(work.database) as database:
        for camera in database.read_all_cameras():
            other = change(camera) if not chosen or camera.camera_id in chosen else camera
            if other.model != camera.model:
                database.update_camera(other)
