"""Every setting of a training run: one frozen dataclass a section, a docstring under each field.

The dataclasses are the single source of truth: defaults, types, allowed values and explanations live here, and the
command line (`distwar_gs.cli`), `configs/default.yaml` and the error messages are made from them. After a change here,
rewrite the commented defaults with

    python -c "from distwar_gs.config import commented_defaults as c; print(c(), end='')" > configs/default.yaml
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import math
import os
import reprlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distwar_gs.files import read_bounded, replacing
from distwar_gs.schedule import MEANT_FOR, stretched


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the key and the remedy."""


# ---------------------------------------------------------------------------------------------- rules for values


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy: a test and the words for it, shared by validation, --help and default.yaml."""

    holds: Callable[[Any], bool]
    words: str
    choices: tuple[str, ...] = ()


def one_of(*choices: str) -> Rule:
    """A rule: one of these names."""
    return Rule(lambda value: value in choices, "one of " + ", ".join(choices), choices)


def between(low: float, high: float, note: str = "") -> Rule:
    """A rule: `low` <= value <= `high`; `note` says what the bounds are."""
    return Rule(lambda value: low <= value <= high, f"between {low} and {high}" + (f" ({note})" if note else ""))


def inside(low: float, high: float) -> Rule:
    """A rule: `low` < value < `high`."""
    return Rule(lambda value: low < value < high, f"between {low} and {high}, both excluded")


def at_least(low: float) -> Rule:
    """A rule: value >= `low`."""
    return Rule(lambda value: value >= low, f"at least {low}")


def above(low: float) -> Rule:
    """A rule: value > `low`."""
    return Rule(lambda value: value > low, f"above {low}")


FRAMES = between(1, 1_000_000, "frames of a video")
FPS = between(0.01, 1000.0, "frames per second")
RESOLUTION = Rule(lambda value: value == -1 or value >= 1, "-1 or a positive number")
A_SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
STEPS = Rule(lambda steps: all(step == -1 or step >= 1 for step in steps), "steps counted from 1 (-1: none)")


def setting(default: Any, rule: Rule | None = None) -> Any:
    """A dataclass field with a default and, where not every value of its type makes sense, a rule."""
    return field(default=default, metadata={} if rule is None else {"rule": rule})


# -------------------------------------------------------------------------------------------------- the sections


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, at what size, and which of them are held out."""

    source_path: str | None = setting(None)
    """Folder of the scene (a COLMAP model, transforms_train.json or transforms.json), a transforms file, or the folder
    of a scene's COLMAP model; a relative path starts at the working directory."""
    images: str = setting("images")
    """Sub-folder with the images. Only used when the scene is in COLMAP layout."""
    resolution: int = setting(-1, RESOLUTION)
    """1 to 16: divide the image size by it (images_N is taken when it exists, also with other names in the same order).
    A larger number: target width in pixels. -1: as on disk, but images wider than 1600 px are reduced to 1600."""
    masks: str | None = setting("masks")
    """Sub-folder with masks, used when it is there: a.jpg.png, a.png, a.jpg.mask.png, a_mask.png or mask_a.png for
    a.jpg. Without the folder, masks beside the images whose names say "mask" are used. Black is ignored, as in COLMAP
    and nerfstudio; masks that a transforms file names come first. null: no masks at all."""
    invert_masks: bool = setting(False)
    """Ignore what is white in masks, not what is black."""
    alpha: str = setting("background", one_of("background", "mask"))
    """What transparent places of photos mean. background: data.background shows through (objects that were cut out, as
    in NeRF-synthetic scenes). mask: they are ignored, beside what masks ignore (passers-by that were cut out)."""
    test_every: int = setting(8, at_least(2))
    """Every N-th image by name is held out for testing. Only used when data.eval is on and neither data.test_list nor
    the scene says which images are for testing."""
    test_list: str | None = setting(None)
    """Text file with the name of a test image in each line; a relative path starts at the working directory, or else in
    the scene's folder. none: no list, nor what the scene says of its test images. null: what the scene says (test.txt
    and the like, lists in a transforms file), if it says anything."""
    eval: bool = setting(True)
    """Hold out test images; off: train on all of them."""
    background: str = setting("black", one_of("black", "white", "random"))
    """Colour behind the Gaussians, and behind transparent images; random: a new colour at every training step."""
    normalise: bool = setting(True)
    """Train in a shifted and scaled frame in which the scene extent is 1; undone in every exported file."""
    image_budget_gib: float = setting(8.0, at_least(0))
    """GPU memory, in GiB, that decoded images may take; if they need more they stay in host memory. Only used when
    training on a GPU."""
    host_budget_gib: float | None = setting(None, at_least(0))
    """Host memory, in GiB, that decoded images may take, test images included; if they need more, the rest is decoded
    from disk ahead of every use. null: half of the memory that is free. Only used for images that are not on the
    GPU."""
    loader_threads: int = setting(0, at_least(0))
    """Threads that decode images; 0: chosen from the number of cores."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The Gaussians: colour model, initial values, clipping planes, filter."""

    sh_degree: int = setting(3, between(0, 3, "degree of the spherical harmonics"))
    """Highest degree of the spherical harmonics that carry colour; 0: colour does not depend on the view."""
    sh_degree_interval: int = setting(1000, at_least(1))
    """Steps between raising the active degree by one, from 0 to model.sh_degree."""
    init: str = setting("auto", one_of("auto", "sfm", "random"))
    """Where the first Gaussians come from: the scene's points (sfm) or random positions; auto: sfm when the scene has
    points."""
    init_ply: str | None = setting(None)
    """File to start from instead, in the frame of the input's poses: a point cloud (PLY), or Gaussians of any trainer
    (.ply, .splat, .spz, .sog, or a run folder), whose parameters are all kept. A cloud of more points than
    densification.cap_max, or half of what memory holds, is thinned. Only used at the first step."""
    init_points: int = setting(100_000, between(1, 100_000_000))
    """Number of random Gaussians at the start. Only used when the start is random."""
    init_opacity: float = setting(0.1, inside(0, 1))
    """Opacity of every Gaussian at the start, from 0 to 1."""
    init_scale: float = setting(1.0, above(0))
    """Size of a Gaussian at the start, in multiples of the mean distance to its 3 nearest neighbours."""
    near_plane: float | None = setting(None, above(0))
    """Gaussians nearer to the camera are not drawn; in scene extents. null: 0.08 of the depth at which the nearest
    things before any camera begin, by the scene's points; 0.03 where it has none. Much smaller values allow floaters
    directly in front of cameras, which hurts held-out views."""
    far_plane: float = setting(1e10, above(0))
    """Gaussians farther from the camera are not drawn; in scene extents."""
    antialiased: bool = setting(False)
    """Compensate opacity for the screen-space blur, so that Gaussians smaller than a pixel fade (the 2D filter of
    Mip-Splatting). A model must be rendered as it was trained."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Learning rates of Adam and the weights of the loss."""

    means_lr: float = setting(1.6e-4, above(0))
    """Learning rate of the positions at the first step; multiplied by the scene extent."""
    means_lr_final: float = setting(1.6e-6, above(0))
    """Learning rate of the positions after optim.means_lr_steps; multiplied by the scene extent."""
    means_lr_steps: int = setting(30_000, at_least(1))
    """Steps over which the learning rate of the positions decays exponentially; usually train.iterations, but it does
    not follow it (as in 3DGS)."""
    scales_lr: float = setting(5e-3, at_least(0))
    """Learning rate of the log scales."""
    quats_lr: float = setting(1e-3, at_least(0))
    """Learning rate of the rotations."""
    opacities_lr: float = setting(2.5e-2, at_least(0))
    """Learning rate of the opacity logits. 3DGS first released 5e-2 and now uses this value, which is followed."""
    sh0_lr: float = setting(2.5e-3, at_least(0))
    """Learning rate of the view-independent colour (spherical harmonics of degree 0)."""
    shN_lr: float = setting(1.25e-4, at_least(0))  # noqa: N815 (named after the parameter shN)
    """Learning rate of the higher spherical harmonics: 1/20 of optim.sh0_lr. Only used when model.sh_degree > 0."""
    rates_final: float = setting(1.0, A_SHARE)
    """What all learning rates but that of the positions fall to by the end of the run, as a share of the rates above;
    1: they stay. Where it is not set, it is nearer to 1 in runs of fewer than 10,000 steps."""
    rates_decay_start: float = setting(0.5, between(0, 1))
    """Share of the run after which they begin to fall, exponentially. Only used when optim.rates_final < 1."""
    adam: str = setting("lazy", one_of("visible", "lazy", "dense"))
    """dense: torch's Adam, every Gaussian at every step, some 0.7 ms a million slower. lazy: the same result at a
    fraction of the price: a step updates the Gaussians that contribute to its image, and what dense Adam would have
    done to them in the steps they missed is added in closed form whenever they are looked at. visible: a little faster
    still, and not the same: what does not contribute neither moves by old momentum nor do its moments decay, so fewer
    Gaussians grow; densification.strategy mcmc refuses it. Without the fused rasteriser it is always dense."""
    adam_eps: float = setting(1e-15, above(0))
    """Adam's epsilon; far below torch's default because gradients of single Gaussians are tiny."""
    lambda_dssim: float = setting(0.2, between(0, 1))
    """Weight of the structural term: loss = (1 - lambda) L1 + lambda (1 - SSIM)."""


