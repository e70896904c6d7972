"""A cleaned model: written, measured as render.py does, and compared with what it was, view by view."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distwar_datasets import View
from distwar_datasets.pixels.images import ImageStore
from distwar_gs.cleaning.criteria import Subject, only
from distwar_gs.evaluation.metrics import Evaluation, data_protocol, evaluate, to_8bit
from distwar_gs.formats.export import read_render_mode, save_model
from distwar_gs.formats.origins import placed
from distwar_gs.formats.sky import read_sky, save_sky
from distwar_gs.formats.table import written_format
from distwar_gs.rendering.views import measured_images
from distwar_gs.viewing.tours import tour_of_model
from distwar_gs.viewing.trained import TrainedModel

SHOWN = 4
"""Views that are kept as pictures: those that changed most."""


@dataclass(frozen=True)
class ChangedView:
    """A view before and after, uint8 [H, W, 3] each, on the CPU."""

    name: str
    change: float
    """Mean absolute difference of the two renders, in levels of 255."""
    before: Tensor
    after: Tensor
    photo: Tensor


@dataclass(frozen=True)
class Comparison:
    """Both models measured on the same views."""

    split: str
    """test, or train where the scene holds out nothing."""
    before: Evaluation
    after: Evaluation
    changed: tuple[ChangedView, ...]
    """At most SHOWN, the one that changed most first."""


def save_cleaned(path: Path, source: Path, subject: Subject, rows: Tensor) -> None:
    """Write those Gaussians in the format that the name ends in, in the frame that their file had.

    Raises: ModelFileError for a name of no format, or a format that cannot hold them; WriteError.
    """
    params, origin = placed(only(subject.params, rows), subject.origin, "auto", written_format(path))
    tour = tour_of_model(source)
    shown = tour and tour.moved(-origin)
    save_model(path, params, antialiased=read_render_mode(source) == "mip", origin=origin, tour=shown)
    save_sky(path, read_sky(source))


@torch.no_grad()
def compare(model: TrainedModel, rows: Tensor) -> Comparison:
    """Measure the model and those rows of it on the test views, by the protocol of render.py; where there are none, on
    the training views."""
    split = "test" if model.scene.test else "train"
    views: Sequence[View] = getattr(model.scene, split)
    images = measured_images(views, model.config)
    most = _MostChanged(model)
    before = _measure(model, views, images)
    after = _measure(replace(model, params=only(model.params, rows)), views, images, most)
    return Comparison(split, before, after, most.views())


def _measure(
    model: TrainedModel, views: Sequence[View], images: ImageStore, observe: "_MostChanged | None" = None
) -> Evaluation:
    protocol = data_protocol(model.scene, model.config.data.background)
    return evaluate(
        lambda view: model.render(view).colors[0], images, views, protocol, observe, images.mask,
        with_flip=model.config.log.flip,
    )  # fmt: skip


class _MostChanged:
    """Of the views that it is shown, the SHOWN that differ most from what a model renders there.

    Rendering again costs less than keeping every picture of a large scene.
    """

    def __init__(self, model: TrainedModel) -> None:
        self._model, self._heap, self._shown = model, list[tuple[float, int, ChangedView]](), 0

    def __call__(self, view: View, after8: Tensor, photo: Tensor) -> None:
        before8 = to_8bit(self._model.render(view).colors[0])
        change = float((after8.float() - before8.float()).abs().mean())
        pictures = (picture.cpu() for picture in (before8, after8, photo))
        self._shown += 1
        heapq.heappush(self._heap, (change, -self._shown, ChangedView(view.name, change, *pictures)))
        if len(self._heap) > SHOWN:
            heapq.heappop(self._heap)

    def views(self) -> tuple[ChangedView, ...]:
        """The one that changed most first."""
        return tuple(entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2], reverse=True))
