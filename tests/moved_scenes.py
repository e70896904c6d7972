"""The demo scene elsewhere and at another size, as georeferenced and scaled models are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap
from demo_runs import demo_config

from distwar_gs.training.trainer import Trainer

PLACES = {
    "UTM": ((452310.7, 5411950.2, 263.4), 1.0),
    "ECEF": ((4177000.25, -862000.75, 4729000.5), 1.0),
    "negative": ((-6.1e6, -5.2e6, -263.4), 1.0),
    "one axis": ((0.0, 6.3e6, 0.0), 1.0),
    "a kilometre wide": ((452310.7, 5411950.2, 263.4), 250.0),
    "a hand wide": ((452310.7, 5411950.2, 263.4), 0.025),
    "UTM in kilometres": ((452.3107, 5411.9502, 0.2634), 0.001),
    "a local grid": ((1000.0, 2000.0, 1000.0), 1.0),
}
"""Offset and scale of scenes for which float32 is too coarse in the frame of the input."""
STEPS = 20


def write_moved(demo: Path, folder: Path, offset: Sequence[float], scale: float = 1.0) -> Path:
    """The demo scene with every position times `scale` plus `offset`, and the same images. Returns `folder`."""
    model = pycolmap.Reconstruction(demo / "sparse/0")
    (folder / "sparse/0").mkdir(parents=True)
    (folder / "images").symlink_to(demo / "images")
    model.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(), np.array(offset, dtype=np.float64)))
    model.write_text(folder / "sparse/0")
    return folder


def camera_places(scene: Path) -> dict[str, np.ndarray]:
    """Float64 [3] by image name, in the scene's world frame."""
    model = pycolmap.Reconstruction(scene / "sparse/0")
    return {image.name: image.projection_center() for image in model.images.values()}


def trained(scene: Path, folder: Path, **changes: object) -> Trainer:
    """STEPS steps with adc, whose first steps are the same in a longer run."""
    values = {"train.iterations": STEPS, "model.sh_degree": 1, "densification.strategy": "adc"}
    run = Trainer(demo_config(scene, folder, values | changes))
    assert run.run() == 0
    return run
