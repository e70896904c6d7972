"""Checkpoints: everything an interrupted run needs to continue as if it had not been interrupted.

A checkpoint is one plain dict of tensors, numbers and strings in `checkpoints/step_N.pt` of the run folder, so that
`torch.load(weights_only=True)` reads it: opening a stranger's checkpoint runs none of their code. Files appear under
their name only when they are complete and on the disk; `checkpoints/latest` names the newest and is written last. When
they are read, their checksums are compared (torch writes them, but does not look at them).

Which of them `--resume` means, and with which settings a run may go on: `distwar_gs.resume`.
"""

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distwar_gs.checkpoint_archive import check_archive
from distwar_gs.checkpoint_parts import damaged_part
from distwar_gs.config import current_name
from distwar_gs.files import durable_write, read_bounded
from distwar_gs.rows import without_room

if TYPE_CHECKING:  # rendering from a checkpoint needs no dataset readers
    from datasets.scene import Scene

log = logging.getLogger(__name__)

FORMAT = "distwar-gs checkpoint"
FORMAT_VERSION = 1
FOLDER = "checkpoints"
LATEST = "latest"

CAMERAS = "poses and intrinsics of the views"
"""Key of the scene's fingerprint: float32 [views, 16 + 9], world-to-camera matrices in the training frame, and Ks."""
FRAME = "training frame (shift, scale)"
"""Key of the scene's fingerprint: four float64 numbers. Older checkpoints have them to six digits."""
IMAGE_BYTES = "bytes of the image files"
"""Key of the scene's fingerprint."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


class DamagedCheckpointError(CheckpointError):
    """A file that is none of our checkpoints, or no longer whole. The one before it may be."""

    def __init__(self, path: Path, reason: str) -> None:
        """The message adds which other checkpoints there are to `reason`."""
        super().__init__(f"{path}: {reason}; {remedy(path)}")
        self.reason = reason


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a run after `step` steps. Holds plain values only: tensors, numbers, strings, dicts, lists."""

    step: int
    params: dict[str, Tensor]
    """The Gaussians, as in distwar_gs.model."""
    optimizers: dict[str, dict[str, Any]]
    """From `distwar_gs.optimizer.state_dicts`."""
    densification: dict[str, Tensor]
    """From `Densifier.state_dict`."""
    rng: dict[str, Any]
    """From `capture_rng`."""
    sampler: dict[str, Any]
    """The order of the training views and the position in it."""
    config: dict[str, Any]
    """The resolved config, from `distwar_gs.config.as_values`."""
    scene: dict[str, Any]
    """From `scene_fingerprint`."""
    elapsed_seconds: float
    """Training time so far, over all sessions of the run."""


FIELDS = {field.name for field in dataclasses.fields(Checkpoint)}

# ------------------------------------------------------------------------------------------------ writing


