"""Make the demo dataset: a small furnished room, ray-traced with NumPy, written as a COLMAP folder.

    python scripts/make_demo_scene.py OUT [--views 40] [--width 160] [--height 120] [--seed 0]
                                          [--lens PINHOLE] [--fov 200] [--sky] [--maps]

OUT/images/*.png are anti-aliased renders from an orbit inside the room, each ray traced through the --lens, a camera
model of COLMAP; OUT/sparse/0 holds the exact cameras (principal point off the centre) and about 3000 surface points
with slight noise, as structure from motion would give. All light is diffuse, so that what a point looks like does not
depend on where it is seen from.
World frame: metres, z up, floor at z = 0. The same arguments give the same scene. With --sky there are neither walls
nor ceiling, but a sky. With --maps OUT/depths and OUT/normals have NPY files beside: depth along the camera's axis in
metres, normals in the camera's axes (OpenCV), 0 where there is only sky, or where the lens has no rays.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pycolmap
from PIL import Image

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_datasets.lenses import Lens, lens_of
from distwar_gs.system.terminal import lossy_output, printable

Texture = Callable[[np.ndarray], np.ndarray]
"""Points [3, N] in the axes of the object, from its centre, to linear RGB albedo [3, N]."""

RECIPE = "demo_scene.json"
VERSION = 1  # raise it when the same arguments give another scene
POINT_COUNT = 3000
POINT_NOISE = 0.004  # metres
SUPERSAMPLING = 3  # rays per pixel and axis
LAMP = np.array([[1.3], [-1.1], [2.9]], dtype=np.float32)
LAMP_RADIUS = 0.35
LAMP_SAMPLES = 10
LAMP_POWER = 5.0
AMBIENT = 0.48
HIT_OFFSET = 1e-3
SUN = np.array([[0.6], [0.64], [0.48]], dtype=np.float32)
FOV = 200  # degrees across the image of a fisheye
PINHOLE = "PINHOLE"
LENSES: dict[str, tuple[float, ...]] = {
    PINHOLE: (),
    "SIMPLE_RADIAL": (-0.12,), "RADIAL": (-0.15, 0.04), "OPENCV": (-0.15, 0.04, 0.003, -0.002),
    "FULL_OPENCV": (-0.1, 0.02, 0.003, -0.002, 0.002, 0.05, -0.01, 0.002),
    "SIMPLE_FISHEYE": (), "FISHEYE": (), "SIMPLE_RADIAL_FISHEYE": (0.02,), "RADIAL_FISHEYE": (0.03, -0.004),
    "OPENCV_FISHEYE": (0.03, -0.008, 0.0012, 0.0),
    "THIN_PRISM_FISHEYE": (0.03, -0.008, 0.002, -0.001, 0.0012, 0.0, 0.001, -0.001), "FOV": (0.9,),
    "SIMPLE_DIVISION": (-0.2,), "DIVISION": (-0.2,), "EUCM": (0.6, 1.1), "EQUIRECTANGULAR": (),
}  # fmt: skip
"""Camera models of COLMAP, and the coefficients of the demo's lens behind its focal lengths and its centre."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what is written."""

    views: int = 40
    width: int = 160
    height: int = 120
    seed: int = 0
    sky: bool = False
    """Instead of walls and ceiling."""
    maps: bool = False
    """Depths and normals beside."""
    lens: str = PINHOLE
    fov: int = FOV

    @property
    def is_fisheye(self) -> bool:
        """Whether `fov` says how wide its lens is."""
        return self.lens.endswith("FISHEYE")


# --- textures: a few broad waves and soft edges, nothing finer than a pixel resolves ---------------------------------
# Points, directions and colours are [3, N]: NumPy is several times faster on long rows than on rows of three.


def rgb(code: str) -> np.ndarray:
    """Linear colour [3, 1] of an sRGB hex code."""
    levels = np.array([[int(code[i : i + 2], 16)] for i in (0, 2, 4)], dtype=np.float32)
    return (levels / 255.0) ** 2.2


