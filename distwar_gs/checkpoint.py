"""Checkpoints: everything an interrupted run needs to continue as if it had not been interrupted.

A checkpoint is one plain dict of tensors, numbers and strings in `checkpoints/step_N.pt` of the run folder, so that
`torch.load(weights_only=True)` reads it: opening a stranger's checkpoint runs none of their code. Files appear under
their name only when they are complete and on the disk; `checkpoints/latest` names the newest and is written last.
"""

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distwar_gs.checkpoint_parts import damaged_part
from distwar_gs.files import durable_write
from distwar_gs.rows import without_room

if TYPE_CHECKING:  # rendering from a checkpoint needs no dataset readers
    from datasets.scene import Scene

log = logging.getLogger(__name__)

FORMAT = "distwar-gs checkpoint"
FORMAT_VERSION = 1
FOLDER = "checkpoints"
LATEST = "latest"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the remedy."""


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
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(f"{path}: could not be written ({error}); check free space and permissions") from error
    return path


def load_checkpoint(path: Path, device: torch.device | str) -> Checkpoint:
    """Read a checkpoint with its tensors on `device`.

    Raises:
        CheckpointError: the file is missing, cut off, not one of ours, or of a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; {_others(path)}")
    try:
        _check_archive(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what torch raises for a broken file changes between versions
        reason = f"{type(error).__name__} {error}".partition("\n")[0].partition(". ")[0]
        raise CheckpointError(f"{path}: cut off, or no checkpoint at all ({reason}); {_others(path)}") from error
    _check_content(path, content)
    return Checkpoint(**{name: content[name] for name in FIELDS})


def find_checkpoint(run_folder: Path, resume: str | Path) -> Path | None:
    """The checkpoint that `--resume` means.

    Args:
        run_folder: of the run to continue.
        resume: "auto" for the newest one of the run folder; or a file; or a folder of another run.

    Returns:
        The file, or None: "auto" in a run folder without checkpoints, where the run starts from the beginning.

    Raises:
        CheckpointError: the path does not exist, or is a folder without checkpoints.
    """
    if str(resume) == "auto":
        return _newest(run_folder / FOLDER)
    path = Path(resume)
    if path.is_file():
        return path
    found = _newest(path / FOLDER) or _newest(path)
    if found is None:
        raise CheckpointError(f"{path}: no checkpoint there; {_others(run_folder / FOLDER / LATEST)}")
    return found


def _newest(folder: Path) -> Path | None:
    """What `latest` names; if it is missing or names a file that is gone, the one with the most steps."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        named = folder / (folder / LATEST).read_text().strip()
        if named.suffix == ".pt" and named.is_file():
            return named
    return max(_all(folder), key=lambda path: int(path.stem[5:]), default=None)


def _all(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, by steps."""
    files = (path for path in folder.glob("step_*.pt") if path.stem[5:].isdecimal())
    return sorted(files, key=lambda path: int(path.stem[5:]))


def _others(path: Path) -> str:
    """The remedy for a checkpoint that cannot be used: which others lie beside it."""
    others = [other for other in _all(path.parent) if other != path]
    if not others:
        return "there is no other one beside it: start without --resume"
    return "resume from another one: " + ", ".join(f"--resume {other}" for other in others[-3:])


def _check_archive(path: Path) -> None:
    """ValueError for what torch would take for its format of old, whose lengths it believes."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("not an archive of torch.save")


def _check_content(path: Path, content: object) -> None:
    """Refuse files that load but are not our checkpoints."""
    if not isinstance(content, dict) or not _equal(content.get("format"), FORMAT):
        raise CheckpointError(f"{path}: not a checkpoint of distwar-gs (a model of another trainer?); {_others(path)}")
    version = content.get("format_version")
    if not _equal(version, FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: checkpoint format {version}, this program reads {FORMAT_VERSION}; "
            "use the version of distwar-gs it was made with"
        )
    missing = sorted(FIELDS - content.keys())
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(missing)}; {_others(path)}")
    damaged = damaged_part(content)
    if damaged:
        raise CheckpointError(f"{path}: {damaged} is damaged, or does not fit the rest of the file; {_others(path)}")


def _equal(value: object, expected: str | int) -> bool:
    """Equality that a tensor in the wrong place does not turn into a tensor."""
    return type(value) is type(expected) and value == expected


# ------------------------------------------------------------------------------------------------ randomness


def capture_rng(generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """The state of PyTorch's own random numbers and of the run's generators."""
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
    """What must not change between the sessions of a run: the views, their split and sizes, the frame."""
    digest = hashlib.sha256()
    for view in (*scene.train, None, *scene.test):
        digest.update(f"{view.name} {view.width}x{view.height}\n".encode() if view else b"--\n")
    frame = (*scene.normalisation.shift, scene.normalisation.scale)
    return {
        "kind": scene.kind,
        "training views": len(scene.train),
        "test views": len(scene.test),
        "split rule": scene.split_rule,
        "image source": scene.image_source,
        "names and sizes of the views": digest.hexdigest(),
        "training frame (shift, scale)": [
            float(f"{value:.6g}") for value in frame
        ],  # the last digits are the machine's
    }


def check_scene(path: Path, checkpoint: Checkpoint, scene: "Scene") -> None:
    """Refuse to continue on other data than the run began with.

    Raises:
        CheckpointError: naming what differs.
    """
    for key, value in scene_fingerprint(scene).items():
        saved = checkpoint.scene.get(key)
        if saved != value:
            raise CheckpointError(
                f"{path}: made on another scene: {key} was {saved} and is {value} in {scene.source}; "
                "give the data and the options of section data that the run began with, or start without --resume"
            )
