"""Captures whose lens is known: points projected through it, as the model or the database that COLMAP would have."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap
from scene_files import look_at

from distwar_gs.capture import mapping, refinement
from distwar_gs.capture.adjustment import adjust
from distwar_gs.capture.intrinsics import START
from distwar_gs.capture.staging import Staged, save_stage
from distwar_gs.capture.work import Settings, Work

WIDTH, HEIGHT = 1600, 1200


def lens(model: str, *params: float, number: int = 1) -> pycolmap.Camera:
    """A camera of WIDTH x HEIGHT."""
    return pycolmap.Camera(camera_id=number, model=model, width=WIDTH, height=HEIGHT, params=list(params))


def capture(
    *cameras: pycolmap.Camera, photos: int = 10, points: int = 450, noise: float = 0.5, seed: int = 0,
    wrong: float = 0.02,
) -> pycolmap.Reconstruction:  # fmt: skip
    """Photos from an arc around a cloud of points and their surroundings, with everything as it is but observations:
    those have `noise` pixels, and a share of `wrong` is off by more. The cameras, numbered from 1, are used in turn.
    """
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-1.5, 1.5, (points // 2, 3))
    around = rng.uniform((-5, -5, -2), (5, 5, 3), (points - points // 2, 3))
    world = np.concatenate([cloud, around])
    poses = [
        look_at((3.5 * np.cos(angle), 3.5 * np.sin(angle), 0.6 + 0.5 * np.sin(3 * angle)), rng.normal(0, 0.3, 3))[:3]
        for angle in np.linspace(0, 2.5, photos)
    ]
    model, seen_by = pycolmap.Reconstruction(), [[] for _ in world]
    for camera in cameras:
        model.add_camera_with_trivial_rig(camera)
    for number, pose in enumerate(poses, start=1):
        camera = cameras[(number - 1) % len(cameras)]
        seen, pixels = _seen(camera, world @ pose[:, :3].T + pose[:, 3], rng)
        pixels += rng.normal(0, noise, pixels.shape)
        off = rng.random(len(pixels)) < wrong
        pixels[off] += rng.normal(0, 6, (off.sum(), 2))
        for feature, point in enumerate(seen):
            seen_by[point].append((number, feature))
        image = pycolmap.Image(
            name=f"{number:03d}.jpg", camera_id=camera.camera_id, image_id=number, keypoints=pixels
        )  # fmt: skip
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    for position, observations in zip(world, seen_by, strict=True):
        if len(observations) >= 2:
            track = pycolmap.Track()
            for element in observations:
                track.add_element(*element)
            model.add_point3D(position, track)
    return model


def _seen(camera: pycolmap.Camera, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which points [N, 3] in the camera's frame a photo shows, indices [K], and where, [K, 2]; a part is missed."""
    pixels = np.full((len(points), 2), -1.0)
    front = points[:, 2] > 0.3
    pixels[front] = camera.img_from_cam(points[front])
    inside = (pixels > 0).all(axis=1) & (pixels < (camera.width, camera.height)).all(axis=1)
    rays = np.zeros_like(points)
    rays[inside] = camera.cam_ray_from_img(pixels[inside])
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    unfolded = np.abs(rays - directions).max(axis=1) < 1e-3  # far outside, distortion can lead back into the image
    shown = np.nonzero(inside & unfolded & (rng.random(len(points)) < 0.7))[0]
    return shown, pixels[shown]


def mapped_with_start(model: pycolmap.Reconstruction) -> pycolmap.Reconstruction:
    """As mapping leaves it: with the lens model that mapping begins with, however badly that fits. In place."""
    camera = model.cameras[1]
    focal, size = camera.mean_focal_length(), (camera.width, camera.height)
    camera.model = pycolmap.CameraModelId.__members__[START]
    camera.params = [focal, size[0] / 2, size[1] / 2, 0.0]
    options = pycolmap.BundleAdjustmentOptions()
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.solver_options.function_tolerance = 1e-6
    options.ceres.solver_options.num_threads = 1
    adjust(model, options, 50)
    return model


def write_database(
    model: pycolmap.Reconstruction, file: Path, lens_model: str, most: Mapping[int, int] | None = None
) -> None:
    """Features of a model and all their matches; cameras as COLMAP guesses them.

    most: of some images, how many features match those of others at most; fewer than 15 are no matches for COLMAP.
    """
    with pycolmap.Database.open(file) as database:
        for number, known in model.cameras.items():
            focal = 1.2 * max(known.width, known.height)
            camera = pycolmap.Camera.create_from_model_name(number, lens_model, focal, known.width, known.height)
            database.write_camera(camera, True)
            rig = pycolmap.Rig(rig_id=number)
            rig.add_ref_sensor(camera.sensor_id)
            database.write_rig(rig, True)
        features = {number: _write_image(database, model, image) for number, image in sorted(model.images.items())}
        for number, count in (most or {}).items():
            kept = np.random.default_rng(number).permutation(sorted(features[number]))[:count]
            features[number] = {point: features[number][point] for point in kept.tolist()}
        for one, other in combinations(features, 2):
            shared = features[one].keys() & features[other].keys()
            matches = np.array([(features[one][point], features[other][point]) for point in sorted(shared)], np.uint32)
            if len(matches) >= 15:
                write_matches(database, one, other, matches)


def _write_image(database: pycolmap.Database, model: pycolmap.Reconstruction, image: pycolmap.Image) -> dict[int, int]:
    """With its features; returns those of each point."""
    number, camera = image.image_id, model.cameras[image.camera_id]
    database.write_image(pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=number), True)
    frame = pycolmap.Frame(frame_id=number, rig_id=image.camera_id)
    frame.add_data_id(pycolmap.data_t(camera.sensor_id, number))
    database.write_frame(frame, True)
    database.write_keypoints(number, np.array([point.xy for point in image.points2D], dtype=np.float32))
    return {point.point3D_id: index for index, point in enumerate(image.points2D) if point.has_point3D()}


def write_matches(database: pycolmap.Database, one: int, other: int, matches: np.ndarray) -> None:
    """Verified matches [M, 2] of two images."""
    geometry = pycolmap.TwoViewGeometry()
    geometry.config, geometry.inlier_matches = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED, matches
    database.write_matches(one, other, matches)
    database.write_two_view_geometry(one, other, geometry)


def begun_work(
    folder: Path, model: pycolmap.Reconstruction, camera: str = "auto", most: Mapping[int, int] | None = None
) -> Work:
    """A run that has found the features and matches of a capture."""
    names = [image.name for _, image in sorted(model.images.items())]
    work = Work.begun(
        folder, Settings("capture", "exhaustive", camera, 1600, 8192, 0, len(names)), 1, lambda line: None
    )
    work.images.mkdir()
    save_stage(work.folder / "photos.json", [Staged(name, name, name, False) for name in names], [])
    write_database(model, work.database, START if camera == "auto" else camera, most)
    return work


def run_mapping_stages(work: Work) -> pycolmap.Reconstruction:
    """The stages from matches to the final model."""
    work.once("cameras", mapping.find_cameras)
    work.once("intrinsics", refinement.find_intrinsics)
    work.once("retries", refinement.place_left_out)
    return pycolmap.Reconstruction(work.model)
