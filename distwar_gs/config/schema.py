"""Every setting of a training run: one frozen dataclass a section, a docstring under each field.

The dataclasses are the single source of truth: defaults, types, allowed values and explanations live here, and the
command line (`distwar_gs.cli`), `configs/default.yaml` and the error messages are made from them. After a change here,
rewrite the commented defaults with

    python -c "from distwar_gs.config import commented_defaults as c; print(c(), end='')" > configs/default.yaml
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from distwar_gs.config.appearance import AppearanceConfig
from distwar_gs.config.depth import DepthConfig
from distwar_gs.config.limits import LimitsConfig
from distwar_gs.config.log_section import LogConfig
from distwar_gs.config.poses import PosesConfig
from distwar_gs.config.rules import A_SHARE, RESOLUTION, STEPS, above, at_least, between, inside, one_of, setting
from distwar_gs.config.sky import SkyConfig
from distwar_gs.config.strategies import STRATEGIES


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
    undistort: str = setting("auto", one_of("auto", "always", "never"))
    """What happens to photos of lenses that are no pinholes. auto: they are trained on as they are, through their lens;
    only those of lenses that the renderer cannot draw are resampled to pinhole images. always: all are resampled, which
    cuts off what a pinhole has no room for. never: those that cannot be drawn are refused."""
    test_every: int = setting(8, at_least(2))
    """Every N-th image by name is held out for testing. Only used when data.eval is on and neither data.test_list nor
    the scene says which images are for testing."""
    test_list: str | None = setting(None)
    """Text file with the name of a test image in each line; a relative path starts at the working directory, or else in
    the scene's folder. none: no list, nor what the scene says of its test images. null: what the scene says (test.txt
    and the like, lists in a transforms file), if it says anything."""
    eval: bool = setting(True)
    """Hold out test images; off: train on all of them."""
    background: str = setting("black", one_of("black", "white", "random", "learned"))
    """Colour behind the Gaussians, and behind transparent images; random: a new colour at every training step. learned:
    a sky, a colour for each direction that is learned with the Gaussians and saved beside them (section sky); behind
    transparent images it is black."""
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
    (.ply, .splat, .spz, .sog, .glb, or a run folder), whose parameters are all kept. A cloud of more points than
    densification.cap_max, or half of what memory holds, is thinned. Only used at the first step."""
    init_points: int = setting(100_000, between(1, 100_000_000))
    """Number of random Gaussians at the start. Only used when the start is random."""
    init_opacity: float = setting(0.1, inside(0, 1))
    """Opacity of every Gaussian at the start, from 0 to 1."""
    init_scale: float = setting(1.0, above(0))
    """Size of a Gaussian at the start, in multiples of the mean distance to its 3 nearest neighbours."""
    init_pixels: float = setting(0.0, at_least(0))
    """Size of a Gaussian at the start, at the least: standard deviation in pixels of the nearest training view. Where
    points are denser than pixels, antialiased Gaussians would not be seen without; 0: no such limit."""
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
    """dense: torch's Adam updates every Gaussian at every step; costs about 0.7 ms more per million Gaussians. lazy:
    the same result at a fraction of the cost: a step updates the Gaussians that contribute to its image; what dense
    Adam would have done to the others is added in closed form when they are read next. visible: a little faster
    still, with another result: Gaussians that do not contribute keep their place and their moments, so fewer Gaussians
    grow; densification.strategy mcmc refuses it. Without the fused rasteriser it is always dense."""
    adam_eps: float = setting(1e-15, above(0))
    """Adam's epsilon; far below torch's default because gradients of single Gaussians are tiny."""
    lambda_dssim: float = setting(0.2, between(0, 1))
    """Weight of the structural term: loss = (1 - lambda) L1 + lambda (1 - SSIM)."""


