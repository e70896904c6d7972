"""The lens of one camera, fitted to what its photos observe: bundle adjustment on some photos, judged on the others.

A lens model with more parameters always fits the photos that it was fitted to as well or better, even if what it
describes is not the lens but a wrong match, a moving object or a rolling shutter. So a model is judged on photos that
had no part in the fit: their poses are found with the intrinsics and the points of the others, and their observations
are predicted (cross-validation; Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 4.7, count parameters
for the same end, which needs independent errors).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap

from distwar_gs.capture.adjustment import adjust

MOST_PHOTOS = 40
"""Of one camera that take part: enough for 10 parameters, and the time stays bounded."""
CELLS, PER_CELL = 6, 3
"""A photo keeps so many points in each of CELLS x CELLS parts, so that its corners have a say."""
FOLDS = 4
ITERATIONS = 50
LEAST_OBSERVATIONS = 15
"""Of a photo that is held out; fewer do not judge a lens."""
RAYLEIGH_MEDIAN = 1.1774
"""Median length of a residual whose two coordinates have unit variance."""


@dataclass(frozen=True, eq=False)
class Sightings:
    """What P photos of one camera observe of N points: M pixels."""

    poses: list[pycolmap.Rigid3d]
    """World to camera, [P]."""
    points: np.ndarray
    """World positions, float64 [N, 3]."""
    photo: np.ndarray
    """The photo of each observation, int64 [M]."""
    point: np.ndarray
    """The point of each observation, int64 [M]."""
    pixels: np.ndarray
    """Where, float64 [M, 2], pixel centres at +0.5."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A camera, poses and points that describe Sightings."""

    camera: pycolmap.Camera
    poses: list[pycolmap.Rigid3d]
    points: np.ndarray


def sightings_of(model: pycolmap.Reconstruction, camera_id: int) -> Sightings:
    """What at most MOST_PHOTOS placed photos of a camera, evenly chosen, observe of points seen three times or more."""
    ids = sorted(image.image_id for image in model.images.values() if image.has_pose and image.camera_id == camera_id)
    ids = [ids[index] for index in np.unique(np.linspace(0, len(ids) - 1, MOST_PHOTOS).astype(int))] if ids else []
    images = [model.images[number] for number in ids]
    pixels, photo, point = [np.empty((0, 2))], [], []
    for index, image in enumerate(images):
        observed = [each for each in image.points2D if each.has_point3D()]
        pixels.append(np.array([each.xy for each in observed]).reshape(-1, 2))
        photo.extend([index] * len(observed))
        point.extend(each.point3D_id for each in observed)
    photo, point = np.array(photo, dtype=np.int64), np.array(point, dtype=np.int64)
    kept = _spread(model, images, photo, point, np.concatenate(pixels))
    numbers, point = np.unique(point[kept], return_inverse=True)
    points = np.array([model.points3D[number].xyz for number in numbers]).reshape(-1, 3)
    poses = [image.cam_from_world() for image in images]
    return Sightings(poses, points, photo[kept], point, np.concatenate(pixels)[kept])


def _spread(
    model: pycolmap.Reconstruction, images: list[pycolmap.Image], photo: np.ndarray, point: np.ndarray, xy: np.ndarray
) -> np.ndarray:
    """Which observations to keep, bool [M]: all of those points that are among the PER_CELL best in a cell of a photo.

    Best: observed most often, by distinct photos among these. Points that fewer than three observe are left out.
    """
    pairs, first = np.unique(np.stack([photo, point]), axis=1, return_index=True)
    single = np.zeros(len(photo), dtype=bool)
    single[first] = True  # a track can pass twice through a photo
    numbers, inverse = np.unique(point, return_inverse=True)
    length = np.bincount(inverse[single], minlength=len(numbers))[inverse]
    usable = single & (length >= 3)
    chosen = np.zeros(len(numbers), dtype=bool)
    for index, image in enumerate(images):
        camera = model.cameras[image.camera_id]
        mine = np.nonzero(usable & (photo == index))[0]
        cells = np.clip((xy[mine] / (camera.width, camera.height) * CELLS).astype(int), 0, CELLS - 1)
        cells = cells[:, 0] * CELLS + cells[:, 1]
        order = np.lexsort((point[mine], -length[mine], cells))
        sorted_cells = cells[order]
        rank = np.arange(len(order)) - np.searchsorted(sorted_cells, sorted_cells)
        chosen[inverse[mine[order[rank < PER_CELL]]]] = True
    return usable & chosen[inverse]