@dataclass(frozen=True, kw_only=True)
class DensificationConfig:
    """When and how Gaussians are added and removed."""

    strategy: str = setting("adc", one_of("adc", "absgrad", "mcmc", "guided"))
    """adc: adaptive density control of 3DGS (called default before). absgrad: the same driven by sums of absolute
    gradients (AbsGS). mcmc: Gaussians wander and are relocated, never removed (3DGS as Markov Chain Monte Carlo); grows
    up to densification.cap_max. guided: MCMC's moves, and new Gaussians come where the images are still wrong; their
    number finds itself, or is densification.cap_max. All but adc bring other defaults with them, which
    docs/strategies.md lists; what is set explicitly wins."""
    start: int = setting(500, at_least(0))
    """Step after which Gaussians may be added or removed."""
    stop: int = setting(15_000, at_least(0))
    """Step from which on Gaussians are neither added nor removed, and opacities no longer reset."""
    every: int = setting(100, at_least(1))
    """Steps between two rounds of adding and removing."""
    grad_threshold: float = setting(2e-4, above(0))
    """Mean gradient of the projected centre, in normalised device coordinates, above which a Gaussian is cloned or
    split; guided adds densification.growth_share of the number that are. Not used by mcmc."""
    clone_scale: float = setting(0.01, above(0))
    """Size in scene extents up to which a Gaussian is cloned; larger ones are split. Not used by mcmc and
    guided."""
    prune_opacity: float = setting(0.005, between(0, 1))
    """Gaussians below this opacity are removed; with mcmc and guided those at or below it are relocated."""
    prune_scale: float = setting(0.1, above(0))
    """Gaussians larger than this, in scene extents, are removed. Only used when the opacities have been reset once;
    not used by mcmc and guided."""
    opacity_reset_every: int = setting(3000, at_least(1))
    """Steps between resets of the opacities; never happens when it is larger than densification.stop, or with mcmc and
    guided."""
    opacity_reset_value: float = setting(0.01, inside(0, 1))
    """Highest opacity right after a reset; above densification.prune_opacity."""
    order_every: int = setting(1000, at_least(0))
    """Steps between bringing the Gaussians into spatial (Morton) order, which makes memory faster and changes nothing
    else; 0: never. Only used up to densification.stop."""
    cap_max: int | None = setting(None, at_least(0))
    """Largest number of Gaussians. null: as many as fit into the memory, the GPU's or the host's, that is free when
    training begins. 0: no cap. For mcmc, which always grows up to one, both are 1,000,000; guided grows up to one that
    is given."""
    noise_lr: float = setting(5e5, at_least(0))
    """Strength of the noise on the positions, in multiples of their learning rate; lengths are in scene extents. Only
    used by mcmc and guided."""
    opacity_reg: float = setting(0.01, at_least(0))
    """Weight of the mean opacity in the loss. Only used by mcmc and guided."""
    scale_reg: float = setting(0.01, at_least(0))
    """Weight of the mean size, in scene extents, in the loss. Only used by mcmc and guided."""
    draw: str = setting("error", one_of("error", "opacity"))
    """Which Gaussians get children: drawn in proportion to the error of the pixels that they have a part in, or to
    their opacity. Only used by guided."""
    children: str = setting("jitter", one_of("share", "jitter", "split"))
    """What a Gaussian and its child become. share: copies in one place that look together as it did (MCMC). jitter: the
    same, moved apart at random. split: halves side by side along its longest axis. Only used by guided."""
    child_offset: float = setting(0.5, at_least(0))
    """How far both are moved, in standard deviations. Only used by guided, and not with share."""
    split_long: float = setting(0.5, A_SHARE)
    """Size of the halves of a split along its longest axis, as a share of what it was. Only used by guided."""
    split_other: float = setting(0.85, A_SHARE)
    """The same along its other axes. Only used by guided."""
    split_power: float = setting(0.5, A_SHARE)
    """How opaque the halves of a split are: of the light each lets through this power of what the Gaussian did. 0.5:
    as opaque as it where they cover each other; 1: each is. Only used by guided."""
    grow_until: float = setting(0.5, between(0, 1))
    """Share of the run by which all Gaussians are there. Only used by guided."""
    growth_share: float = setting(0.2, at_least(0))
    """New Gaussians at each round, as a share of those whose gradient is above densification.grad_threshold. For 145
    rounds of growth, which 30,000 steps have: a larger share where they are fewer, up to all. At most 5 % of all
    Gaussians, or what makes ten times as many in all rounds. Only used by guided, and where densification.cap_max is
    not given."""


