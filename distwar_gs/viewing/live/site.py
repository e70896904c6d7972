"""What a page shows beside pictures: the views, the photos, what is saved in the run folder."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from distwar_datasets import Scene, View
from distwar_datasets.errors import DataError
from distwar_gs.formats.cameras_json import save_cameras_json
from distwar_gs.viewing import camera_paths
from distwar_gs.viewing.live.cameras import free_view, vertical_fov
from distwar_gs.viewing.live.crop import as_values, load_crop, save_crop
from distwar_gs.viewing.live.orders import MODES, CropBox, SaveKeys
from distwar_gs.viewing.live.pictures import Photos
from distwar_gs.viewing.path_files import read_path
from distwar_gs.viewing.path_views import path_views

log = logging.getLogger(__name__)

PATHS, KEYS = "camera_paths", "keys"
"""Folder of the run in which key views are saved, and the name that they have first."""
KEY_SIZE = (1280, 720)
"""Width and height in pixels of the pictures of a path that was set by hand."""

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGE = {"/": "index.html", "/style.css": "style.css"} | {
    f"/{name}.js": f"{name}.js" for name in ("camera", "controls", "drawing", "link", "page")
}
"""What is served of the folder page/, by its address."""


@dataclass
class Site:
    """A scene, the folder of a run, and what pages have set there."""

    scene: Scene
    folder: Path
    origin: np.ndarray
    """float64 [3], what positions in the run's files are relative to."""
    background: tuple[float, float, float]
    is_live: bool
    """Whether the model is in training."""
    views: tuple[View, ...] = field(init=False)
    """Training views, then test views."""
    photos: Photos = field(init=False)
    crop: CropBox | None = field(init=False)
    """Read by the thread that renders."""

    def __post_init__(self) -> None:
        """With the box that was saved."""
        self.views = (*self.scene.train, *self.scene.test)
        self.photos = Photos(self.views, self.background)
        self.crop = load_crop(self.folder, self.scene.normalisation)

    def set_crop(self, box: CropBox | None) -> str:
        """Draws with another box from now on, and saves it; words for whoever asked. Raises OSError."""
        self.crop = box
        path = save_crop(self.folder, box, self.scene.normalisation)
        return f"crop box saved in {path}" if box else "no crop box"

    def save_keys(self, keys: SaveKeys) -> str:
        """Saves key views as a file that render.py --path plays; the command, for whoever asked. Raises OSError."""
        path = self.folder / PATHS / f"{keys.name}.json"
        names = (f"{keys.name}_{index}" for index in range(len(keys.poses)))
        views = [free_view(pose, KEY_SIZE, self.views[0], name) for pose, name in zip(keys.poses, names, strict=True)]
        save_cameras_json(path, views, self.scene.normalisation, self.origin)
        return f"saved; python render.py {self.folder} --skip_test --path {path} --frames 240"

    def description(self) -> bytes:
        """JSON of all that a page must know before it can ask for pictures."""
        scene, viewmats = self.scene, np.stack([view.viewmat for view in self.views])
        up = -viewmats[:, 1, :3].mean(axis=0)
        content = {
            "name": self.folder.name or str(self.folder), "live": self.is_live, "modes": MODES,
            "extent": scene.extent, "focus": camera_paths.focus_point(viewmats).tolist(),
            "up": (up / max(float(np.linalg.norm(up)), 1e-9)).tolist(),
            "crop": None if self.crop is None else as_values(self.crop), "keys": self._keys(),
            "views": [self._view(index, view) for index, view in enumerate(self.views)],
        }  # fmt: skip
        return json.dumps(content).encode()

    def _view(self, index: int, view: View) -> dict[str, Any]:
        split = "train" if index < len(self.scene.train) else "test"
        return {"name": view.name, "split": split, "size": [view.width, view.height], **_pose(view)}

    def _keys(self) -> list[dict[str, Any]]:
        """The key views that were saved under the usual name."""
        file = self.folder / PATHS / f"{KEYS}.json"
        if not file.is_file():
            return []
        try:
            return [_pose(view) for view in path_views(read_path(file), self.scene, self.origin)]
        except (DataError, OSError) as error:
            log.warning("%s; the viewer begins without its key views", error)
            return []


def _pose(view: View) -> dict[str, Any]:
    """As a page sends poses (`orders.Pose`)."""
    return {"viewmat": [round(number, 9) for number in view.viewmat.ravel().tolist()], "fov": vertical_fov(view)}


def page_files() -> dict[str, tuple[str, bytes]]:
    """Type and content by address."""
    folder = resources.files("distwar_gs.viewing.live") / "page"
    return {address: (TYPES[Path(name).suffix], (folder / name).read_bytes()) for address, name in PAGE.items()}