def fit(
    seen: Sightings, start: Fit, scale: float, photos: np.ndarray | None = None, principal_point: bool = False,
    threads: int = -1,
) -> Fit:  # fmt: skip
    """Bundle adjustment from `start`, by the photos of the mask bool [P] (None: all) alone.

    scale: of the Cauchy loss, in pixels. Poses of other photos, and points that fewer than two of these photos observe,
    stay at their start. principal_point: it is free, too. ValueError or RuntimeError when COLMAP gives up.
    """
    photos = np.ones(len(seen.poses), dtype=bool) if photos is None else photos
    model = _model(seen, start, photos)
    options = pycolmap.BundleAdjustmentOptions(refine_principal_point=principal_point)
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = scale
    options.ceres.solver_options.num_threads = threads
    options.ceres.solver_options.function_tolerance = 1e-6
    adjust(model, options, ITERATIONS)
    poses, points = list(start.poses), start.points.copy()
    for number, image in model.images.items():
        poses[number - 1] = image.cam_from_world()
    for number, each in model.points3D.items():
        points[number - 1] = each.xyz
    return Fit(model.cameras[1], poses, points)


def _model(seen: Sightings, start: Fit, photos: np.ndarray) -> pycolmap.Reconstruction:
    """As COLMAP has it: image and point numbers are the indices of `seen`, from 1."""
    model, camera = pycolmap.Reconstruction(), pycolmap.Camera(start.camera.todict())
    camera.camera_id = 1
    model.add_camera_with_trivial_rig(camera)
    within = photos[seen.photo]
    within &= (np.bincount(seen.point[within], minlength=len(seen.points)) >= 2)[seen.point]
    tracks = {int(number): pycolmap.Track() for number in np.unique(seen.point[within])}
    for index in np.nonzero(photos)[0]:
        mine = np.nonzero(within & (seen.photo == index))[0]
        image = pycolmap.Image(
            name=str(index), keypoints=seen.pixels[mine], camera_id=1, image_id=int(index) + 1
        )  # fmt: skip
        model.add_image_with_trivial_frame(image, start.poses[index])
        for feature, number in enumerate(seen.point[mine]):
            tracks[int(number)].add_element(int(index) + 1, feature)
    for number, track in tracks.items():
        model.add_point3D_with_id(number + 1, pycolmap.Point3D(xyz=start.points[number], track=track))
    return model


def residuals(seen: Sightings, found: Fit, observations: np.ndarray) -> np.ndarray:
    """Distances in pixels of the observations (indices [K]) from where `found` has them, [K]; inf: not projectable."""
    distances = np.full(len(observations), np.inf)
    for index in np.unique(seen.photo[observations]):
        mine = np.nonzero(seen.photo[observations] == index)[0]
        world = found.points[seen.point[observations[mine]]]
        pose = found.poses[index].matrix()
        projected = found.camera.img_from_cam(world @ pose[:, :3].T + pose[:, 3])
        distances[mine] = np.linalg.norm(projected - seen.pixels[observations[mine]], axis=1)
    return np.where(np.isfinite(distances), distances, np.inf)


def noise_of(distances: np.ndarray) -> float:
    """Standard deviation of a coordinate of the residuals, by their median: wrong matches have no say."""
    return max(float(np.median(distances)) / RAYLEIGH_MEDIAN, 1e-3) if len(distances) else 1.0


def folds_of(seen: Sightings) -> list[np.ndarray]:
    """Photos to hold out together, int64: every FOLDS-th; with few photos each by itself."""
    count = min(FOLDS, len(seen.poses))
    return [np.arange(first, len(seen.poses), count) for first in range(count)]


def held_out(seen: Sightings, fold: np.ndarray) -> np.ndarray:
    """Observations, indices [K], by which the photos of a fold are judged: of points that two other photos observe.

    Photos with fewer than LEAST_OBSERVATIONS of them are not judged.
    """
    inside = np.isin(seen.photo, fold)
    known = np.bincount(seen.point[~inside], minlength=len(seen.points)) >= 2
    usable = inside & known[seen.point]
    counts = np.bincount(seen.photo[usable], minlength=len(seen.poses))
    return np.nonzero(usable & (counts >= LEAST_OBSERVATIONS)[seen.photo])[0]


def posed(seen: Sightings, found: Fit, observations: np.ndarray, scale: float) -> Fit:
    """The poses of the photos that made the observations found anew, with camera and points as in `found`."""
    poses = list(found.poses)
    options = pycolmap.AbsolutePoseRefinementOptions(loss_function_scale=scale, gradient_tolerance=1e-3)
    for index in np.unique(seen.photo[observations]):
        mine = observations[seen.photo[observations] == index]
        everywhere = np.ones((len(mine), 1), dtype=bool)
        world = found.points[seen.point[mine]]
        result = pycolmap.refine_absolute_pose(
            poses[index], seen.pixels[mine], world, everywhere, found.camera, options
        )
        if result:
            poses[index] = result["cam_from_world"]
    return Fit(found.camera, poses, found.points)