@dataclass(frozen=True, kw_only=True)
class ReductionConfig:
    """How the backward pass sums the gradients of one Gaussian over the pixels of a warp (DISTWAR)."""

    strategy: str = setting("sw_t", one_of("gsplat", "atomic", "sw_s", "sw_b", "sw_t", "auto"))
    """gsplat: gsplat's own backward (needs the gsplat package). atomic: every active lane adds to memory (the paper's
    baseline). sw_s: DISTWAR, lanes summed one after the other. sw_b: DISTWAR, lanes summed by a butterfly of
    shuffles. sw_t: many sums of a warp at once, transposed through shared memory; the fastest so far. auto: whichever
    of the last four, with which threshold, measures fastest on this GPU and this scene, tried during the first steps
    and again as the scene grows."""
    balance_threshold: int | None = setting(None, between(0, 32, "active lanes of a warp"))
    """Warps with at least this many active lanes sum in the SM and add once; the others leave the sum to the atomics of
    the L2 cache. null: the strategy's default, 8 for sw_s and sw_b, 1 for sw_t. Only used when reduction.strategy is
    one of these."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length of the run, where it writes, and when."""

    result_dir: str | None = setting(None)
    """Folder of the run; null: output/<name of the scene folder>."""
    quality: str = setting("standard", one_of("draft", "standard", "best"))
    """How long to train, by name: draft 10,000 steps, standard 30,000, best 60,000. Not used where train.iterations or
    train.seconds is set."""
    iterations: int = setting(30_000, at_least(1))
    """Training steps, one image each. The settings that are counted in steps (densification.start, stop, every and
    opacity_reset_every, model.sh_degree_interval, optim.means_lr_steps) are meant for 30,000: those that are not set
    follow this one."""
    seconds: float | None = setting(None, above(0))
    """Train for so many seconds on this machine, instead of train.iterations steps; loading, evaluating and saving come
    before and after. Time then drives what is counted in steps (and stands above), train.iterations of them to the
    whole run. Not with train.deterministic."""
    seed: int = setting(0, between(0, 2**63 - 1, "what a generator takes"))
    """Seed of every random choice."""
    deterministic: bool = setting(False)
    """The same run twice on the same GPU gives the same model to the last bit. Needs the fused rasteriser and
    reduction.strategy sw_t; costs some speed. On the CPU runs always are."""
    device: str = setting("auto", one_of("auto", "cuda", "cpu"))
    """Where to train; auto: the GPU when there is one."""
    rasterizer: str = setting("auto", one_of("auto", "fused", "gsplat"))
    """fused: our kernels from the parameters to the image and back (CUDA). gsplat: gsplat's projection, harmonics and
    tile lists around our blend (CUDA, needs the gsplat package). auto: fused on CUDA unless reduction.strategy is
    gsplat; on the CPU always the CPU's own ops."""
    test_iterations: tuple[int, ...] = setting((7000, 30_000), STEPS)
    """Steps after which the test images are rendered and measured; the last step always is one."""
    save_iterations: tuple[int, ...] = setting((7000, 30_000), STEPS)
    """Steps after which the Gaussians are written as PLY; the last step always is one."""
    export_origin: str = setting("auto", one_of("auto", "input", "local"))
    """What positions in PLY files and cameras.json are relative to. input: the origin of the input's frame. local: a
    round place near the cameras; the files tell which (docs/formats.md). auto: local where the scene is so far from the
    input's origin that 32-bit numbers are too coarse there, as in UTM coordinates, else input."""
    checkpoint_every: int = setting(10_000, at_least(0))
    """Steps between two checkpoints to resume from; 0: none but the others. One is also written after the last step, on
    Ctrl-C and on SIGTERM."""
    keep_checkpoints: int = setting(2, at_least(0))
    """How many of the newest checkpoints are kept; older ones are deleted. 0: all. Those of train.checkpoint_iterations
    are not counted and never deleted."""
    checkpoint_iterations: tuple[int, ...] = setting((), STEPS)
    """Steps after which a checkpoint is written as well, and kept."""
    max_repairs: int = setting(10, at_least(0))
    """Times that Gaussians with values that are not finite are dropped, and times that the run goes back to its last
    checkpoint where they are many, before it stops. 0: it stops at once."""
    resume: str | None = setting(None)
    """Checkpoint to continue from: a path, or auto for the newest one of the run folder when it has any."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What the run tells while it runs."""

    every: int = setting(100, at_least(1))
    """Steps between two points of the TensorBoard curves; the parts of a step are timed on those steps only."""
    images: int = setting(2, at_least(0))
    """Test images shown in TensorBoard at each evaluation. Only used when log.tensorboard is on."""
    quiet: bool = setting(False)
    """No progress bar; warnings and errors still appear."""
    tensorboard: bool = setting(True)
    """Write TensorBoard event files into the run folder."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run. Frozen: `with_values` returns a changed copy."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    densification: DensificationConfig = DensificationConfig()
    reduction: ReductionConfig = ReductionConfig()
    train: TrainConfig = TrainConfig()
    log: LogConfig = LogConfig()


SECTIONS: dict[str, type] = {section.name: section.type for section in dataclasses.fields(Config)}
FIELDS: dict[str, dataclasses.Field] = {
    f"{section}.{spec.name}": spec for section, cls in SECTIONS.items() for spec in dataclasses.fields(cls)
}
"""Every key as "section.name", in the order of the dataclasses."""

QUALITIES: dict[str, dict[str, Any]] = {
    "draft": {"train.iterations": 10_000},
    "standard": {"train.iterations": MEANT_FOR},
    "best": {"train.iterations": 60_000},
}
"""The defaults that a train.quality changes."""

LENGTH = ("train.quality", "train.iterations", "train.seconds")
"""How long a run is: who sets one of them replaces what a base or a file says of all (`overlaid`)."""

DEFAULT_STRATEGY = "guided"
"""The strategy of whoever chooses none. The dataclasses' own values are those of adc, as published for 3DGS; what a
strategy has otherwise is in `PRESETS`, so `config_of({})` is what a user gets who sets nothing."""

PRESETS: dict[str, dict[str, Any]] = {
    "adc": {},
    "absgrad": {"densification.grad_threshold": 8e-4},
    "mcmc": {
        "model.init_opacity": 0.5,
        "model.init_scale": 0.1,
        "optim.opacities_lr": 5e-2,
        "densification.stop": 25_000,
        "densification.cap_max": 1_000_000,
    },
    "guided": {
        "model.antialiased": True,
        "optim.opacities_lr": 5e-2,
        "optim.rates_final": 0.1,
        "densification.stop": 25_000,
    },
}
"""The defaults that a densification.strategy changes, as published; docs/strategies.md has the sources."""

OLD_NAMES: dict[str, dict[str, str]] = {"densification.strategy": {"default": "adc"}}
"""Values by key that earlier versions wrote into configs and checkpoints, and what they are called today."""


def current_name(key: str, value: Any) -> Any:
    """The value of "section.name" as it is called today."""
    return OLD_NAMES.get(key, {}).get(value, value) if isinstance(value, str) else value


# ------------------------------------------------------------------------------------------- values and their types


def _as_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _as_float(value: Any) -> float:
    # Strings too: YAML 1.1 has no dot-less exponents, so PyYAML reads 1e-4 as the string "1e-4".
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not math.isfinite(float(value)):
        raise TypeError
    return float(value)


def _as_str(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    return os.fspath(value)


def _as_ints(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_as_int(item) for item in value)


def _or_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


_TYPES: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", _as_bool),
    int: ("an integer", _as_int),
    float: ("a finite number", _as_float),
    str: ("a string (quote it if it looks like a number)", _as_str),
    str | None: ("a string or null", _or_none(_as_str)),
    int | None: ("an integer or null", _or_none(_as_int)),
    float | None: ("a finite number or null", _or_none(_as_float)),
    tuple[int, ...]: ("a list of integers such as [7000, 30000]", _as_ints),
}


def _checked(key: str, value: Any) -> Any:
    """`value` converted to the type of the field `key` and tested against its rule, or ConfigError."""
    expected, convert = _TYPES[FIELDS[key].type]
    try:
        value = current_name(key, convert(value))
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key} is {_shown(value)}: expected {expected}") from None
    if isinstance(value, str) and not _can_be_a_name(value):
        raise ConfigError(f"{key} is {_shown(value)}: no file can be called so; give another name")
    rule: Rule | None = FIELDS[key].metadata.get("rule")
    if rule is not None and value is not None and not rule.holds(value):
        hint = _did_you_mean(value, rule.choices) if rule.choices else ""
        raise ConfigError(f"{key} is {_shown(value)}: it must be {rule.words}{hint}")
    return value


def _can_be_a_name(text: str) -> bool:
    """Whether the operating system takes a string; names whose bytes are no UTF-8 come as surrogates (PEP 383)."""
    try:
        return "\0" not in text and bool(os.fsencode(text) or not text)
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    """A value as messages quote it. Aliases let a file of a few lines name a list without end, so it is abridged."""
    try:
        return _ABRIDGED.repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a number of thousands of digits"


_LONGEST_KEY = 100  # difflib's time grows with the square

_ABRIDGED = reprlib.Repr()
_ABRIDGED.maxstring = _ABRIDGED.maxother = 100
_ABRIDGED.maxlist = _ABRIDGED.maxdict = 12


def _did_you_mean(word: str, candidates: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word[:_LONGEST_KEY], list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _known(key: str) -> str:
    """`key` if it is a "section.name" of the configuration, else ConfigError with the nearest one and its type."""
    if key in FIELDS:
        return key
    name = key.rpartition(".")[2]
    key = key[:_LONGEST_KEY]
    moved = [known for known in FIELDS if known.endswith(f".{name}")]  # right name, wrong or no section
    nearest = moved or difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.0)
    hints = " or ".join(f"{known} ({_TYPES[FIELDS[known].type][0]})" for known in nearest)
    raise ConfigError(f"unknown key {key}; did you mean {hints}?")


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of `config` with the given values, keyed "section.name".

    Raises ConfigError for an unknown key (naming the nearest), a wrong type or a value out of range.
    """
    changes: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = _known(key).partition(".")
        changes.setdefault(section, {})[name] = _checked(key, value)
    sections = {name: dataclasses.replace(getattr(config, name), **new) for name, new in changes.items()}
    return dataclasses.replace(config, **sections)


