"""What `--resume` goes on from, and with which settings it may."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distwar_gs.checkpoints.checkpoint import (
    FOLDER,
    LATEST,
    Checkpoint,
    CheckpointError,
    DamagedCheckpointError,
    Part,
    candidates,
    load_checkpoint,
    remedy,
)
from distwar_gs.checkpoints.fingerprint import check_scene
from distwar_gs.config import (
    DEFAULT_STRATEGY,
    FIELDS,
    PRESETS,
    Config,
    as_values,
    chosen_values,
    config_of,
    validate,
    with_values,
)
from distwar_gs.config.schedule import FOLLOWERS
from distwar_gs.formats.table import is_model_file
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.system.parallel import ALONE, Ranks

log = logging.getLogger(__name__)

STRATEGY = "densification.strategy"
FIXED = (
    "data.background", "data.masks", "data.invert_masks", "data.alpha", "model.antialiased", "model.init",
    "model.init_ply", "model.init_points", "model.init_opacity", "model.init_scale", "model.init_pixels", STRATEGY,
    "train.seed",
)  # fmt: skip
"""Settings that a run keeps: what its parameters and statistics mean, or what only its beginning could use. So it does
`model.sh_degree`, and the options of section data as far as another scene comes of them: those have checks of their own
(the parameters' shape, `check_scene`)."""
DERIVED = ("model.near_plane",)
"""Settings that null derives from the scene when a run begins; one that goes on keeps what it began with."""
START = "model.init_ply"
"""Of these the one that may be left out when a run goes on: it does not read the file again."""
FREE = ("data.", "train.", "log.", "reduction.")
"""Sections whose other settings may change from session to session: where things are, how long, what is told. Those of
the rest (rates, thresholds, schedules) may change too, but the run is then no longer what one session would have made
of either config, which is said."""


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
        return next(iter(candidates(run_folder / FOLDER)), None)
    path = Path(resume)
    if is_model_file(path):
        raise CheckpointError(
            f"{path}: is a model, not a checkpoint with the optimiser's state; start from it with --init_ply {path}"
        )
    if path.is_file():
        return path
    found = [*candidates(path / FOLDER), *candidates(path)]
    if not found:
        raise CheckpointError(f"{path}: no checkpoint there; {remedy(run_folder / FOLDER / LATEST)}")
    return found[0]


def resumed(
    run_folder: Path,
    config: Config,
    parts: Sequence[Part],
    fingerprint: Mapping[str, Any],
    source: Path,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> tuple[Path | None, Checkpoint | None, Config]:
    """The checkpoint that a run goes on from, its file, and the config with which it does.

    Args:
        run_folder: of the run.
        config: as it is given now; it says whether to resume.
        parts: that a checkpoint must have.
        fingerprint: of the scene as it is now (`scene_fingerprint`).
        source: the scene's folder, for messages.
        device: where the tensors go.
        ranks: who goes on; the first one finds the file.

    Returns:
        None, None and the config where the run begins.

    Raises:
        CheckpointError: there is none, it is of another scene, or a setting that a run keeps is another one now.
    """
    resume = config.train.resume
    if not resume and find_checkpoint(run_folder, "auto"):
        log.warning("%s holds an earlier run: --resume auto continues it, another -m keeps it", run_folder)
    found = _open_together(run_folder, resume, device, parts, ranks) if resume else None
    if found is None:
        return None, None, config
    path, saved = found
    check_scene(path, saved, fingerprint, source)
    _check_sh_degree(path, sh_degree_of(saved.params), config.model.sh_degree)
    config = with_its_schedule(saved, with_its_strategy(saved, config))
    check_config(path, saved, config)
    count = ranks.total(len(saved.params["means"]))
    log.info("resuming from %s: step %d, %s Gaussians", path, saved.step, f"{count:,}")
    return path, saved, config


def _open_together(
    run_folder: Path, resume: str, device: torch.device, parts: Sequence[Part], ranks: Ranks
) -> tuple[Path, Checkpoint] | None:
    """As `open_checkpoint`; the other ranks open what the first has opened."""
    found = open_checkpoint(run_folder, resume, device, parts, ranks) if ranks.leads else None
    path = ranks.told(found[0] if found else None)
    if ranks.leads or path is None:
        return found
    return path, load_checkpoint(path, device, parts, ranks)


def _check_sh_degree(path: Path, saved: int, wanted: int) -> None:
    if saved != wanted:
        raise CheckpointError(
            f"{path}: its harmonics are of degree {saved}, model.sh_degree is {wanted}; resume with --sh_degree {saved}"
        )


def open_checkpoint(
    run_folder: Path, resume: str, device: torch.device, parts: Sequence[Part] = (), ranks: Ranks = ALONE
) -> tuple[Path, Checkpoint] | None:
    """Find and load the checkpoint that `--resume` means; None as in `find_checkpoint`. `parts` that it must have.

    "auto" is for runs that start again with nobody looking: where the newest checkpoint is damaged, it goes back to the
    one before, with a warning, and sets the damaged one aside as step_N.pt.damaged. A path means that file only.

    Raises:
        CheckpointError: it cannot be used; or, under "auto", there are checkpoints and all are damaged.
    """
    if resume == "auto":
        return _open_newest_whole(candidates(run_folder / FOLDER), device, parts, ranks)
    path = find_checkpoint(run_folder, resume)
    return (path, load_checkpoint(path, device, parts, ranks)) if path else None


def _open_newest_whole(
    paths: list[Path], device: torch.device, parts: Sequence[Part], ranks: Ranks
) -> tuple[Path, Checkpoint] | None:
    damaged: list[Path] = []
    for path in paths:
        try:
            found = path, load_checkpoint(path, device, parts, ranks)
        except DamagedCheckpointError as error:
            log.warning("%s: %s; going back to the one before", path, error.reason)
            damaged.append(path)
            continue
        for broken in damaged:  # only now: where none is whole, all stay as they are
            broken.replace(broken.with_name(broken.name + ".damaged"))
        return found
    if damaged:
        raise CheckpointError(f"{damaged[0].parent}: all its checkpoints are damaged; start without --resume")
    return None


def with_its_strategy(saved: Checkpoint, config: Config) -> Config:
    """The config with which a run goes on that began with another strategy than what is the default now: unless one is
    chosen, with its own. What a strategy brings is then as it was, too, where nothing else is chosen.

    Raises ConfigError for other choices that do not go with it.
    """
    begun, now = saved.config.get(STRATEGY), config.densification.strategy
    if begun == now or now != DEFAULT_STRATEGY or begun not in PRESETS:
        return config
    log.info("begun with %s %s: goes on with it", STRATEGY, begun)
    brought = {*PRESETS[now], *PRESETS[begun]}.difference(FOLLOWERS).intersection(saved.config)
    values = {STRATEGY: begun, **{key: saved.config[key] for key in brought}, **chosen_values(config)}
    return validate(config_of(values))


def with_its_schedule(saved: Checkpoint, config: Config) -> Config:
    """The config with which a run goes on: one that an earlier version began, whose schedules did not follow the
    length of the run, keeps them, unless others are set now."""
    if "train.quality" in saved.config:
        return config
    now = as_values(config)
    length = {key: now[key] for key in ("train.iterations", "train.seconds", "densification.strategy")}
    made = as_values(config_of(length))
    kept = {key: saved.config[key] for key in FOLLOWERS if key in saved.config and now[key] == made[key]}
    changed = {key: value for key, value in kept.items() if value != now[key]}
    if changed:
        told = ", ".join(f"{key} {value}" for key, value in changed.items())
        log.info("begun by an earlier version: goes on with its schedule (%s)", told)
    return with_values(config, changed)


def check_config(path: Path, saved: Checkpoint, config: Config) -> None:
    """Refuse settings that a run cannot change; warn of those that change what comes of it (`FIXED`, `FREE`).

    Raises:
        CheckpointError: naming the settings, both values and the remedy.
    """
    now = as_values(config)
    kept = {key for key in DERIVED if now[key] is None}
    changed = [key for key in FIELDS if key in saved.config and _plain(saved.config[key]) != _plain(now[key])]
    changed = [key for key in changed if key not in kept]
    changed = [key for key in changed if key != START or now[key] is not None]
    fixed = [key for key in changed if key in FIXED]
    if STRATEGY in fixed:
        fixed = [STRATEGY]  # the defaults of others come with it
    if fixed:
        was = ", ".join(f"{key} {_shown(saved.config[key])} (now {_shown(now[key])})" for key in fixed)
        flags = " ".join(f"{key}={_shown(saved.config[key])}" for key in fixed)
        raise CheckpointError(
            f"{path}: trained with {was}, which a run keeps; resume with --set {flags}, or start without --resume"
        )
    for key in changed:
        if not key.startswith(FREE):
            log.warning("from step %d on %s is %s; before, it was %s", saved.step + 1, key, now[key], saved.config[key])


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    """As --set takes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
