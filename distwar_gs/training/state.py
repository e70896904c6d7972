"""What a training is made of: the one value that the step, the hooks and the checkpoints share."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

import distwar_kernels as kernels
from distwar_datasets import Scene, View
from distwar_gs.adjust.base import Adjustment, make_adjustments
from distwar_gs.adjust.poses import Poses
from distwar_gs.adjust.sky import Sky
from distwar_gs.checkpoints.checkpoint import CLOCK, Checkpoint, CheckpointError, Part
from distwar_gs.checkpoints.randomness import capture_rng, is_rng, restore_rng
from distwar_gs.config import Config, ConfigError, as_values, config_of
from distwar_gs.config.schedule import Schedule
from distwar_gs.engines.base import Engine
from distwar_gs.engines.choice import make_engine
from distwar_gs.gaussians.memory import Cap, cap_of
from distwar_gs.gaussians.model import active_sh_degree, are_parameters, as_parameters, degree_in_use
from distwar_gs.gaussians.optimizer import all_moments, are_states, load_state_dicts, make_optimizers, state_dicts
from distwar_gs.gaussians.random_start import showing_share
from distwar_gs.gaussians.shards import dealt
from distwar_gs.gaussians.start import first_gaussians
from distwar_gs.rendering.renderer import RenderSettings
from distwar_gs.rendering.views import cameras_of
from distwar_gs.strategies.base import Strategy, StrategySetup, make_strategy
from distwar_gs.strategies.trimming import Look, look_at_views
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training.batches import StepResult
from distwar_gs.training.depths import Depths, make_depths
from distwar_gs.training.sampler import ViewSampler, is_order
from distwar_gs.training.split import showing

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainingState:
    """A model in training and all that changes with it. A step changes it in place (distwar_gs.training.step)."""

    config: Config
    schedule: Schedule
    settings: RenderSettings
    device: torch.device
    extent: float
    """Of the scene, in the frame of the means."""
    shown: float = 1.0
    """The share of the views that show a point of the scene (distwar_gs.gaussians.random_start.showing_share)."""
    look: Look | None = None
    """At the training views (distwar_gs.strategies.trimming)."""
    cap: Cap
    """How many Gaussians there may be."""
    generators: dict[str, torch.Generator]
    """All of a run's randomness: view order and backgrounds on the "host", that of the strategy on the "device"."""
    sampler: ViewSampler
    params: dict[str, Parameter]
    """The Gaussians (distwar_gs.gaussians.model); of several ranks, those of this one."""
    ranks: Ranks = ALONE
    """The processes that train this model: at a step each shows a view, or a part of one (train.split)."""
    adjustments: list[Adjustment] = field(default_factory=list)
    """What is learned beside them."""
    depths: Depths | None = None
    """What is known of depth beside the photos."""
    step: int = 0
    """Steps made; one that shows several views counts as so many."""
    elapsed: float = 0.0
    """Seconds of training after these steps, over all sessions; evaluating and saving are not in them."""
    is_over: bool = False
    """Whether the last step has been made."""
    made: StepResult | None = None
    """By the last step; None when what follows it is done. Hooks take `result`."""
    optimizers: dict[str, Adam] = field(init=False)
    strategy: Strategy = field(init=False)
    engine: Engine = field(init=False)
    first_degree: int = field(init=False)
    """The degree of spherical harmonics that the model had in use when it was taken over."""

    def __post_init__(self) -> None:
        """Optimisers, strategy and engine for the parameters."""
        self._equip()

    @classmethod
    def from_points(
        cls, scene: Scene, config: Config, settings: RenderSettings, device: torch.device, ranks: Ranks = ALONE
    ) -> Self:
        """A training that begins: with the first points, or the file that the config starts from.

        Raises:
            ModelError, DataError: there is nothing to begin with.
        """
        shared = _shared(scene, config, settings, device, ranks)
        place = device if ranks.count == 1 else torch.device("cpu")  # where all of them are, for a while
        params = first_gaussians(scene, config, shared["generators"]["host"], place, shared["cap"])
        return cls(**shared, params=dealt(params, ranks, device))

    @classmethod
    def from_checkpoint(
        cls,
        saved: Checkpoint,
        scene: Scene,
        config: Config,
        settings: RenderSettings,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> Self:
        """A training that goes on as if it had not been interrupted; of several ranks' the checkpoint is this one's.

        Raises:
            CheckpointError: its parts do not fit each other.
        """
        params = as_parameters(saved.params, device)
        state = cls(**_shared(scene, config, settings, device, ranks), params=params)
        try:
            state._take(saved, PARTS)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"the checkpoint to resume from does not fit itself: {error}") from error
        for name in sorted(saved.parts.keys() - {part.name for part in PARTS} - set(map(_part_of, state.adjustments))):
            log.warning(
                "the checkpoint's part %s is ignored: this run has none (other settings, or a newer file)", name
            )
        return state

    def go_back(self, saved: Checkpoint) -> None:
        """To a checkpoint's model, with another order of views: the same one might end the same way."""
        self.params = as_parameters(saved.params, self.device)
        self._equip()
        self._take(saved, [part for part in PARTS if part.of_model])
        self.is_over = False

    def parts(self) -> dict[str, Any]:
        """What `from_checkpoint` needs of a checkpoint, by name; the engine must be settled."""
        adjusted = {_part_of(adjustment): adjustment.state_dict() for adjustment in self.adjustments}
        return {part.name: part.save(self) for part in PARTS} | adjusted

    def checkpoint(self, fingerprint: Mapping[str, Any]) -> Checkpoint:
        """These parts with what they belong to; `fingerprint`: of the scene."""
        return Checkpoint(self.step, as_values(self.config), dict(fingerprint), self.parts())

    def begin(self) -> None:
        """Before the first step of a session: fixes a cap that depends on memory, and starts the schedule."""
        self.cap.begin(self.count, [*self.params.values(), *all_moments(self.optimizers)])
        self.schedule.begin(self.step, self.elapsed)
        self.note_time(self.elapsed)

    def note_time(self, elapsed: float) -> None:
        """These steps have taken so many seconds of training: whether the last one has been made."""
        self.elapsed, self.is_over = elapsed, self.schedule.is_over(self.step, elapsed)

    @property
    def views(self) -> int:
        """How many a step shows."""
        return self.schedule.views

    @property
    def count(self) -> int:
        """Gaussians of all ranks, which are asked: nothing for every step."""
        return self.ranks.total(len(self.params["means"]))

    def whole(self) -> Mapping[str, Tensor] | None:
        """The Gaussians of all ranks, on the first; None on the others. The engine must be settled."""
        rows = {name: self.ranks.collected(param) for name, param in self.params.items()}
        return {name: values for name, values in rows.items() if values is not None} or None

    def sh_degree(self, step: int) -> int:
        """The degree of spherical harmonics that a step is rendered with."""
        return active_sh_degree(self.schedule.at(step).position, self.config.model, self.first_degree)

    @property
    def refined(self) -> Callable[[Sequence[View]], Sequence[View]] | None:
        """From the training views to these with the poses that are learned; None where none are."""
        return next((one.refined for one in self.adjustments if isinstance(one, Poses)), None)

    @property
    def result(self) -> StepResult:
        """What the step has made that hooks are called after."""
        assert self.made is not None
        return self.made

    @property
    def reduction(self) -> kernels.Reduction:
        """What the next backward pass sums with."""
        return kernels.resolve(self.settings.reduction, self.device)[0]

    def _equip(self) -> None:
        config, count = self.config, len(self.params["means"])
        self.first_degree = max(self.ranks.numbers(degree_in_use(self.params)))
        self.optimizers = make_optimizers(self.params, config.optim, self.extent, self.views)
        setup = StrategySetup(
            config, count, self.device, self.extent, self.schedule, self.cap, self.shown, self.look, self.ranks
        )
        self.strategy = make_strategy(setup)
        self.engine = make_engine(config, self.params, self.optimizers, self.strategy, self.settings, self.ranks)

    def _take(self, saved: Checkpoint, parts: Iterable["StatePart"]) -> None:
        for part in parts:
            part.take(self, saved.parts[part.name])
        self.step = saved.step
        for adjustment in self.adjustments:
            if (name := _part_of(adjustment)) in saved.parts:
                adjustment.load_state_dict(saved.parts[name])
            else:
                log.warning("%s starts anew: the checkpoint of step %d has none", name, saved.step)