@dataclass(frozen=True, kw_only=True)
class DensificationConfig:
    """When and how Gaussians are added and removed."""

    strategy: str = setting("adc", one_of(*STRATEGIES))
    """adc: adaptive density control of 3DGS (called default before). absgrad: the same driven by sums of absolute
    gradients (AbsGS). mcmc: Gaussians wander and are relocated, never removed (3DGS as Markov Chain Monte Carlo); grows
    up to densification.cap_max. guided: MCMC's moves, and new Gaussians come where the images are still wrong; their
    number finds itself, or is densification.cap_max; taken where none is named. All but adc bring other defaults with
    them, which docs/strategies.md lists; what is set explicitly wins."""
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
    """Weight of the mean opacity in the loss. Only used by mcmc, and by guided where a view shows a fifth of the scene
    or more."""
    scale_reg: float = setting(0.01, at_least(0))
    """Weight of the mean size, in scene extents, in the loss. Only used as densification.opacity_reg is."""
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
    trim: float = setting(0.0, between(0, 1))
    """Gaussians that hardly change the pixels they cost are removed, until together they were this share of what the
    training views show; 0: none are. Only used by guided."""
    trims: int = setting(12, at_least(0))
    """How often that is done, evenly spread over the time until densification.stop. Only used by guided."""


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
    """How long to train, by name: draft 10,000 steps, best 45,000, standard as many as the strategy has: guided 20,000,
    the others the 30,000 of their papers. Not used where train.iterations or train.seconds is set."""
    iterations: int = setting(30_000, at_least(1))
    """Training steps, one image each. The settings that are counted in steps (densification.start, stop, every and
    opacity_reset_every, model.sh_degree_interval, optim.means_lr_steps) are meant for 30,000: those that are not set
    follow this one."""
    seconds: float | None = setting(None, above(0))
    """Train for so many seconds on this machine, instead of train.iterations steps; loading, evaluating and saving come
    before and after. Time then drives what is counted in steps (and stands above), train.iterations of them to the
    whole run. Not with train.deterministic."""
    coarse_until: float = setting(0.0, between(0, 1))
    """Share of the run that trains on photos of half their width and height, its first quarter on those of a quarter,
    unless the shorter side would have fewer than 240 pixels. Everything is measured at full size."""
    seed: int = setting(0, between(0, 2**63 - 1, "what a generator takes"))
    """Seed of every random choice."""
    deterministic: bool = setting(False)
    """The same run twice on the same GPU gives the same model to the last bit. Needs the fused rasteriser and
    reduction.strategy sw_t; costs some speed. On the CPU runs always are."""
    split: str = setting("auto", one_of("auto", "views", "tiles"))
    """What several ranks (docs/ranks.md) share out at a step. views: each shows one of its own, and a step counts as so
    many. tiles: all show one, each some rows of its tiles, and a run is that of one process. auto: tiles where a photo
    has more than 8 million pixels, or where there are more than 16 ranks, else views."""
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
class Config:
    """All settings of a run. Frozen: `with_values` returns a changed copy."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    appearance: AppearanceConfig = AppearanceConfig()
    sky: SkyConfig = SkyConfig()
    poses: PosesConfig = PosesConfig()
    depth: DepthConfig = DepthConfig()
    limits: LimitsConfig = LimitsConfig()
    densification: DensificationConfig = DensificationConfig()
    reduction: ReductionConfig = ReductionConfig()
    train: TrainConfig = TrainConfig()
    log: LogConfig = LogConfig()


SECTIONS: dict[str, Any] = {section.name: section.type for section in dataclasses.fields(Config)}
FIELDS: dict[str, dataclasses.Field] = {
    f"{section}.{spec.name}": spec for section, cls in SECTIONS.items() for spec in dataclasses.fields(cls)
}
"""Every key as "section.name", in the order of the dataclasses."""

QUALITIES: dict[str, dict[str, Any]] = {
    "draft": {"train.iterations": 10_000},
    "standard": {},  # as many as the strategy has
    "best": {"train.iterations": 45_000},
}
"""The defaults that a train.quality changes."""

LENGTH = ("train.quality", "train.iterations", "train.seconds")
"""How long a run is: who sets one of them replaces what a base or a file says of all (`overlaid`)."""

DEFAULT_STRATEGY = "guided"
"""The strategy of whoever chooses none. The dataclasses' own values are those of adc, as published for 3DGS; what a
strategy has otherwise is in `PRESETS`, so `config_of({})` is what a user gets who sets nothing."""

PRESETS: dict[str, dict[str, Any]] = {name: dict(row.preset) for name, row in STRATEGIES.items()}
"""The defaults that a densification.strategy changes."""

OLD_NAMES: dict[str, dict[str, str]] = {"densification.strategy": {"default": "adc"}}
"""Values by key that earlier versions wrote into configs and checkpoints, and what they are called today."""


def current_name(key: str, value: Any) -> Any:
    """The value of "section.name" as it is called today."""
    return OLD_NAMES.get(key, {}).get(value, value) if isinstance(value, str) else value
