"""Small captures of two coloured spots, written in any format: what a camera sees of them is known to the pixel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image
from scene_files import ring

SPOTS = np.array([[0.0, 0.0, 0.0], [0.35, 0.25, 0.3]])
"""World positions of the red and the green spot."""
SIZE = (96, 64)
NAMES = tuple(f"{letter}.png" for letter in "abcdef")
MODELS: dict[str, tuple[float, ...]] = {
    "SIMPLE_PINHOLE": (90, 46, 35),
    "PINHOLE": (90, 94, 46, 35),
    "SIMPLE_RADIAL": (90, 46, 35, 0.1),
    "SIMPLE_RADIAL_FISHEYE": (90, 46, 35, 0.05),
    "RADIAL": (90, 46, 35, 0.1, -0.05),
    "RADIAL_FISHEYE": (90, 46, 35, 0.05, -0.02),
    "OPENCV": (90, 94, 46, 35, 0.1, -0.05, 0.004, -0.003),
    "OPENCV_FISHEYE": (90, 94, 46, 35, 0.05, 0.01, 0, 0),
    "FULL_OPENCV": (90, 94, 46, 35, 0.1, -0.05, 0.004, -0.003, 0.02, 0.05, 0.01, 0.0),
    "FOV": (90, 94, 46, 35, 0.5),
    "THIN_PRISM_FISHEYE": (90, 94, 46, 35, 0.05, 0.01, 0.002, -0.002, 0, 0, 0.01, -0.01),
    "RAD_TAN_THIN_PRISM_FISHEYE": (90, 94, 46, 35, *[0.02] * 6, 0.001, -0.001, *[0.002] * 4),
    "SIMPLE_DIVISION": (90, 46, 35, -0.15),
    "DIVISION": (90, 94, 46, 35, -0.15),
    "SIMPLE_FISHEYE": (90, 46, 35),
    "FISHEYE": (90, 94, 46, 35),
    "EUCM": (90, 94, 46, 35, 0.5, 1.1),
    "EQUIRECTANGULAR": (96, 48),
}


def camera(
    model: str = "PINHOLE", params: Sequence[float] | None = None, size: tuple[int, int] = SIZE, number: int = 1
):
    """A COLMAP camera."""
    return pycolmap.Camera(
        camera_id=number, model=model, width=size[0], height=size[1], params=list(params or MODELS[model])
    )


@dataclass
class Capture:
    """Six photographs of the spots on a ring around them."""

    names: Sequence[str] = NAMES
    cameras: Sequence[pycolmap.Camera] = field(default_factory=lambda: [camera()])
    """Used in turn."""
    poses: Sequence[np.ndarray] = field(default_factory=lambda: ring(6))

    def camera_of(self, index: int) -> pycolmap.Camera:
        """Who took photograph `index`."""
        return self.cameras[index % len(self.cameras)]

    def pixel(self, index: int, spot: int) -> np.ndarray:
        """Where photograph `index` shows a spot."""
        pose = self.poses[index]
        return self.camera_of(index).img_from_cam(pose[:3, :3] @ SPOTS[spot] + pose[:3, 3])

    def photo(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3]: black, with the spots in red and green."""
        camera = self.camera_of(index)
        red, green = (_blob(camera.width, camera.height, *self.pixel(index, spot)) for spot in (0, 1))
        return np.uint8(np.round(255 * np.stack([red, green, np.zeros_like(red)], axis=-1)))

    def disc(self, index: int, radius: float = 14.0) -> np.ndarray:
        """bool [H, W], True around the red spot of photograph `index`."""
        camera, (x, y) = self.camera_of(index), self.pixel(index, 0)
        u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        return (u - x) ** 2 + (v - y) ** 2 < radius**2

    def write_images(
        self, folder: Path, suffix: str = "", save: Callable[[np.ndarray, Path], None] | None = None, divide: int = 1
    ) -> None:
        """The photographs, with another suffix if given, stored by `save`, smaller if asked."""
        for index, name in enumerate(self.names):
            path = folder / name.replace("\\", "/")
            path = path.with_suffix(suffix) if suffix else path
            path.parent.mkdir(parents=True, exist_ok=True)
            (save or save_8bit)(_smaller(self.photo(index), divide), path)

    def write_masks(self, folder: Path, invert: bool = False, name: str = "{}.png", divide: int = 1) -> None:
        """Masks in which the disc counts; `name` makes a mask's name of an image's."""
        for index, image in enumerate(self.names):
            path = folder / name.format(image, stem=Path(image).stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = self.disc(index) ^ invert
            kind = None if path.suffix.lower() in Image.registered_extensions() else "PNG"
            Image.fromarray(kept[::divide, ::divide].astype(np.uint8) * 255).save(path, kind)

    def reconstruction(self, points: int = 30) -> pycolmap.Reconstruction:
        """The model COLMAP would write, each camera in a rig of its own."""
        model = pycolmap.Reconstruction()
        for one in self.cameras:
            model.add_camera_with_trivial_rig(one)
        for index, (name, pose) in enumerate(zip(self.names, self.poses, strict=True)):
            image = pycolmap.Image(name=name, camera_id=self.camera_of(index).camera_id, image_id=index + 1)
            model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
        add_points(model, points)
        return model

    def write_colmap(self, folder: Path, place: str = "sparse/0", text: bool = False, points: int = 30) -> Path:
        """The model alone."""
        (folder / place).mkdir(parents=True, exist_ok=True)
        model = self.reconstruction(points)
        (model.write_text if text else model.write_binary)(folder / place)
        return folder

    def frames(self, folder: str = "images/") -> list[dict]:
        """`file_path` and `transform_matrix` of each photograph."""
        poses = [np.linalg.inv(pose) @ np.diag([1.0, -1.0, -1.0, 1.0]) for pose in self.poses]
        return [
            {"file_path": f"{folder}{name}", "transform_matrix": pose.tolist()}
            for name, pose in zip(self.names, poses, strict=True)
        ]

    def intrinsics(self, index: int = 0) -> dict[str, float]:
        """Keys of instant-ngp and nerfstudio for a PINHOLE, OPENCV, OPENCV_FISHEYE or FULL_OPENCV camera."""
        camera = self.camera_of(index)
        keys = {
            "OPENCV": ("k1", "k2", "p1", "p2"),
            "FULL_OPENCV": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
            "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
        }.get(camera.model_name, ())
        size = {"w": camera.width, "h": camera.height}
        return size | dict(zip(("fl_x", "fl_y", "cx", "cy", *keys), map(float, camera.params), strict=True))

    def write_transforms(self, folder: Path, meta: Mapping | None = None, frames: Sequence[dict] | None = None) -> Path:
        """transforms.json with the shared intrinsics of the first camera unless `meta` has others."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {**(self.intrinsics() if meta is None else meta), "frames": list(frames or self.frames())}
        (folder / "transforms.json").write_text(json.dumps(content))
        return folder


def save_8bit(pixels: np.ndarray, path: Path) -> None:
    """In the format of the suffix; JPEG at its best."""
    Image.fromarray(pixels).save(path, quality=100, subsampling=0) if path.suffix.lower() in (
        ".jpg",
        ".jpeg",
    ) else Image.fromarray(pixels).save(path)


def add_points(model: pycolmap.Reconstruction, count: int) -> None:
    """Points around the spots, without tracks."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        model.add_point3D(rng.uniform(-1, 1, 3), pycolmap.Track(), rng.integers(0, 256, 3, dtype=np.uint8))


def spot_centre(weights: np.ndarray) -> np.ndarray:
    """Centre (x, y) of a picture [H, W] in pixels, pixel centres at +0.5."""
    weights = np.where(weights > 0.1 * weights.max(), weights, 0.0).astype(np.float64)
    v, u = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(u * weights).sum(), (v * weights).sum()]) / weights.sum()


def _blob(width: int, height: int, x: float, y: float) -> np.ndarray:
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 3.0**2))


def _smaller(pixels: np.ndarray, divide: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((width // divide, height // divide), Image.Resampling.BOX))
