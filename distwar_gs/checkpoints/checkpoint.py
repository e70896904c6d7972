"""Checkpoints: everything an interrupted run needs to continue as if it had not been interrupted.

Format 2 is `{"format", "format_version", "step", "config", "scene", "parts": {name: state}}`. This module knows what
all parts have in common; what a part holds, and whether it is sound, its owner knows (`Part`; the rows are
distwar_gs.training.state.PARTS). Format 1 has a fixed set of parts beside the rest; it is read as format 2. Format 3
has the Gaussians in other files (distwar_gs.checkpoints.shards): several ranks have written it.

A checkpoint is one plain dict of tensors, numbers and strings in `checkpoints/step_N.pt` of the run folder, so that
`torch.load(weights_only=True)` reads it: opening a stranger's checkpoint runs none of their code. Files appear under
their name only when they are complete and on the disk; `checkpoints/latest` names the newest and is written last. When
they are read, their checksums are compared (torch writes them, but does not look at them).

Which of them `--resume` means, and with which settings a run may go on: `distwar_gs.checkpoints.resume`.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from distwar_gs.checkpoints.checkpoint_archive import check_archive
from distwar_gs.checkpoints.shards import PARTS_OF_ROWS, read_shards, rows_for, shards_of, write_shard
from distwar_gs.config import current_name
from distwar_gs.gaussians.rows import trimmed
from distwar_gs.system.files import durable_write, read_bounded
from distwar_gs.system.parallel import ALONE, Ranks

log = logging.getLogger(__name__)

FORMAT = "distwar-gs checkpoint"
FORMAT_VERSION = 3
WHOLE_VERSION = 2
"""Of a checkpoint in one file: earlier programs read it."""
OLD_PARTS = ("params", "optimizers", "densification", "rng", "sampler")
"""Of format 1, which has the seconds of training as `elapsed_seconds`."""
CLOCK = "clock"
"""The part that holds them since."""
FOLDER = "checkpoints"
LATEST = "latest"


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
    config: dict[str, Any]
    """The resolved config, from `distwar_gs.config.as_values`."""
    scene: dict[str, Any]
    """From `distwar_gs.checkpoints.fingerprint.scene_fingerprint`."""
    parts: dict[str, Any]
    """Everything that a step changes, by the names of distwar_gs.training.state.PARTS."""

    @property
    def params(self) -> dict[str, Tensor]:
        """The Gaussians, as in distwar_gs.gaussians.model."""
        return self.parts["params"]

    @property
    def elapsed_seconds(self) -> float:
        """Training time so far, over all sessions of the run."""
        return self.parts[CLOCK]["elapsed_seconds"]


FIELDS = tuple(field.name for field in dataclasses.fields(Checkpoint))


@dataclass(frozen=True)
class Part:
    """What every checkpoint must hold, and what tells that it is damaged."""

    name: str
    is_sound: Callable[[Any, Checkpoint], bool]
    """Whether a run can go on from this part, and it fits the rest of the checkpoint. It may raise any error of plain
    Python and of torch instead of returning False."""


# ------------------------------------------------------------------------------------------------ writing


def save_checkpoint(run_folder: Path, checkpoint: Checkpoint, ranks: Ranks = ALONE) -> Path:
    """Write `checkpoints/step_N.pt` of the run folder, then point `checkpoints/latest` at it; returns the file.

    Of several ranks each has the checkpoint with its own Gaussians, and writes these, all at once; the first writes the
    rest when they have.

    Raises:
        CheckpointError: it could not be written (disk full, no permission), on whatever rank; older checkpoints are
            untouched.
    """
    path = run_folder / FOLDER / f"step_{checkpoint.step}.pt"
    if ranks.count > 1:
        _together(path, ranks, lambda: write_shard(path, ranks, checkpoint.parts))
        parts = {name: state for name, state in checkpoint.parts.items() if name not in PARTS_OF_ROWS}
        rest, number = dataclasses.replace(checkpoint, parts=parts), FORMAT_VERSION
        _together(path, ranks, lambda: _write(path, rest, number, shards=ranks.count) if ranks.leads else None)
    else:
        _together(path, ranks, lambda: _write(path, checkpoint, WHOLE_VERSION))
    return path


def _write(path: Path, checkpoint: Checkpoint, version: int, **more: int) -> None:
    content = {name: getattr(checkpoint, name) for name in FIELDS}
    content["parts"] = tree_map_only(Tensor, trimmed, checkpoint.parts)
    with durable_write(path) as file:
        torch.save({"format": FORMAT, "format_version": version, **content, **more}, file)
    with durable_write(path.parent / LATEST) as file:
        file.write(f"{path.name}\n".encode())


def _together(path: Path, ranks: Ranks, write: Callable[[], object]) -> None:
    """Writes on all ranks. Raises CheckpointError on all, where one could not."""
    failure: BaseException | None = None
    try:
        write()
    except (OSError, RuntimeError) as error:
        failure = error
    reasons = [reason for reason in ranks.gathered(_reason(failure) if failure else "") if reason]
    if reasons:
        raise CheckpointError(
            f"{path}: could not be written ({reasons[0]}); check free space and permissions. Older ones are untouched"
        ) from failure


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
            for file in (path, *shards_of(path)):
                file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: cannot be deleted (%s)", path, error.strerror)


# ------------------------------------------------------------------------------------------------ reading


def load_checkpoint(
    path: Path, device: torch.device | str, parts: Sequence[Part] = (), ranks: Ranks = ALONE
) -> Checkpoint:
    """Read a checkpoint of this format or an older one, with its tensors on `device`.

    Args:
        path: the file.
        device: for the tensors.
        parts: those that it must have. Others may be there, and are handed on as they are: whether they fit is seen by
            whoever knows them.
        ranks: who goes on from it: each gets its own of the Gaussians, whatever the number of those that wrote it.

    Raises:
        DamagedCheckpointError: the file is cut off, changed, or not one of ours.
        CheckpointError: the file is missing, or of a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; {remedy(path)}")
    content = _opened(path, path, device if ranks.count == 1 else "cpu")
    _check_format(path, content)
    if content["format_version"] == 1:
        content = _from_format_1(content)
    _refuse_lacking(path, FIELDS, content)
    content["parts"] = _with_rows(path, content, device, ranks)
    checkpoint = Checkpoint(**{name: content[name] for name in FIELDS})
    damaged = _damaged_field(checkpoint)
    if not damaged:
        _refuse_lacking(path, [part.name for part in parts], checkpoint.parts)
        damaged = _damaged_part(checkpoint, parts)
    if damaged:
        raise DamagedCheckpointError(path, f"{damaged} is damaged, or does not fit the rest of the file")
    config = {key: current_name(key, value) for key, value in checkpoint.config.items()}
    return dataclasses.replace(checkpoint, config=config)