def config_of(values: Mapping[str, Any]) -> Config:
    """The configuration with these values, keyed "section.name", over those that their strategy (`PRESETS`) and their
    quality (`QUALITIES`) bring; what is counted in steps follows the length of the run (`distwar_gs.schedule`).

    Raises ConfigError as `with_values` does.
    """
    values = {"densification.strategy": DEFAULT_STRATEGY} | dict(values)
    named = with_values(Config(), values)
    brought = PRESETS[named.densification.strategy] | QUALITIES[named.train.quality]
    config = with_values(Config(), brought | values)
    return with_values(config, stretched(as_values(config), values.keys()))


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both, those `above` where both set one; a length of the run (`LENGTH`) replaces any other."""
    replaced = LENGTH if any(key in above for key in LENGTH) else ()
    return {key: value for key, value in below.items() if key not in replaced} | dict(above)


def override(assignment: str) -> dict[str, Any]:
    """{"section.name": value} of a "section.name=value"; the value is read as YAML (`--set` of the command line).

    Raises ConfigError as `with_values` does.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected section.key=value")
    values = {key.strip(): _parse_yaml(text, f"--set {assignment}")}
    with_values(Config(), values)
    return values


def validate(config: Config) -> Config:
    """`config` with every value checked, alone and against the others, and in its clean type; else ConfigError."""
    config = with_values(config, as_values(config))
    if (config.model.near_plane or 0.0) >= config.model.far_plane:
        raise ConfigError(f"model.near_plane is {config.model.near_plane}: it must be below model.far_plane")
    if config.model.init_ply and config.model.init != "auto":
        raise ConfigError(
            f"model.init is {config.model.init}: leave it auto with model.init_ply, which takes its place"
        )
    density = config.densification
    if density.start > density.stop:
        raise ConfigError(f"densification.start is {density.start}: it must not be above densification.stop")
    if density.opacity_reset_value <= density.prune_opacity:
        raise ConfigError(
            f"densification.opacity_reset_value is {density.opacity_reset_value}: it must be above "
            f"densification.prune_opacity ({density.prune_opacity}), or a reset removes every Gaussian"
        )
    if config.train.seconds is not None and config.train.deterministic:
        raise ConfigError(
            f"train.seconds is {config.train.seconds:g}: how many steps that is differs from run to run, so it does "
            "not go with train.deterministic; give --iterations instead"
        )
    if density.strategy == "mcmc" and config.optim.adam == "visible":
        raise ConfigError(
            "optim.adam is visible: with densification.strategy mcmc every Gaussian pays for its opacity and its size "
            "at every step; use lazy or dense"
        )
    if density.strategy == "guided" and config.optim.adam == "visible":
        raise ConfigError(
            "optim.adam is visible: with densification.strategy guided every Gaussian pays for its opacity and its "
            "size at every step; use lazy or dense"
        )
    return config


