"""The stages after mapping: lens models chosen anew, and another try at the photos that were left out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from functools import partial

import pycolmap

from distwar_gs.capture.adjustment import adjust
from distwar_gs.capture.features import staged_photos
from distwar_gs.capture.intrinsics import Choice, choose
from distwar_gs.capture.mapping import judged, pipeline_options, run_mapping, update_cameras
from distwar_gs.capture.model_agreement import judged_pairs
from distwar_gs.capture.work import AUTO, Work

FAR = 12.0, 0.005
"""Pixels, and share of the longer side: the larger of both is how far an observation may be off that has a say in the
choice of a lens. Mapping drops those off by 4 pixels, which with too simple a lens model are the ones that tell."""
ROUNDS = 5
LEAST_CHANGE = 0.0005
"""Share of observations dropped in a round; fewer end the rounds (both as COLMAP's pipeline)."""
NEEDED = 30, 15
"""Observations that must agree on the pose of a photo: in mapping (COLMAP's default), and in the last try."""


def find_intrinsics(work: Work) -> None:
    """Lens models with as many parameters as photos held out speak for; cameras and points are refined with them."""
    if work.settings.camera != AUTO:
        return
    model = pycolmap.Reconstruction(work.model)
    numbers = sorted({image.camera_id for image in model.images.values() if image.has_pose})
    chosen: list[Choice] = []
    work.call(_choose_all, work, model, numbers, chosen, count=lambda: len(chosen), total=len(numbers), unit="lens")
    changed = [each for each in chosen if each.camera.model != model.cameras[each.camera.camera_id].model]
    free = {each.camera.camera_id for each in chosen if each.principal_point}
    if changed or free:
        for each in chosen:
            model.cameras[each.camera.camera_id].model = each.camera.model
            model.cameras[each.camera.camera_id].params = each.camera.params  # type: ignore[assignment]  # its own
        refine_all(work, model, free)
        replace_model(work, model)
    work.notes["lenses"] = [
        {"camera": each.camera.camera_id, "photos": each.photos, "principal_point_free": each.principal_point,
         "reason": each.reason, "kept": each.kept,
         "errors_px": {label: round(error, 4) for label, error in each.errors.items()}}
        for each in chosen
    ]  # fmt: skip


def refine_all(work: Work, model: pycolmap.Reconstruction, free: Collection[int] = ()) -> None:
    """Improves cameras, poses and points of a model in place; the principal points of cameras `free`, too."""
    rounds = [0]
    work.call(_refine, work, model, set(free), rounds, count=lambda: rounds[0], total=ROUNDS, unit="round")


def _choose_all(
    work: Work, model: pycolmap.Reconstruction, numbers: Iterable[int], chosen: list[Choice],
    cancellation_token: pycolmap.CancellationToken,
) -> None:  # fmt: skip
    wide = pycolmap.Reconstruction(model)
    longest = max(max(camera.width, camera.height) for camera in model.cameras.values())
    with _Mapper(work, wide) as mapper:
        far = max(FAR[0], FAR[1] * longest)
        mapper.complete_tracks(pycolmap.IncrementalTriangulatorOptions(complete_max_reproj_error=far))
    chosen.extend(choose(wide, number, work.threads, partial(_tick, cancellation_token)) for number in numbers)


def _tick(token: pycolmap.CancellationToken) -> None:
    """Ends a call that its caller has cancelled."""
    if token.is_cancelled:
        raise InterruptedError("interrupted")


class _Mapper:
    """COLMAP's mapper on a model, while entered; the database's cameras get the model's lens models."""

    def __init__(self, work: Work, model: pycolmap.Reconstruction) -> None:
        self.model = model
        match_cameras(work, model)
        with pycolmap.Database.open(work.database) as database:
            self.cache = pycolmap.DatabaseCache.create(database, pycolmap.DatabaseCacheOptions(min_num_matches=15))
        self.mapper = pycolmap.IncrementalMapper(self.cache)

    def __enter__(self) -> pycolmap.IncrementalMapper:
        self.mapper.begin_reconstruction(self.model)
        return self.mapper

    def __exit__(self, *error: object) -> None:
        self.mapper.end_reconstruction(False)


def match_cameras(work: Work, model: pycolmap.Reconstruction) -> None:
    """The database's cameras become those of the model."""
    update_cameras(work, lambda camera: model.cameras[camera.camera_id], model.cameras)


def _refine(
    work: Work, model: pycolmap.Reconstruction, free: set[int], rounds: list[int],
    cancellation_token: pycolmap.CancellationToken,
) -> None:  # fmt: skip
    """Rounds of bundle adjustment, completion and filtering, as COLMAP ends its mapping with."""
    options, tick = pipeline_options(work), partial(_tick, cancellation_token)
    _adjust(model, options, free, tick)
    with _Mapper(work, model) as mapper:
        mapper.retriangulate(options.get_triangulation())
        for rounds[0] in range(1, ROUNDS + 1):
            before = model.compute_num_observations()
            mapper.complete_and_merge_tracks(options.get_triangulation())
            _adjust(model, options, free, tick)
            if mapper.filter_points(options.get_mapper()) <= LEAST_CHANGE * before:
                break


def _adjust(
    model: pycolmap.Reconstruction, options: pycolmap.IncrementalPipelineOptions, free: set[int],
    tick: Callable[[], None],
) -> None:  # fmt: skip
    """Bundle adjustment; then, since COLMAP frees principal points of all cameras or of none, once more with those of
    `free` while the intrinsics of the others stay."""
    iterations = options.get_global_bundle_adjustment().ceres.solver_options.max_num_iterations
    adjust(model, options.get_global_bundle_adjustment(), iterations, tick=tick)
    if free:
        with_center = options.get_global_bundle_adjustment()
        with_center.refine_principal_point = True
        adjust(model, with_center, iterations, set(model.cameras) - free, tick)


def replace_model(work: Work, model: pycolmap.Reconstruction) -> None:
    """OUT/sfm/model becomes `model`; an interruption leaves the old one or the new one."""
    new, old = (work.folder / name for name in ("model.new", "model.old"))
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir()
    model.write(new)
    if work.model.exists():
        work.model.rename(old)
    new.rename(work.model)
    shutil.rmtree(old, ignore_errors=True)
    pairs, contradicted = judged(work, model)
    work.notes |= {"pairs": pairs, "contradicted_pairs": len(contradicted)}


@dataclass(frozen=True)
class Retry:
    """Another try at the photos that were left out."""

    needed: int
    """Observations that had to agree on a pose."""
    photos: int
    """That were left out before."""
    placed: int


def place_left_out(work: Work) -> None:
    """Photos that mapping could not place are tried again with the final lens, and with half as many observations."""
    total = len(staged_photos(work))
    tries = []
    for needed in NEEDED:
        model = pycolmap.Reconstruction(work.model)
        before = set(model.reg_image_ids())
        if len(before) == total:
            break
        found = _placed(work, model, needed)
        if found:
            replace_model(work, found)
        tries.append(Retry(needed, total - len(before), found.num_reg_images() - len(before) if found else 0))
    work.notes["retries"] = [asdict(each) for each in tries]


def _placed(work: Work, model: pycolmap.Reconstruction, needed: int) -> pycolmap.Reconstruction | None:
    """The model with further photos that can be trusted, or None if there are none."""
    match_cameras(work, model)
    folder = work.folder / "retry"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    options = pipeline_options(work)
    options.multiple_models = False
    options.structure_less_registration_fallback = False  # mapping has tried it, for up to a minute a photo
    options.mapper.abs_pose_min_num_inliers = needed
    known = set(model.reg_image_ids())
    made = run_mapping(work, options, folder, already=len(known), begun=work.model)
    found = max(made.values(), key=lambda each: each.num_reg_images(), default=None)
    shutil.rmtree(folder)
    if found is None or not known <= set(found.reg_image_ids()):
        return None
    with pycolmap.Database.open(work.database) as database:
        pairs = judged_pairs(database, found)
    for frame, numbers in _by_frame(found, set(found.reg_image_ids()) - known).items():
        mine = [pair.contradicted for pair in pairs if not numbers.isdisjoint(pair.image_ids)]
        if 2 * sum(mine) > len(mine) or max(found.images[number].num_points3D for number in numbers) < needed:
            found.deregister_frame(frame)
    return found if found.num_reg_images() > len(known) else None


def _by_frame(model: pycolmap.Reconstruction, numbers: Iterable[int]) -> dict[int, set[int]]:
    """Photos by what was taken at one moment: of a rig several, else one."""
    frames: dict[int, set[int]] = {}
    for number in numbers:
        frames.setdefault(model.images[number].frame_id, set()).add(number)
    return frames
