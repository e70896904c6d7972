"""Whether a checkpoint belongs to a scene: what is kept of the scene, and compared when a run goes on."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distwar_gs.checkpoints.checkpoint import Checkpoint, CheckpointError

if TYPE_CHECKING:  # checkpoints are read without the readers of datasets
    from distwar_datasets.scene import Scene

log = logging.getLogger(__name__)

CAMERAS = "poses and intrinsics of the views"
"""Key of the scene's fingerprint: float32 [views, 16 + 9], world-to-camera matrices in the training frame, and Ks."""
FRAME = "training frame (shift, scale)"
"""Key of the scene's fingerprint: four float64 numbers. Older checkpoints have them to six digits."""
IMAGE_BYTES = "bytes of the image files"
"""Key of the scene's fingerprint."""


def scene_fingerprint(scene: "Scene") -> dict[str, Any]:
    """What must not change between the sessions of a run: the views, their split, sizes and cameras, the frame."""
    digest = hashlib.sha256()
    for view in (*scene.train, None, *scene.test):
        digest.update(f"{view.name} {view.width}x{view.height}\n".encode() if view else b"--\n")
        if view and view.lens:
            digest.update(repr(view.lens).encode())
    views, frame = (*scene.train, *scene.test), (*scene.normalisation.shift, scene.normalisation.scale)
    return {
        "kind": scene.kind,
        "training views": len(scene.train),
        "test views": len(scene.test),
        "split rule": scene.split_rule,
        "image source": scene.image_source,
        "names and sizes of the views": digest.hexdigest(),
        FRAME: [float(value) for value in frame],
        CAMERAS: torch.tensor([[*view.viewmat.ravel(), *view.K.ravel()] for view in views], dtype=torch.float32),
        IMAGE_BYTES: sum(view.image_path.stat().st_size for view in views),
    }


def check_scene(path: Path, checkpoint: Checkpoint, fingerprint: Mapping[str, Any], source: Path) -> None:
    """Refuse to continue on other data than the run began with; image files of another size are only warned of.

    Args:
        path: the checkpoint's file, for messages.
        checkpoint: what was read from it.
        fingerprint: of the scene that is there now.
        source: the folder of this scene, for messages.

    Raises:
        CheckpointError: naming what differs.
    """
    for key, value in fingerprint.items():
        saved = checkpoint.scene.get(key)
        if key == IMAGE_BYTES:
            if saved not in (None, value):
                log.warning(
                    "%s: the image files had %s bytes and have %s: are they the same photos?", path, saved, value
                )
        elif key == FRAME:
            if not _is_same_frame(saved, value):
                raise _other_scene(path, f"the {key} was {saved} and is {value} in {source}")
        elif isinstance(value, Tensor):
            if saved is not None and not torch.allclose(saved.to(value), value, rtol=1e-5, atol=1e-6):
                raise _other_scene(path, f"the {key} differ from those of {source}")
        elif saved != value:
            raise _other_scene(path, f"{key} was {saved} and is {value} in {source}")


def _is_same_frame(saved: object, frame: list[float]) -> bool:
    """Whether two training frames are one but for last digits, which are the machine's: to 1e-5 of the scene extent.

    Far from the origin six digits are not that, so older checkpoints are only compared as they always were.
    """
    if saved == [float(f"{value:.6g}") for value in frame]:
        return True
    if not isinstance(saved, list) or len(saved) != 4 or not all(isinstance(value, float) for value in saved):
        return False
    *shift, scale = frame
    apart = [scale * (was - now) for was, now in zip(saved, shift, strict=False)] + [saved[3] / scale - 1.0]
    return all(abs(difference) <= 1e-5 for difference in apart)


def _other_scene(path: Path, difference: str) -> CheckpointError:
    remedy = "give the data and the options of section data that the run began with, or start without --resume"
    return CheckpointError(f"{path}: made on another scene: {difference}; {remedy}")
