"""The training photos of several ranks: each decodes and keeps its part, and gives it to whoever shows one of these.

The order of views is one, and any rank may show any photo; so that no rank need have them all, a photo has a home, the
rank of its number, and travels from there. That is 3 bytes a pixel, where a step exchanges 48 for each splat twice.
What each rank gets is known to all beforehand: nobody waits to learn a size, and the photos of a step travel while the
one before is made.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distwar_datasets import Scene, View
from distwar_datasets.pixels.images import ImageStore
from distwar_gs.config import Config
from distwar_gs.rendering.views import training_images
from distwar_gs.system.parallel import Ranks

log = logging.getLogger(__name__)


class SharedPhotos:
    """Training views' pixels, RGB without transparency, of which a store keeps this rank's."""

    where = "ranks"
    """None is where it is shown: nothing that is made of one is kept beside it."""

    def __init__(self, store: ImageStore, views: Sequence[View], ranks: Ranks) -> None:
        """`store` of all the views, which keeps those that are at home here."""
        self._store, self._views, self._ranks = store, views, ranks
        self._is_early = ranks.all(store.where != "disk")  # else a step would wait for the decoding of the next photo
        self._begun: tuple[list[int], Callable[[], Tensor]] | None = None

    @property
    def device(self) -> torch.device:
        """Where photos are when they are shown."""
        return self._store.device

    def of_step(self, shown: Sequence[int], upcoming: Sequence[int] = ()) -> tuple[Tensor, Tensor | None]:
        """The photo that this rank shows, and its mask; `shown` by each rank in their order, or one by all, `upcoming`
        as far as it is known what comes after. All ask at once. Photos of the next step are on their way then.

        Raises DataError for a photo that is read only now.
        """
        if self._begun and self._begun[0] != list(shown):  # the step before has not happened
            self._begun[1]()
            self._begun = None
        arrived = self._begun[1] if self._begun else self._begin(shown)
        photo = self._unpacked(self._everyones(shown)[self._ranks.rank], arrived())
        self._begun, following = None, list(upcoming[: len(shown)])
        if self._is_early and len(following) == len(shown):
            self._begun = following, self._begin(following)
        self._store.prefetch(index for index in upcoming if self._home(index) == self._ranks.rank)
        return photo

    def _everyones(self, shown: Sequence[int]) -> list[int]:
        """By rank."""
        return list(shown) * (self._ranks.count if len(shown) == 1 else 1)

    def _begin(self, shown: Sequence[int]) -> Callable[[], Tensor]:
        """The photos of a step go to who shows them."""
        rank, every = self._ranks.rank, self._everyones(shown)
        given = [index if self._home(index) == rank else None for index in every]
        packed = {index: self._packed(index) for index in {*given} - {None}}
        nothing = torch.empty(0, dtype=torch.uint8, device=self.device)
        rows = torch.cat([nothing, *(packed[index] for index in given if index is not None)])
        sent = [0 if index is None else self._bytes(index) for index in given]
        received = [0] * self._ranks.count
        received[self._home(every[rank])] = self._bytes(every[rank])
        return self._ranks.exchanging(rows, sent, received)

    def alone(self, index: int) -> tuple[Tensor, Tensor | None]:
        """A photo and its mask, whoever keeps it: read from disk, if this rank does not."""
        return self._store[index], self._store.mask(index)

    def _home(self, index: int) -> int:
        return index % self._ranks.count

    def _bytes(self, index: int) -> int:
        view = self._views[index]
        return view.width * view.height * (4 if view.mask else 3)

    def _packed(self, index: int | None) -> Tensor:
        """Bytes: the pixels, and behind them the mask if there is one."""
        assert index is not None
        pixels, kept = self.alone(index)
        return torch.cat([pixels.reshape(-1), *(() if kept is None else (kept.reshape(-1).view(torch.uint8),))])

    def _unpacked(self, index: int, content: Tensor) -> tuple[Tensor, Tensor | None]:
        view = self._views[index]
        size, count = (view.height, view.width), 3 * view.height * view.width
        pixels = content[:count].view(*size, 3)
        return pixels, content[count:].view(torch.bool).view(*size) if view.mask else None


def photos_of(scene: Scene, config: Config, device: torch.device, ranks: Ranks) -> ImageStore | SharedPhotos:
    """The training photos as this process has them. Where backgrounds are drawn at random, each rank has all: photos
    with transparency and without are of different sizes then, which only their decoding tells."""
    if ranks.count == 1 or config.data.background == "random":
        return training_images(scene, config, device, hosts_ranks=ranks.here)
    log.info("each rank keeps its part of the %d photos; of the first one:", len(scene.train))
    own = range(ranks.rank, len(scene.train), ranks.count)
    return SharedPhotos(training_images(scene, config, device, own, ranks.here), scene.train, ranks)