def as_values(config: Config) -> dict[str, Any]:
    """The configuration as one flat dictionary keyed "section.name"; `with_values` takes it back."""
    return {key: getattr(getattr(config, key.partition(".")[0]), spec.name) for key, spec in FIELDS.items()}


# ----------------------------------------------------------------------------------------------------------- files


def load_config(path: str | os.PathLike[str]) -> Config:
    """The configuration of a YAML file: `config_of` the values that it and its bases set.

    Raises ConfigError naming the file for unreadable YAML, a cycle of bases, an unknown key or section, a wrong type or
    a value out of range.
    """
    values = read_values(path)
    try:
        return validate(config_of(values))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a YAML file sets, keyed "section.name", over what the file its `base:` key names (relative to it) sets, ...

    Raises ConfigError as `load_config` does.
    """
    values: dict[str, Any] = {}
    for file, tree in _inheritance(Path(path)):
        try:
            values = overlaid(values, _flatten(tree))
            config = with_values(Config(), values)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        if len(values) == len(FIELDS):
            values = chosen_values(config)
    return values


def chosen_values(config: Config) -> dict[str, Any]:
    """Of all values those that are a choice, keyed "section.name": `config_of` makes the others of them again.

    configs/default.yaml and what is made from it repeat the defaults, the config.yaml of a run what came of its
    strategy and its length; taken for choices, these would win over another strategy, and stay as they are at another
    length.
    """
    values, chosen = as_values(config), {}
    for key in (*LENGTH, "densification.strategy", "densification.every"):  # the others follow these
        chosen |= {key: values[key]} if values[key] != as_values(config_of(chosen))[key] else {}
    made = as_values(config_of(chosen))
    return {key: value for key, value in values.items() if key in chosen or value != made[key]}


def save_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write all values as YAML, atomically; `load_config` reads them back equal."""
    tree = {name: _plain(getattr(config, name)) for name in SECTIONS}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    with replacing(path) as temporary:
        temporary.write_text("# The settings of this run, fully resolved.\n" + text, encoding="utf-8")