def _part_of(adjustment: Adjustment) -> str:
    return f"adjust.{adjustment.name}"


def _shared(
    scene: Scene, config: Config, settings: RenderSettings, device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """The fields that both beginnings have in common."""
    generators, shown = make_generators(config.train.seed, device), showing(config, ranks)
    adjustments = make_adjustments(config, scene, device)
    sky = next((one for one in adjustments if isinstance(one, Sky)), None)
    return {
        "config": config, "schedule": Schedule(config.train.iterations, config.train.seconds, shown.count),
        "settings": replace(settings, environment=sky.environment) if sky else settings, "device": device,
        "ranks": ranks, "extent": scene.extent, "shown": showing_share(scene),
        "look": look_at_views(cameras_of(scene.train, device), settings, ranks),
        "cap": cap_of(config, settings.rasterizer, scene.train, device, ranks),
        "generators": generators, "sampler": ViewSampler(len(scene.train), generators["host"], shown),
        "adjustments": adjustments, "depths": make_depths(config, scene, device),
    }  # fmt: skip


def make_generators(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """See `TrainingState.generators`; PyTorch's own are seeded, too."""
    torch.manual_seed(seed)
    return {"host": torch.Generator().manual_seed(seed), "device": torch.Generator(device).manual_seed(seed)}


def check_reduction(config: Config, device: torch.device) -> None:
    """Raises ConfigError for a reduction strategy that the device lacks."""
    if config.reduction.strategy == "gsplat" and device.type == "cpu":
        raise ConfigError("reduction.strategy is gsplat, which has no CPU kernels; use sw_b (or any other) on the CPU")


# ---------------------------------------------------------------------------------------- what a checkpoint holds


@dataclass(frozen=True)
class StatePart(Part):
    """A part of a training's state."""

    save: Callable[[TrainingState], Any]
    """Plain values of it."""
    take: Callable[[TrainingState, Any], None]
    """Puts these into a state whose parameters are the checkpoint's already. Raises ValueError if they do not fit."""
    of_model: bool = True
    """Whether it goes back with the model, when that goes back to a checkpoint; else it goes on."""


def _is_strategys(statistics: Any, checkpoint: Checkpoint) -> bool:
    """Whether the strategy takes them: it checks them itself."""
    config = config_of({"densification.strategy": checkpoint.config["densification.strategy"]})
    setup = StrategySetup(config, len(checkpoint.params["means"]), "cpu", 1.0, Schedule(config.train.iterations))
    make_strategy(setup).load_state_dict(statistics)
    return True


def _take_clock(state: TrainingState, clock: Any) -> None:
    state.elapsed = clock["elapsed_seconds"]


PARTS = (
    StatePart(
        "params",
        is_sound=lambda params, _: are_parameters(params),
        save=lambda state: dict(state.params),
        take=lambda state, params: None,
    ),
    StatePart(
        "optimizers",
        is_sound=lambda states, checkpoint: are_states(states, checkpoint.params),
        save=lambda state: state_dicts(state.optimizers),
        take=lambda state, states: load_state_dicts(state.optimizers, states),
    ),
    StatePart(
        "densification",
        is_sound=_is_strategys,
        save=lambda state: state.strategy.state_dict(),
        take=lambda state, statistics: state.strategy.load_state_dict(statistics),
    ),
    StatePart(
        "rng",
        is_sound=lambda rng, _: is_rng(rng),
        save=lambda state: capture_rng(state.generators),
        take=lambda state, rng: restore_rng(rng, state.generators),
        of_model=False,
    ),
    StatePart(
        "sampler",
        is_sound=lambda order, checkpoint: is_order(order, checkpoint.scene["training views"]),
        save=lambda state: state.sampler.state_dict(),
        take=lambda state, order: state.sampler.load_state_dict(order),
        of_model=False,
    ),
    StatePart(
        CLOCK,
        is_sound=lambda clock, _: math.isfinite(clock["elapsed_seconds"] + 0.0),
        save=lambda state: {"elapsed_seconds": state.elapsed},
        take=_take_clock,
        of_model=False,
    ),
)
"""What every checkpoint holds, in the order in which it is taken."""