def save_checkpoint(run_folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoints/step_N.pt` of the run folder, then point `checkpoints/latest` at it; returns the file.

    Raises:
        CheckpointError: it could not be written (disk full, no permission); older checkpoints are untouched.
    """
    path = run_folder / FOLDER / f"step_{checkpoint.step}.pt"
    content = {name: getattr(checkpoint, name) for name in FIELDS}
    content["params"] = {name: without_room(param) for name, param in checkpoint.params.items()}
    try:
        with durable_write(path) as file:
            torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, **content}, file)
        with durable_write(path.parent / LATEST) as file:
            file.write(f"{path.name}\n".encode())
    except (OSError, RuntimeError) as error:
        reason = _reason(error)
        raise CheckpointError(
            f"{path}: could not be written ({reason}); check free space and permissions. Older ones are untouched"
        ) from error
    return path


def _reason(error: BaseException) -> str:
    """Why writing failed, in the system's words. torch.save closes its file on any failure, and hides it behind the
    RuntimeError that this raises; an interrupt that is hidden so goes on its way."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, KeyboardInterrupt):
            raise cause
    return next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), str(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def remove_old(run_folder: Path, step: int, keep: int, named: Collection[int]) -> None:
    """Delete all but the newest `keep` checkpoints up to `step`, that of the one just written; 0 deletes none.

    Those of the steps in `named` are neither counted nor deleted: the user asked for them. Nor are those of later
    steps: another run wrote them, or this one before it was sent back. What cannot be deleted stays, with a warning.
    """
    old = [path for path in _all(run_folder / FOLDER) if _step_of(path) <= step and _step_of(path) not in named]
    for path in old[:-keep] if keep else []:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: cannot be deleted (%s)", path, error.strerror)


# ------------------------------------------------------------------------------------------------ reading


def load_checkpoint(path: Path, device: torch.device | str) -> Checkpoint:
    """Read a checkpoint with its tensors on `device`.

    Raises:
        DamagedCheckpointError: the file is cut off, changed, or not one of ours.
        CheckpointError: the file is missing, or of a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; {remedy(path)}")
    try:
        check_archive(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what torch raises for a broken file changes between versions
        reason = f"{type(error).__name__} {error}".partition("\n")[0].partition(". ")[0]
        raise DamagedCheckpointError(path, f"cut off, or no checkpoint at all ({reason})") from error
    _check_content(path, content)
    content["config"] = {key: current_name(key, value) for key, value in content["config"].items()}
    return Checkpoint(**{name: content[name] for name in FIELDS})


def candidates(folder: Path) -> list[Path]:
    """The checkpoints of a folder that "auto" may continue from, the best first: the newest, then those of fewer steps.

    Those of more steps are left out: a run that began anew in the folder, or was sent back, has not made them.
    """
    newest = _newest(folder)
    earlier = [path for path in _all(folder) if newest and _step_of(path) < _step_of(newest)]
    return [newest, *reversed(earlier)] if newest else []


def remedy(path: Path) -> str:
    """What to do about a checkpoint that cannot be used: which others lie beside it."""
    others = [other for other in _all(path.parent) if other != path]
    if not others:
        return "there is no other one beside it: start without --resume"
    return "resume from another one: " + ", ".join(f"--resume {other}" for other in others[-3:])


def _newest(folder: Path) -> Path | None:
    """What `latest` names; if it is missing or names a file that is gone, the one with the most steps."""
    everything = _all(folder)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        named = folder / read_bounded(folder / LATEST, 1000).decode().strip()
        if named in everything:
            return named
    return max(everything, key=_step_of, default=None)


def _all(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, by steps."""
    numbered = (path for path in folder.glob("step_*.pt") if path.stem[5:].isdecimal())
    return sorted(filter(Path.is_file, numbered), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _check_content(path: Path, content: object) -> None:
    """Refuse files that load but are not our checkpoints."""
    if not isinstance(content, dict) or not _equal(content.get("format"), FORMAT):
        raise DamagedCheckpointError(path, "not a checkpoint of distwar-gs (a model of another trainer?)")
    version = content.get("format_version")
    if not _equal(version, FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: checkpoint format {version}, this program reads {FORMAT_VERSION}; "
            "use the version of distwar-gs it was made with"
        )
    missing = sorted(FIELDS - content.keys())
    if missing:
        raise DamagedCheckpointError(path, f"lacks {', '.join(missing)}")
    damaged = damaged_part(content)
    if damaged:
        raise DamagedCheckpointError(path, f"{damaged} is damaged, or does not fit the rest of the file")


def _equal(value: object, expected: str | int) -> bool:
    """Equality that a tensor in the wrong place does not turn into a tensor."""
    return type(value) is type(expected) and value == expected


# ------------------------------------------------------------------------------------------------ randomness


def capture_rng(generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """The state of PyTorch's own random numbers, on the CPU and on every GPU, and of the run's generators.

    NumPy's and Python's are not in it, because no part of a run draws from them.
    """
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
        "generators": {
            name: {"device": generator.device.type, "state": generator.get_state()}
            for name, generator in generators.items()
        },
    }


def restore_rng(rng: Mapping[str, Any], generators: Mapping[str, torch.Generator]) -> None:
    """Continue the random numbers of a checkpoint.

    Another kind of device has another kind of generator: those keep the state they have, with a warning.
    """
    torch.set_rng_state(rng["torch"].cpu())
    if rng["cuda"] is not None and len(rng["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in rng["cuda"]])
    for name, generator in generators.items():
        saved = rng["generators"].get(name)
        if saved is None or saved["device"] != generator.device.type:
            log.warning("the random numbers of %r start anew: the checkpoint has none for this device", name)
        else:
            generator.set_state(saved["state"].cpu())


# ------------------------------------------------------------------------------------------------ the scene


def scene_fingerprint(scene: "Scene") -> dict[str, Any]:
    """What must not change between the sessions of a run: the views, their split, sizes and cameras, the frame."""
    digest = hashlib.sha256()
    for view in (*scene.train, None, *scene.test):
        digest.update(f"{view.name} {view.width}x{view.height}\n".encode() if view else b"--\n")
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