def _inheritance(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The YAML trees of `path` and of all its bases, the farthest base first."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        names = [file for file, _ in chain]
        if path.resolve() in (file.resolve() for file in names):
            cycle = " -> ".join(str(file) for file in [*reversed(names), path])
            raise ConfigError(f"{path}: the base keys form a cycle: {cycle}")
        tree = _read_tree(path, wanted_by=names[0] if names else None)
        base = tree.pop("base", None)
        chain.insert(0, (path, tree))
        if base is None:
            return chain
        if not isinstance(base, str) or not base.isprintable():
            raise ConfigError(f"{path}: base is {_shown(base)}: expected the path of a YAML file")
        path = Path(os.path.normpath(path.parent / base))


_LARGEST = 2**20
"""Bytes of a YAML file; configs/default.yaml has some 12,000."""


def _read_tree(path: Path, wanted_by: Path | None) -> dict[str, Any]:
    try:
        tree = _parse_yaml(read_bounded(path, _LARGEST), str(path))
    except OSError as error:
        reason = f" (the base of {wanted_by})" if wanted_by else ""
        raise ConfigError(f"{path}: cannot read the configuration{reason}: {error.strerror}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as `train:`, found {type(tree).__name__}")
    return tree


def _flatten(tree: dict[Any, Any]) -> dict[str, Any]:
    """{"train": {"seed": 1}} -> {"train.seed": 1}; an unknown section is a ConfigError."""
    values: dict[str, Any] = {}
    for section, entries in tree.items():
        if section not in SECTIONS:
            # A key without its section is the likelier slip: `iterations: 100` at the top level.
            if not isinstance(entries, dict):
                _known(str(section))
            raise ConfigError(f"unknown section {section}{_did_you_mean(str(section), SECTIONS)}")
        if not isinstance(entries, dict | None):
            raise ConfigError(f"section {section} is {_shown(entries)}: expected `key: value` lines")
        values |= {f"{section}.{name}": value for name, value in (entries or {}).items()}
    return values


_DEEPEST = 50  # brackets within brackets


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        """PyYAML's time grows with the square of the open brackets."""
        if self.flow_level >= _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """What is no number, date or truth value raises many kinds of errors, none of which has a line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            problem = f"{_shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def _parse_yaml(text: str | bytes, origin: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise ConfigError(f"{origin}: not readable as YAML{line}: {problem}; correct it there") from None
    except RecursionError:
        raise ConfigError(f"{origin}: not readable as YAML: nested too deeply; correct it there") from None


def _plain(section: Any) -> dict[str, Any]:
    values = dataclasses.asdict(section)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# --------------------------------------------------------------------------------------------------- documentation


@functools.cache
def field_docs() -> dict[str, str]:
    """The docstring under each field as one line, keyed "section.name" (Python drops them, so read from the source)."""
    tree = ast.parse(inspect.getsource(sys.modules[__name__]))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    docs: dict[str, str] = {}
    for section, cls in SECTIONS.items():
        body = classes[cls.__name__].body
        for line, following in zip(body, body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(following, ast.Expr):
                docs[f"{section}.{line.target.id}"] = " ".join(ast.literal_eval(following.value).split())
    return docs


def rule_of(key: str) -> Rule | None:
    """The rule for the values of "section.name", or None if every value of its type is allowed."""
    return FIELDS[key].metadata.get("rule")


def commented_defaults() -> str:
    """The text of configs/default.yaml: every key with its default, under a comment made from its docstring."""
    docs, defaults = field_docs(), config_of({})
    lines = [
        "# Every setting with its default and meaning, generated from distwar_gs/config.py (see there).",
        "# To change some: a file of your own that starts with `base: default.yaml`, or --set section.key=value.",
    ]
    for section, cls in SECTIONS.items():
        lines += ["", f"# {cls.__doc__}", f"{section}:"]
        for name, value in _plain(getattr(defaults, section)).items():
            rule = rule_of(f"{section}.{name}")
            comment = docs[f"{section}.{name}"] + (f" Must be {rule.words}." if rule else "")
            lines += textwrap.wrap(
                comment, 116, initial_indent="  # ", subsequent_indent="  # ", break_on_hyphens=False
            )
            lines.append(f"  {name}: {yaml.safe_dump([value], default_flow_style=True).strip()[1:-1]}")
    return "\n".join(lines) + "\n"
