"""What a training is made of: the one value that the step, the hooks and the checkpoints share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch.nn import Parameter
from torch.optim import Adam

import distwar_kernels as kernels
from datasets import Scene
from distwar_gs.checkpoints import checkpoint as checkpoints
from distwar_gs.config import Config, ConfigError, as_values
from distwar_gs.config.schedule import Schedule
from distwar_gs.engines.base import Engine, make_engine
from distwar_gs.gaussians.memory import Cap, cap_of
from distwar_gs.gaussians.model import active_sh_degree, as_parameters, degree_in_use
from distwar_gs.gaussians.optimizer import all_moments, load_state_dicts, make_optimizers, state_dicts
from distwar_gs.gaussians.start import first_gaussians
from distwar_gs.rendering.renderer import RenderSettings
from distwar_gs.strategies.base import Strategy, make_strategy
from distwar_gs.training.batches import StepResult
from distwar_gs.training.sampler import ViewSampler


@dataclass(kw_only=True)
class TrainingState:
    """A model in training and all that changes with it. A step changes it in place (distwar_gs.training.step)."""

    config: Config
    schedule: Schedule
    settings: RenderSettings
    device: torch.device
    extent: float
    """Of the scene, in the frame of the means."""
    cap: Cap
    """How many Gaussians there may be."""
    generators: dict[str, torch.Generator]
    """All of a run's randomness: view order and backgrounds on the "host", that of the strategy on the "device"."""
    sampler: ViewSampler
    params: dict[str, Parameter]
    """The Gaussians (distwar_gs.gaussians.model)."""
    step: int = 0
    """Steps made."""
    elapsed: float = 0.0
    """Seconds of training after these steps, over all sessions; evaluating and saving are not in them."""
    is_over: bool = False
    """Whether the last step has been made."""
    made: StepResult | None = None
    """By the last step; None when what follows it is done."""
    optimizers: dict[str, Adam] = field(init=False)
    strategy: Strategy = field(init=False)
    engine: Engine = field(init=False)
    first_degree: int = field(init=False)
    """The degree of spherical harmonics that the model had in use when it was taken over."""

    def __post_init__(self) -> None:
        """Optimisers, strategy and engine for the parameters."""
        self._equip()

    @classmethod
    def from_points(cls, scene: Scene, config: Config, settings: RenderSettings, device: torch.device) -> Self:
        """A training that begins: with the first points, or the file that the config starts from.

        Raises:
            ModelError, DataError: there is nothing to begin with.
        """
        shared = _shared(scene, config, settings, device)
        params = first_gaussians(scene, config, shared["generators"]["host"], device, shared["cap"])
        return cls(**shared, params=params)

    @classmethod
    def from_checkpoint(
        cls,
        saved: checkpoints.Checkpoint,
        scene: Scene,
        config: Config,
        settings: RenderSettings,
        device: torch.device,
    ) -> Self:
        """A training that goes on as if it had not been interrupted.

        Raises:
            CheckpointError: its parts do not fit each other.
        """
        params = as_parameters(saved.params, device)
        state = cls(**_shared(scene, config, settings, device), params=params)
        try:
            state._take(saved)
            checkpoints.restore_rng(saved.rng, state.generators)
            state.sampler.load_state_dict(saved.sampler)
        except (ValueError, KeyError) as error:
            raise checkpoints.CheckpointError(f"the checkpoint to resume from does not fit itself: {error}") from error
        state.elapsed = saved.elapsed_seconds
        return state

    def go_back(self, saved: checkpoints.Checkpoint) -> None:
        """To a checkpoint's model, with another order of views: the same one might end the same way."""
        self.params = as_parameters(saved.params, self.device)
        self._equip()
        self._take(saved)
        self.is_over = False

    def checkpoint(self, fingerprint: Mapping[str, Any]) -> checkpoints.Checkpoint:
        """All that `from_checkpoint` needs; the engine must be settled. `fingerprint`: of the scene."""
        return checkpoints.Checkpoint(
            step=self.step, params=self.params, optimizers=state_dicts(self.optimizers),
            densification=self.strategy.state_dict(), rng=checkpoints.capture_rng(self.generators),
            sampler=self.sampler.state_dict(), config=as_values(self.config),
            scene=dict(fingerprint), elapsed_seconds=self.elapsed,
        )  # fmt: skip

    def begin(self) -> None:
        """Before the first step of a session: fixes a cap that depends on memory, and starts the schedule."""
        self.cap.begin(len(self.params["means"]), [*self.params.values(), *all_moments(self.optimizers)])
        self.schedule.begin(self.step, self.elapsed)
        self.note_time(self.elapsed)

    def note_time(self, elapsed: float) -> None:
        """These steps have taken so many seconds of training: whether the last one has been made."""
        self.elapsed, self.is_over = elapsed, self.schedule.is_over(self.step, elapsed)

    def sh_degree(self, step: int) -> int:
        """The degree of spherical harmonics that a step is rendered with."""
        return active_sh_degree(self.schedule.at(step).position, self.config.model, self.first_degree)

    @property
    def reduction(self) -> kernels.Reduction:
        """What the next backward pass sums with."""
        return kernels.resolve(self.settings.reduction, self.device)[0]

    def _equip(self) -> None:
        config, count = self.config, len(self.params["means"])
        self.first_degree = degree_in_use(self.params)
        self.optimizers = make_optimizers(self.params, config.optim, self.extent)
        self.strategy = make_strategy(config, count, self.device, self.extent, self.cap, self.schedule)
        self.engine = make_engine(config, self.params, self.optimizers, self.strategy, self.settings)

    def _take(self, saved: checkpoints.Checkpoint) -> None:
        load_state_dicts(self.optimizers, saved.optimizers)
        self.strategy.load_state_dict(saved.densification)
        self.step = saved.step


def _shared(scene: Scene, config: Config, settings: RenderSettings, device: torch.device) -> dict[str, Any]:
    """The fields that both beginnings have in common."""
    generators = make_generators(config.train.seed, device)
    return {
        "config": config, "schedule": Schedule(config.train.iterations, config.train.seconds), "settings": settings,
        "device": device, "extent": scene.extent, "cap": cap_of(config, settings.rasterizer, scene.train, device),
        "generators": generators, "sampler": ViewSampler(len(scene.train), generators["host"]),
    }  # fmt: skip


def make_generators(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """See `TrainingState.generators`; PyTorch's own are seeded, too."""
    torch.manual_seed(seed)
    return {"host": torch.Generator().manual_seed(seed), "device": torch.Generator(device).manual_seed(seed)}


def check_reduction(config: Config, device: torch.device) -> None:
    """Raises ConfigError for a reduction strategy that the device lacks."""
    if config.reduction.strategy == "gsplat" and device.type == "cpu":
        raise ConfigError("reduction.strategy is gsplat, which has no CPU kernels; use sw_b (or any other) on the CPU")
