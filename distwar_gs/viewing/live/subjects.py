"""What is looked at: a model in training, a trained one, or the part of either that is in a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.rendering.renderer import Rendering, RenderSettings, render
from distwar_gs.training.state import TrainingState
from distwar_gs.viewing.live.crop import rows_inside
from distwar_gs.viewing.live.orders import CropBox
from distwar_gs.viewing.trained import TrainedModel
from distwar_kernels import Cameras


class Subject(Protocol):
    """Gaussians that can be looked at."""

    @property
    def params(self) -> Mapping[str, Tensor]:
        """As in distwar_gs.gaussians.model; they are never written."""

    @property
    def settings(self) -> RenderSettings:
        """That looks are rendered with."""

    def look(self, camera: Cameras, *, with_depth: bool = False, features: Tensor | None = None) -> Rendering:
        """What one camera sees (C = 1); features [N, F] are blended beside the colours."""


class InTraining:
    """The model of a training, between two steps. Looking changes nothing (`Engine.look`)."""

    def __init__(self, state: TrainingState, background: Tensor) -> None:
        """`background` [3], behind test views."""
        self._state, self._background = state, background

    @property
    def params(self) -> Mapping[str, Tensor]:
        """See Subject. With lazy Adam some lack steps that `look` draws them with; too little to be seen."""
        return {name: tensor.detach() for name, tensor in self._state.params.items()}

    @property
    def settings(self) -> RenderSettings:
        """See Subject."""
        return self._state.settings

    def look(self, camera: Cameras, *, with_depth: bool = False, features: Tensor | None = None) -> Rendering:
        """See Subject."""
        state = self._state
        degree = state.sh_degree(max(state.step, 1))
        return state.engine.look(state.step, camera, degree, self._background, with_depth=with_depth, features=features)


@dataclass(frozen=True)
class Still:
    """Gaussians that do not change."""

    params: Mapping[str, Tensor]
    settings: RenderSettings
    background: Tensor
    """[3]."""

    @classmethod
    def of(cls, model: TrainedModel) -> Still:
        """A trained model."""
        return cls(model.params, model.settings, model.background)

    @torch.no_grad()
    def look(self, camera: Cameras, *, with_depth: bool = False, features: Tensor | None = None) -> Rendering:
        """See Subject."""
        return render(
            self.params, camera, self.settings, sh_degree=sh_degree_of(self.params), background=self.background,
            with_depth=with_depth, features=features,
        )  # fmt: skip


@torch.no_grad()
def part_of(subject: Subject, box: CropBox | None, background: Tensor) -> Subject:
    """What is in the box; all of it without one."""
    if box is None:
        return subject
    params = subject.params
    rows = rows_inside(box, params["means"]).nonzero()[:, 0]
    return Still({name: tensor[rows] for name, tensor in params.items()}, subject.settings, background)
