"""Why photos could not be placed: what each shares with the others, and whether a pose follows from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pycolmap

from datasets.errors import printable
from distwar_gs.capture.photos import LeftOut
from distwar_gs.capture.refinement import NEEDED
from distwar_gs.capture.staging import Staged

FEW_FEATURES = 200
LEAST_MATCHES = 15
"""Verified matches of a pair that COLMAP keeps (TwoViewGeometryOptions.min_num_inliers)."""
POSE_ERROR, LEAST_SHARE = 12.0, 0.25
"""Pixels, and the share that must agree (IncrementalMapperOptions.abs_pose_max_error, abs_pose_min_inlier_ratio)."""


@dataclass
class Ties:
    """What a photo that was left out shares with the others."""

    features: int = 0
    compared: int = 0
    """Photos that it was compared with."""
    placed: dict[int, int] = field(default_factory=dict)
    """Verified matches with each photo that has been placed."""
    others: dict[int, int] = field(default_factory=dict)
    """Verified matches with each photo that has not."""
    known: dict[tuple[int, int], None] = field(default_factory=dict)
    """Its features that match one of a placed photo whose point is known: (feature, point)."""
    agreeing: int = 0
    """Most of these that agree on a pose."""


def explained(
    database: pycolmap.Database, model: pycolmap.Reconstruction, photos: Sequence[Staged], retries: Sequence[dict]
) -> list[LeftOut]:
    """The photos without a pose, each with what was tried, in their order. retries: as in the state's notes."""
    placed = {image.name for image in model.images.values() if image.has_pose}
    left_out = [photo for photo in photos if photo.staged not in placed]
    numbers = {image.name: image.image_id for image in database.read_all_images()}
    shown = {numbers[photo.staged]: printable(photo.name) for photo in photos if photo.staged in numbers}
    ties = _ties(database, model, [numbers[photo.staged] for photo in left_out if photo.staged in numbers])
    return [
        LeftOut(photo.name, f"not placed: {_why(ties.get(numbers.get(photo.staged, -1), Ties()), shown, retries)}")
        for photo in left_out
    ]


def _ties(database: pycolmap.Database, model: pycolmap.Reconstruction, numbers: Sequence[int]) -> dict[int, Ties]:
    found = {number: Ties(features=database.num_keypoints_for_image(number)) for number in numbers}
    if not found:
        return {}
    for pair_id in database.read_num_matches()[0]:
        for number in pycolmap.pair_id_to_image_pair(pair_id):
            if number in found:
                found[number].compared += 1
    for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
        one, other = pycolmap.pair_id_to_image_pair(pair_id)
        matches = np.asarray(geometry.inlier_matches).reshape(-1, 2)
        for mine, theirs, columns in ((one, other, (0, 1)), (other, one, (1, 0))):
            if mine in found and len(matches):
                _tie(found[mine], model, theirs, matches[:, columns])
    for number, each in found.items():
        each.agreeing = _agreeing(database, model, number, list(each.known))
    return found


def _tie(ties: Ties, model: pycolmap.Reconstruction, other: int, matches: np.ndarray) -> None:
    """Add verified matches [M, 2], (feature, feature of the other photo)."""
    if other not in model.images or not model.images[other].has_pose:
        ties.others[other] = len(matches)
        return
    image = model.images[other]
    ties.placed[other] = len(matches)
    for feature, theirs in matches.tolist():
        if image.points2D[theirs].has_point3D():
            ties.known[feature, image.points2D[theirs].point3D_id] = None


def _agreeing(
    database: pycolmap.Database, model: pycolmap.Reconstruction, number: int, known: Sequence[tuple[int, int]]
) -> int:
    """How many of the (feature, point) pairs agree on one pose, with the intrinsics as they are."""
    if len(known) < 4:
        return 0
    features, points = zip(*known, strict=True)
    camera_id = database.read_image(number).camera_id
    camera = model.cameras[camera_id] if camera_id in model.cameras else database.read_camera(camera_id)
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error, options.ransac.min_inlier_ratio, options.ransac.random_seed = POSE_ERROR, LEAST_SHARE, 0
    options.ransac.max_num_trials = 10_000
    pixels = database.read_keypoints(number)[list(features), :2].astype(np.float64)
    world = np.array([model.points3D[point].xyz for point in points])
    found = pycolmap.estimate_and_refine_absolute_pose(pixels, world, camera, options)
    return int(found["num_inliers"]) if found else 0


def _why(ties: Ties, names: dict[int, str], retries: Sequence[dict]) -> str:
    """What was tried, and what that suggests."""
    compared = f"{ties.features} features were compared with {ties.compared} photos"
    if ties.features < LEAST_MATCHES:
        return f"{ties.features} features were found (blurred, dark, or without texture?)"
    if not ties.placed and not ties.others:
        few = "blurred, or without texture?" if ties.features < FEW_FEATURES else "blurred, or no other shows the same?"
        return f"{compared}, none has {LEAST_MATCHES} verified matches with it ({few})"
    if not ties.placed:
        other = max(ties.others, key=lambda each: ties.others[each])
        return (
            f"{compared}, only photos that were left out too match it ({names.get(other, other)} best, with "
            f"{ties.others[other]}): add photos between these and the others"
        )
    best = max(ties.placed, key=lambda each: ties.placed[each])
    tries = " and ".join(str(each["needed"]) for each in retries)
    again = f"; tried again with the final lens, with {tries} as the least" if retries else ""
    enough = ties.agreeing >= max(NEEDED[0], LEAST_SHARE * len(ties.known))
    verdict = "enough for a pose, but its points did not fit the others'" if enough else f"{NEEDED[0]} are needed"
    return (
        f"{compared}, {len(ties.placed)} of the placed ones match it ({names.get(best, best)} best, with "
        f"{ties.placed[best]}); of {len(ties.known)} features with a known point {ties.agreeing} agree on a pose "
        f"({verdict}){again}: add photos close to it"
    )
