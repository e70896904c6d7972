"""The training views in their order, and what a step makes of one."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distwar_datasets.pixels.images import ImageStore
from distwar_gs.config import Config
from distwar_gs.engines.timing import StepTimer
from distwar_gs.rendering.views import evaluation_background
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training.batch import Batch
from distwar_gs.training.coarse import CoarsePhotos
from distwar_gs.training.sampler import ViewSampler
from distwar_gs.training.shared_photos import SharedPhotos
from distwar_kernels import Cameras


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
        images: ImageStore | SharedPhotos,
        sampler: ViewSampler,
        background: Tensor,
        generator: torch.Generator | None = None,
        coarse: CoarsePhotos | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`background` [3] under every view; or, with a generator on the host, a random colour under each. `coarse`:
        which views are smaller. `ranks`: those that show a view each."""
        self.cameras, self.images, self.background = cameras, images, background
        self._sampler, self._generator, self._coarse = sampler, generator, coarse
        self._ranks = ranks
        self._unmade: int | None = None  # the view of the step that is being made

    def next(self, share: float = 1.0) -> Batch:
        """The next view, as large as it is to be where this share of the run is over; later ones are read meanwhile.
        DataError for a photo that is read only now."""
        index = self._unmade = self._sampler.next()
        (photo, mask), background = self._pixels(index), self._background()
        views = tuple(self._sampler.shown) if self._ranks.count > 1 else ()
        together = tuple(self.cameras[view] for view in views)
        batch = Batch(index, self.cameras[index], photo, mask, background, views, together)
        return self._coarse.at(batch, share) if self._coarse else batch

    def one(self, index: int) -> Batch:
        """A view out of turn, on the colour that test views have."""
        photo, mask = self._alone(index)
        return Batch(index, self.cameras[index], photo, mask, self.background)

    def made(self) -> None:
        """The step of the last view has been made."""
        self._unmade = None

    def give_up(self) -> None:
        """A step that failed has not happened: a resumed run begins with its view."""
        if self._unmade is not None:
            self._sampler.put_back(self._unmade)
            self._unmade = None

    def _pixels(self, index: int) -> tuple[Tensor, Tensor | None]:
        """The photo of the view that is shown now, and its mask."""
        if isinstance(self.images, SharedPhotos):
            return self.images.of_step(self._sampler.shown, self._sampler.upcoming_of_all())
        photo = self.images[index]
        self.images.prefetch(self._sampler.upcoming())
        return photo, self.images.mask(index)

    def _alone(self, index: int) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.images, SharedPhotos):
            return self.images.alone(index)
        return self.images[index], self.images.mask(index)

    def _background(self) -> Tensor:
        if self._generator is None:
            return self.background
        colors = torch.rand(self._ranks.count, 3, generator=self._generator)
        return colors[self._ranks.rank].to(self.background.device, non_blocking=True)


def batches_of(
    config: Config,
    cameras: Sequence[Cameras],
    images: ImageStore | SharedPhotos,
    sampler: ViewSampler,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> Batches:
    """The training views as a config asks for them; `generator`: on the host, of random backgrounds; `ranks`: those
    that show a view each."""
    background = torch.tensor(evaluation_background(config), device=images.device)
    colors = generator if config.data.background == "random" else None
    coarse = CoarsePhotos(config.train.coarse_until, keeps=images.where == images.device.type)
    return Batches(cameras, images, sampler, background, colors, coarse, ranks)