def mix(first: str | np.ndarray, second: str | np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Blend two colours (hex codes, or [3, N]) by weight [N] in [0, 1]: [3, N]."""
    start, end = (rgb(color) if isinstance(color, str) else color for color in (first, second))
    return start + (end - start) * weight


def soft(value: np.ndarray, sharpness: float) -> np.ndarray:
    """A smooth step at value = 0, from 0 to 1."""
    return 0.5 + 0.5 * np.tanh(sharpness * value)


def checker(first: str, second: str, size: float) -> Texture:
    """A soft-edged checkerboard on the floor, gently shaded by a broad wave."""

    def texture(p: np.ndarray) -> np.ndarray:
        squares = np.sin(p[0] * (np.pi / size)) * np.sin(p[1] * (np.pi / size))
        return mix(first, second, soft(squares, 5.0)) * (0.9 + 0.1 * np.sin(1.3 * p[0] + 0.7) * np.cos(1.1 * p[1]))

    return texture


def waves(first: str, second: str, frequency: int, twist: float) -> Texture:
    """Stripes around the vertical axis that twist and swell with height."""

    def texture(p: np.ndarray) -> np.ndarray:
        stripes = np.sin(frequency * np.arctan2(p[1], p[0]) + twist * p[2])
        return mix(first, second, soft(stripes + 0.4 * np.sin(9.0 * p[2]), 2.5))

    return texture


def bands(first: str, second: str, axis: tuple[float, float, float], wobble: float) -> Texture:
    """Straight bands across `axis` (radians per metre), bent a little."""

    def texture(p: np.ndarray) -> np.ndarray:
        phase = axis[0] * p[0] + axis[1] * p[1] + axis[2] * p[2]
        return mix(first, second, soft(np.sin(phase + wobble * np.sin(5.0 * p[0] + 3.0 * p[2])), 2.5))

    return texture


def wallpaper(p: np.ndarray) -> np.ndarray:
    """Pastel walls: a hue that changes around the room, big soft dots, darker panels below 0.9 m."""
    hue = mix("e8c39a", "8fb8c9", 0.5 + 0.5 * np.sin(np.arctan2(p[1], p[0]) + 0.6))
    along = np.where(np.abs(p[0]) > np.abs(p[1]), p[1], p[0])
    upper = mix(hue, "f6ead2", soft(np.sin(3.2 * along + 0.5) * np.sin(3.2 * p[2]) - 0.45, 5.0))
    panels = mix("7a4b3a", "9c6b4f", soft(np.sin(6.0 * along), 2.0))
    return mix(upper, panels, soft(0.9 - p[2], 9.0))


def room_texture(p: np.ndarray) -> np.ndarray:
    """Floor, walls and ceiling, by height above the floor."""
    p = p + ROOM.half * [[0.0], [0.0], [1.0]]
    floor, ceiling = p[2] < 0.01, p[2] > 2.0 * ROOM.half[2] - 0.01
    walls = ~(floor | ceiling)
    color = np.empty_like(p)
    color[:, floor] = checker("d3bc98", "5e857c", 0.7)(p[:, floor])
    color[:, walls] = wallpaper(p[:, walls])
    color[:, ceiling] = bands("efe6d8", "d9cbb8", (2.2, 0.0, 0.0), 0.0)(p[:, ceiling])
    return color


def sky(direction: np.ndarray) -> np.ndarray:
    """Linear colours [3, N] of unit directions [3, N]: pale at the horizon, blue above, a glow around the sun."""
    height = np.clip(direction[2], 0.0, 1.0)
    glow = np.clip(dot(direction, SUN), 0.0, 1.0) ** 6
    return np.clip(mix("d9cfc0", "3f76bd", height**0.6) + 0.5 * glow * rgb("ffd9a0"), 0.0, 1.0)


# --- shapes ----------------------------------------------------------------------------------------------------------


def vector(*values: float) -> np.ndarray:
    """A column [3, 1]."""
    return np.array(values, dtype=np.float32)[:, None]


def dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[3, N] and [3, N] (or [3, 1]) to [N]."""
    return (first * second).sum(axis=0)


@dataclass(frozen=True, eq=False)
class Sphere:
    """A ball. Every shape has `center` [3, 1], `bound`, `texture` and the two methods."""

    center: np.ndarray
    radius: float
    texture: Texture

    @property
    def bound(self) -> float:
        """Radius of a ball about the centre that holds the shape."""
        return self.radius

    def intersect(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Distance [N] from origin [3, N or 1] along unit directions [3, N] to the first hit, inf where none."""
        offset = origin - self.center
        b = dot(offset, direction)
        inside = b * b - dot(offset, offset) + self.radius**2
        distance = -b - np.sqrt(np.maximum(inside, 0.0))
        return np.where((inside > 0.0) & (distance > 0.0), distance, np.inf)

    def normal(self, p: np.ndarray) -> np.ndarray:
        """Outward unit normals [3, N] at surface points [3, N]."""
        return (p - self.center) / self.radius

    def albedo(self, p: np.ndarray) -> np.ndarray:
        """Linear RGB [3, N] at surface points [3, N]."""
        return self.texture(p - self.center)


@dataclass(frozen=True, eq=False)
class Box:
    """A box turned about the vertical by `yaw` radians; with `inside`, a room seen from within."""

    center: np.ndarray
    half: np.ndarray
    yaw: float
    texture: Texture
    inside: bool = False

    @property
    def bound(self) -> float:
        """As `Sphere.bound`."""
        return float(np.linalg.norm(self.half))

    @property
    def axes(self) -> np.ndarray:
        """World to box rotation [3, 3]."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)

    def intersect(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """As `Sphere.intersect`, by the slab method."""
        start, step = self.axes @ (origin - self.center), self.axes @ direction
        inverse = 1.0 / np.where(np.abs(step) < 1e-9, np.float32(1e-9), step)
        middle, reach = -start * inverse, np.abs(inverse) * self.half
        near, far = (middle - reach).max(axis=0), (middle + reach).min(axis=0)
        distance = far if self.inside else near
        return np.where((near < far) & (distance > 0.0), distance, np.inf)

    def normal(self, p: np.ndarray) -> np.ndarray:
        """As `Sphere.normal`; inward for a room."""
        local = self.axes @ (p - self.center) / self.half
        face = np.abs(local).argmax(axis=0)
        outward = self.axes[face].T * np.sign(np.take_along_axis(local, face[None], axis=0))
        return -outward if self.inside else outward

    def albedo(self, p: np.ndarray) -> np.ndarray:
        """As `Sphere.albedo`."""
        return self.texture(self.axes @ (p - self.center))


Shape = Sphere | Box

ROOM = Box(vector(0.0, 0.0, 1.6), vector(3.4, 3.4, 1.6), 0.0, room_texture, inside=True)
FURNITURE: tuple[Shape, ...] = (
    Box(vector(0.0, 0.0, 0.15), vector(0.55, 0.55, 0.15), 0.4, bands("6b3f69", "a376a2", (0.0, 9.0, 9.0), 0.4)),
    Sphere(vector(0.0, 0.0, 0.78), 0.48, waves("d1495b", "f4e4c1", 5, 4.0)),
    Sphere(vector(1.05, 0.35, 0.34), 0.34, bands("edae49", "8c3f1d", (4.0, 3.0, 12.0), 0.7)),
    Sphere(vector(-0.35, 1.1, 0.28), 0.28, waves("00798c", "d4f1e4", 4, -6.0)),
    Box(vector(-0.95, -0.3, 0.42), vector(0.22, 0.22, 0.42), 0.9, bands("2f6690", "f2c14e", (0.0, 0.0, 11.0), 0.9)),
    Sphere(vector(0.45, -1.05, 0.24), 0.24, bands("4c9f70", "eaf4c8", (9.0, 9.0, 3.0), 0.5)),
)


# --- light -----------------------------------------------------------------------------------------------------------


def lamp_points() -> np.ndarray:
    """Points [LAMP_SAMPLES, 3, 1] spread over the lamp's disc in a sunflower pattern.

    They are the same for every surface point, so that a shadow looks the same from every view.
    """
    index = np.arange(LAMP_SAMPLES) + 0.5
    radius, angle = LAMP_RADIUS * np.sqrt(index / LAMP_SAMPLES), index * (np.pi * (3.0 - np.sqrt(5.0)))
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(radius)], axis=1)
    return LAMP + disc.astype(np.float32)[:, :, None]


def lamp_share(p: np.ndarray) -> np.ndarray:
    """Share [N] of the lamp that surface points [3, N] see past the furniture."""
    clear = np.ones((LAMP_SAMPLES, p.shape[1]), dtype=bool)
    for thing in FURNITURE:
        # Only points near the thing's shadow need rays: no ray to the lamp strays further than its radius.
        near = np.flatnonzero(passes_within(p, LAMP, thing.center, thing.bound + LAMP_RADIUS))
        start = p[:, near]
        for index, lamp in enumerate(lamp_points()):
            span = lamp - start
            distance = np.sqrt(dot(span, span))
            clear[index, near] &= thing.intersect(start, span / distance) >= distance
    return clear.mean(axis=0, dtype=np.float32)


def passes_within(start: np.ndarray, end: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """Whether the segments from start [3, N] to end [3, 1] come within `radius` of a centre: bool [N]."""
    span, offset = end - start, center - start
    along = np.clip(dot(offset, span) / dot(span, span), 0.0, 1.0)
    gap = offset - along * span
    return dot(gap, gap) < radius**2


def diffuse_light(p: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Light [N] arriving at surface points: a lamp with soft shadows, and the room's own, brighter from above."""
    span = LAMP - p
    squared = dot(span, span)
    cosine = np.maximum(dot(normal, span) / np.sqrt(squared), 0.0)
    total = AMBIENT * (0.8 + 0.2 * normal[2])
    lit = np.flatnonzero(cosine)
    total[lit] += LAMP_POWER * cosine[lit] / (2.0 + squared[lit]) * lamp_share(p[:, lit] + HIT_OFFSET * normal[:, lit])
    return total


def trace(
    origin: np.ndarray, direction: np.ndarray, outside: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hit, linear colour and normal, [3, N] each, of unit rays [3, N] from one origin [3, 1]; hits and normals of
    the sky are NaN."""
    shapes = (ROOM, *FURNITURE)
    distances = np.stack([shape.intersect(origin, direction) for shape in shapes])
    nearest = distances.argmin(axis=0)
    p = origin + direction * distances.min(axis=0)
    normal, albedo = np.empty_like(p), np.empty_like(p)
    for index, shape in enumerate(shapes):
        here = np.flatnonzero(nearest == index)
        normal[:, here], albedo[:, here] = shape.normal(p[:, here]), shape.albedo(p[:, here])
    color = albedo * diffuse_light(p, normal)
    if outside:
        open_air = np.flatnonzero((nearest == 0) & (p[2] > 0.01))
        p[:, open_air], normal[:, open_air], color[:, open_air] = np.nan, np.nan, sky(direction[:, open_air])
    return p, color, normal


# --- cameras ---------------------------------------------------------------------------------------------------------


def camera_of(recipe: Recipe) -> pycolmap.Camera:
    """Pixels are not quite square and the principal point is off the centre, as in real lenses."""
    center = (0.53 * recipe.width, 0.47 * recipe.height)
    if recipe.lens == "EQUIRECTANGULAR":
        params: tuple[float, ...] = (recipe.width, recipe.height)
    elif recipe.lens.startswith("SIMPLE") or recipe.lens in ("RADIAL", "RADIAL_FISHEYE"):
        params = (focal_length(recipe), *center, *LENSES[recipe.lens])
    else:
        params = (focal_length(recipe), 1.01 * focal_length(recipe), *center, *LENSES[recipe.lens])
    size = {"width": recipe.width, "height": recipe.height}
    return pycolmap.Camera(camera_id=1, model=recipe.lens, params=list(params), **size)


def focal_length(recipe: Recipe) -> float:
    """In pixels. A fisheye sees `fov` degrees across the width of its image."""
    if recipe.is_fisheye:
        angle, coefficients = np.radians(0.5 * recipe.fov), LENSES[recipe.lens]
        k = coefficients if recipe.lens != "THIN_PRISM_FISHEYE" else (*coefficients[:2], *coefficients[4:6])
        return 0.5 * recipe.width / (angle * (1.0 + sum(c * angle ** (2 * i + 2) for i, c in enumerate(k))))
    return {"FOV": 0.4, "EUCM": 0.3, "SIMPLE_DIVISION": 0.4, "DIVISION": 0.4}.get(recipe.lens, 0.8) * recipe.width


def camera_rays(recipe: Recipe, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Rays [3, H * W] in camera axes of pixels in columns u [W] and rows v [H]; NaN where the lens has none."""
    camera = camera_of(recipe)
    lens: Lens | None = None if recipe.lens == PINHOLE else lens_of(camera)
    if lens is not None:
        return lens.rays(np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)).T
    fx, fy, cx, cy = camera.params
    x, y = np.meshgrid((u - cx) / fx, (v - cy) / fy)
    return np.stack([x.ravel(), y.ravel(), np.ones(x.size)])


def world_to_camera(center: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[3, 4], OpenCV axes, z up in the world."""
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.hstack([rotation, (-rotation @ center)[:, None]])


def orbit(recipe: Recipe) -> list[np.ndarray]:
    """Poses [3, 4] around the furniture, rising and falling, looking inwards."""
    rng = np.random.default_rng(recipe.seed)
    angles = 2.0 * np.pi * (np.arange(recipe.views) / recipe.views)
    poses = []
    for angle, jitter in zip(angles, rng.normal(size=(recipe.views, 3)), strict=True):
        radius, height = 2.7 + 0.25 * np.cos(2.0 * angle), 1.4 + 0.6 * np.sin(3.0 * angle)
        center = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        poses.append(world_to_camera(center, np.array([0.0, 0.0, 0.6]) + 0.06 * jitter))
    return poses


def pixel_rays(recipe: Recipe, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin [3, 1] and unit directions [3, H*s*W*s] in the world, s = SUPERSAMPLING; pixel centres at +0.5. NaN where
    the lens has no ray."""
    x = (np.arange(recipe.width * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    y = (np.arange(recipe.height * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    direction = pose[:, :3].T @ camera_rays(recipe, x, y)
    direction /= np.linalg.norm(direction, axis=0)
    return (-pose[:, :3].T @ pose[:, 3:]).astype(np.float32), direction.astype(np.float32)


def render(recipe: Recipe, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One view: uint8 sRGB [H, W, 3], and the surface points [H, W, 3] that the pixel centres see; NaN for the sky.
    Where the lens has no rays the view is black, and there are no points (NaN)."""
    grid = (3, recipe.height, SUPERSAMPLING, recipe.width, SUPERSAMPLING)
    origin, direction = pixel_rays(recipe, pose)
    dark = np.isnan(direction).any(axis=0)
    direction[:, dark] = np.array([[1.0], [0.0], [0.0]])
    hits, linear, _ = trace(origin, direction, recipe.sky)
    hits[:, dark], linear[:, dark] = np.nan, 0.0
    mean = np.clip(linear.reshape(grid).mean(axis=(2, 4)), 0.0, 1.0)
    pixels = np.round(255.0 * mean ** (1.0 / 2.2)).astype(np.uint8)
    middle = hits.reshape(grid)[:, :, SUPERSAMPLING // 2, :, SUPERSAMPLING // 2]
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), middle.transpose(1, 2, 0)


def maps_of(recipe: Recipe, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a view what its pixel centres see: depth float32 [H, W] and normals [H, W, 3] in the camera's axes; 0: sky, or
    no ray."""
    origin, direction = pixel_rays(recipe, pose)
    grid = (3, recipe.height, SUPERSAMPLING, recipe.width, SUPERSAMPLING)
    middle = direction.reshape(grid)[:, :, SUPERSAMPLING // 2, :, SUPERSAMPLING // 2].reshape(3, -1)
    dark = np.isnan(middle).any(axis=0)
    middle[:, dark] = np.array([[1.0], [0.0], [0.0]])
    hits, _, normals = trace(origin, middle, recipe.sky)
    hits[:, dark], normals[:, dark] = np.nan, np.nan
    depth = (pose[2, :3] @ hits + pose[2, 3]).reshape(recipe.height, recipe.width)
    turned = (pose[:, :3] @ normals).T.reshape(recipe.height, recipe.width, 3)
    return np.nan_to_num(depth).astype(np.float32), np.nan_to_num(turned).astype(np.float32)


# --- files -----------------------------------------------------------------------------------------------------------


def write_dataset(folder: Path, recipe: Recipe) -> None:
    """Render all views and write images, model and recipe under `folder`."""
    poses = orbit(recipe)
    (folder / "images").mkdir()
    with ThreadPoolExecutor(2) as pool:
        renders = list(pool.map(lambda pose: render(recipe, pose), poses))
    for index, (pixels, _) in enumerate(renders):
        Image.fromarray(pixels).save(folder / "images" / image_name(index))
    write_model(folder / "sparse" / "0", recipe, poses, renders)
    if recipe.maps:
        write_maps(folder, recipe, poses)
    (folder / RECIPE).write_text(json.dumps(record(recipe)) + "\n")


def write_maps(folder: Path, recipe: Recipe, poses: list[np.ndarray]) -> None:
    """NPY files of depth and normals of each view."""
    for index, pose in enumerate(poses):
        for name, numbers in zip(("depths", "normals"), maps_of(recipe, pose), strict=True):
            (folder / name).mkdir(exist_ok=True)
            np.save(folder / name / image_name(index).replace(".png", ".npy"), numbers)


def record(recipe: Recipe) -> dict[str, int | str]:
    """What tells one demo scene from another; of a pinhole's without sky and maps as before there were others."""
    values = {name: value for name, value in asdict(recipe).items() if name not in ("lens", "fov")}
    lens = {} if recipe.lens == PINHOLE else {"lens": recipe.lens, "fov": recipe.fov if recipe.is_fisheye else 0}
    return {"version": VERSION, **{name: value for name, value in values.items() if value is not False}, **lens}


def image_name(index: int) -> str:
    return f"view_{index:03d}.png"


def write_model(
    folder: Path, recipe: Recipe, poses: list[np.ndarray], renders: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """A binary COLMAP model with one camera, every pose, and points sampled from what the views see."""
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera_of(recipe))
    for index, pose in enumerate(poses):
        image = pycolmap.Image(name=image_name(index), camera_id=1, image_id=index + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    positions, colors = sample_points(recipe, renders)
    for position, color in zip(positions, colors, strict=True):
        model.add_point3D(position, pycolmap.Track(), color)
    folder.mkdir(parents=True)
    model.write_binary(folder)


def sample_points(recipe: Recipe, renders: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Noisy surface points float64 [P, 3] and their colours uint8 [P, 3], equally many from every view, but for
    those that fall on the sky."""
    rng = np.random.default_rng([recipe.seed, 1])
    per_view = -(-POINT_COUNT // recipe.views)
    positions, colors = [], []
    for pixels, hits in renders:
        chosen = rng.integers(0, recipe.width * recipe.height, size=per_view)
        chosen = chosen[np.isfinite(hits.reshape(-1, 3)[chosen]).all(axis=1)]
        positions.append(hits.reshape(-1, 3)[chosen].astype(np.float64))
        colors.append(pixels.reshape(-1, 3)[chosen])
    exact = np.concatenate(positions)
    exact, seen = exact + rng.normal(scale=POINT_NOISE, size=exact.shape), np.concatenate(colors)
    there = np.isfinite(exact).all(axis=1)
    return exact[there], seen[there]


def make(out: Path, recipe: Recipe) -> str:
    """Write the dataset at `out` unless it is there; what happened, in one line. Raises ValueError for bad input."""
    if min(recipe.views, recipe.width, recipe.height) < 1:
        raise ValueError("--views, --width and --height must be at least 1")
    if recipe.fov != FOV and not recipe.is_fisheye:
        raise ValueError(f"--fov is for fisheyes; the width of a {recipe.lens} lens is its own")
    if not 1 <= recipe.fov <= 350:
        raise ValueError(f"--fov {recipe.fov}: use 1 to 350 degrees")
    if (out / RECIPE).is_file() and json.loads((out / RECIPE).read_text()) == record(recipe):
        return f"{out}: the demo scene is there already"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not this demo scene; delete it or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=".making-demo-"))
    try:
        write_dataset(temporary, recipe)
        temporary.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{out}: wrote {recipe.views} views of {recipe.width}x{recipe.height} and a COLMAP model"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the demo dataset, a ray-traced room, as a COLMAP folder.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    for name in ("views", "width", "height", "seed", "fov"):
        default, unit = getattr(Recipe(), name), ", degrees across the image of a fisheye" if name == "fov" else ""
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}{unit}")
    parser.add_argument("--lens", choices=LENSES, default=PINHOLE, help=f"COLMAP's camera model ({PINHOLE})")
    parser.add_argument("--sky", action="store_true", help="a sky instead of walls and ceiling")
    parser.add_argument("--maps", action="store_true", help="depths and normals of all views, too")
    options = vars(parser.parse_args())
    try:
        print(printable(make(options.pop("out"), Recipe(**options))))
    except (OSError, ValueError) as error:
        print(printable(f"make_demo_scene: {error}"), file=sys.stderr)
        return 1
    return 0


def run() -> NoReturn:
    """The program, as it is installed."""
    with lossy_output():
        code = main()
    sys.exit(code)


if __name__ == "__main__":
    run()