def _opened(path: Path, of: Path, device: torch.device | str) -> Any:
    """What a file holds; `of`: the checkpoint that it belongs to."""
    try:
        check_archive(path)
        return torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what torch raises for a broken file changes between versions
        reason = f"{type(error).__name__} {error}".partition("\n")[0].partition(". ")[0]
        file = "" if path == of else f"{path.name} is "
        raise DamagedCheckpointError(of, f"{file}cut off, or no checkpoint at all ({reason})") from error


def _with_rows(path: Path, content: Mapping[str, Any], device: torch.device | str, ranks: Ranks) -> Any:
    """The parts, with the Gaussians that are this rank's."""
    parts, shards = content["parts"], content.get("shards", 1)
    if "shards" not in content and ranks.count == 1:
        return parts
    if type(shards) is not int or not 1 <= shards < 2**16 or not isinstance(parts, dict):
        raise DamagedCheckpointError(path, "shards is damaged, or does not fit the rest of the file")
    try:
        if "shards" not in content:
            return parts | rows_for(parts, shards, ranks, device)
        return parts | read_shards(path, shards, ranks, device, lambda file: _opened(file, path, "cpu"))
    except (TypeError, AttributeError, LookupError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError | torch.OutOfMemoryError):
            raise
        raise DamagedCheckpointError(path, f"its shards do not fit each other ({error})") from error


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


def _check_format(path: Path, content: object) -> None:
    """Refuse files that load but are not our checkpoints."""
    if not isinstance(content, dict) or not _equal(content.get("format"), FORMAT):
        raise DamagedCheckpointError(path, "not a checkpoint of distwar-gs (a model of another trainer?)")
    version = content.get("format_version")
    if not any(_equal(version, known) for known in range(1, FORMAT_VERSION + 1)):
        raise CheckpointError(
            f"{path}: checkpoint format {version}, this program reads 1 to {FORMAT_VERSION}; "
            "use the version of distwar-gs it was made with"
        )


def _from_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same as format 2; what it lacks is lacking there."""
    parts = {name: content[name] for name in OLD_PARTS if name in content}
    if "elapsed_seconds" in content:
        parts[CLOCK] = {"elapsed_seconds": content["elapsed_seconds"]}
    return {**content, "parts": parts}


def _refuse_lacking(path: Path, names: Sequence[str], content: Mapping[str, Any]) -> None:
    missing = sorted(set(names) - content.keys())
    if missing:
        raise DamagedCheckpointError(path, f"lacks {', '.join(missing)}")


def _damaged_field(checkpoint: Checkpoint) -> str | None:
    """The first field that no checkpoint can be used without, and that is of a wrong type."""
    config, scene, step = checkpoint.config, checkpoint.scene, checkpoint.step
    sound = {
        "step": type(step) is int and 0 <= step < 2**63,
        "config": isinstance(config, dict) and isinstance(config.get("densification.strategy"), str),
        "scene": isinstance(scene, dict) and type(scene.get("training views")) is int,
        "parts": isinstance(checkpoint.parts, dict) and all(isinstance(name, str) for name in checkpoint.parts),
    }
    return next((name for name, holds in sound.items() if not holds), None)


def _damaged_part(checkpoint: Checkpoint, parts: Sequence[Part]) -> str | None:
    """The first part that holds more than the file did, or that is not sound."""
    checks = {part.name: part.is_sound for part in parts}
    for name in dict.fromkeys([*checks, *checkpoint.parts]):
        state = checkpoint.parts[name]
        try:
            is_sound = checks[name](state, checkpoint) if name in checks else True
            if not is_sound or not all(map(_is_plain, tree_leaves(state))):
                return name
        except (TypeError, AttributeError, LookupError, ValueError, RuntimeError, OverflowError):
            return name
    return None


def _is_plain(value: object) -> bool:
    """Not a tensor that, by strides of 0, claims more numbers than the file held."""
    if not isinstance(value, Tensor):
        return True
    return value.layout == torch.strided and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _equal(value: object, expected: str | int) -> bool:
    """Equality that a tensor in the wrong place does not turn into a tensor."""
    return type(value) is type(expected) and value == expected
