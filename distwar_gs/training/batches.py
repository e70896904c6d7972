"""What goes into a step, a training view with its photo; and what comes out of it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.pixels.images import ImageStore
from distwar_gs.engines.timing import StepTimer
from distwar_gs.training.sampler import ViewSampler
from distwar_kernels import Cameras


class Batch(NamedTuple):
    """One training view."""

    view: int
    """Its index among the training views."""
    camera: Cameras
    """C = 1."""
    photo: Tensor
    """uint8 [H, W, 3], or with alpha [H, W, 4]."""
    mask: Tensor | None
    """[H, W], what is compared; None: all of it."""
    background: Tensor
    """[3], to render on, and to lay a photo with alpha on."""


class StepResult(NamedTuple):
    """What a step has made."""

    batch: Batch
    image: Tensor
    """[H, W, 3], the view as the model was before the step; no graph."""
    losses: dict[str, Tensor]
    """Scalars on the device: loss, l1, ssim."""
    rates: dict[str, float]
    """Learning rates by parameter."""
    timer: StepTimer
    """Of the parts of the step."""


class Batches:
    """The training views in the sampler's order."""

    def __init__(
        self,
        cameras: Sequence[Cameras],
        images: ImageStore,
        sampler: ViewSampler,
        background: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """`background` [3] under every view; or, with a generator on the host, a random colour under each."""
        self.cameras, self.images, self.background = cameras, images, background
        self._sampler, self._generator = sampler, generator
        self._unmade: int | None = None  # the view of the step that is being made

    def next(self) -> Batch:
        """The next view; later ones are read meanwhile. DataError for a photo that is read only now."""
        index = self._unmade = self._sampler.next()
        photo, background = self.images[index], self._background()
        self.images.prefetch(self._sampler.upcoming())
        return Batch(index, self.cameras[index], photo, self.images.mask(index), background)

    def one(self, index: int) -> Batch:
        """A view out of turn, on the colour that test views have."""
        photo = self.images[index]
        return Batch(index, self.cameras[index], photo, self.images.mask(index), self.background)

    def made(self) -> None:
        """The step of the last view has been made."""
        self._unmade = None

    def give_up(self) -> None:
        """A step that failed has not happened: a resumed run begins with its view."""
        if self._unmade is not None:
            self._sampler.put_back(self._unmade)
            self._unmade = None

    def _background(self) -> Tensor:
        if self._generator is None:
            return self.background
        return torch.rand(3, generator=self._generator).to(self.background.device, non_blocking=True)
