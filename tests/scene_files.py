"""Tiny datasets written by tests: real files, made in a test's own folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image


def look_at(center: Sequence[float], target: Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """World-to-camera [4, 4], OpenCV axes, world z up."""
    center = np.asarray(center, dtype=np.float64)
    forward = np.asarray(target) - center
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ center
    return viewmat


def ring(count: int, radius: float = 3.0, height: float = 1.0) -> list[np.ndarray]:
    """World-to-camera poses on a circle, looking at the origin."""
    angles = 2.0 * np.pi * np.arange(count) / count
    return [look_at((radius * np.cos(angle), radius * np.sin(angle), height)) for angle in angles]


def write_image(path: Path, width: int, height: int, level: int = 128, mode: str = "RGB") -> Path:
    """A flat image of grey `level`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), level if mode == "L" else (level,) * len(mode)).save(path)
    return path


def write_colmap(
    folder: Path,
    *,
    names: Sequence[str] = ("a.png", "b.png", "c.png", "d.png"),
    model: str = "PINHOLE",
    params: Sequence[float] = (50.0, 51.0, 30.0, 17.0),
    size: tuple[int, int] = (64, 40),
    poses: Sequence[np.ndarray] | None = None,
    points: int = 20,
    text: bool = False,
    place: str = "sparse/0",
    images: str | None = "images",
) -> Path:
    """A COLMAP folder with one camera; flat images in `images` (None: write none). Returns `folder`."""
    camera = pycolmap.Camera(camera_id=1, model=model, width=size[0], height=size[1], params=list(params))
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    for index, (name, pose) in enumerate(zip(names, poses or ring(len(names)), strict=True)):
        image = pycolmap.Image(name=name, camera_id=1, image_id=index + 1)
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
        if images:
            write_image(folder / images / name, *size, level=10 * index)
    rng = np.random.default_rng(0)
    for _ in range(points):
        reconstruction.add_point3D(rng.uniform(-1, 1, 3), pycolmap.Track(), rng.integers(0, 256, 3, dtype=np.uint8))
    (folder / place).mkdir(parents=True, exist_ok=True)
    (reconstruction.write_text if text else reconstruction.write_binary)(folder / place)
    return folder


def write_blender(folder: Path, *, train: int = 4, test: int | None = 2, size: int = 20, angle: float = 0.8) -> Path:
    """A NeRF-synthetic folder of flat RGBA images; `test=None` leaves out transforms_test.json. Returns `folder`."""
    for split, count in (("train", train), ("test", test)):
        if count is None:
            continue
        frames = []
        for index, viewmat in enumerate(ring(count)):
            write_image(folder / split / f"r_{index}.png", size, size, mode="RGBA")
            pose = np.linalg.inv(viewmat) @ np.diag([1.0, -1.0, -1.0, 1.0])
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return folder
