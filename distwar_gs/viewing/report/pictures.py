"""Pictures of report.html: views beside their photos, and where the two differ, small and as data: URLs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distwar_gs.evaluation.losses import as_floats
from distwar_gs.evaluation.metrics import Evaluation, psnr, to_8bit

if TYPE_CHECKING:
    from distwar_gs.training.trainer import Trainer

WORST, SAMPLE = 5, 5
WIDTH = 480
"""Pixels of a picture, at most."""
BRIGHTEST = 0.25
"""The error that is white, of a range of 1: the mean over the channels of a pixel."""


@dataclass(frozen=True)
class Picture:
    """A view in three pictures, data: URLs."""

    name: str
    psnr: float
    """In dB, of the 8-bit image."""
    photo: str
    render: str
    error: str


def chosen(training: int, evaluation: Evaluation | None) -> tuple[list[int], list[int]]:
    """Indices of the worst test views, the worst first, and of a sample of the others; without test views, none and a
    sample of so many training views."""
    if evaluation is None:
        return [], _spread(range(training))
    order = sorted(range(len(evaluation.views)), key=lambda index: evaluation.views[index].psnr)
    return order[:WORST], _spread(sorted(order[WORST:]))


def _spread(indices: list[int] | range) -> list[int]:
    places = np.unique(np.linspace(0, len(indices) - 1, SAMPLE).round().astype(int))
    return [indices[place] for place in places] if indices else []


@torch.no_grad()
def picture_of(run: Trainer, index: int) -> Picture:
    """A test view of the run, or a training view if it has none. What a mask leaves out has no error."""
    background = run.batches.background
    if run.scene.test:
        view, photo, kept = run.scene.test[index], run.results.photos[index], run.results.photos.mask(index)
    else:
        view, batch = run.scene.train[index], run.batches.one(index)
        photo, kept = batch.photo, batch.mask
    target = as_floats(photo.to(background.device), background)
    image = to_8bit(run.results.render_view(view)).float() / 255.0
    kept = None if kept is None else kept.to(image.device)
    error = (image - target).abs().mean(dim=-1)
    error = error if kept is None else torch.where(kept, error, 0.0)
    return Picture(view.name, float(psnr(image, target, kept)), jpeg(target), jpeg(image), jpeg(hot(error / BRIGHTEST)))


def hot(values: Tensor) -> Tensor:
    """Numbers [H, W] from 0 to 1 as colours [H, W, 3]: black, red, yellow, white."""
    return torch.stack([(3.0 * values - shift).clamp(0.0, 1.0) for shift in (0.0, 1.0, 2.0)], dim=-1)


def jpeg(image: Tensor) -> str:
    """An image [H, W, 3] in [0, 1] as a data: URL, no wider than WIDTH."""
    picture = Image.fromarray(to_8bit(image).cpu().numpy())
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, max(1, round(picture.height * WIDTH / picture.width))), Image.Resampling.BOX)
    return jpeg_url(picture, quality=88)


def jpeg_url(picture: Image.Image, quality: int) -> str:
    """A picture as JPEG, as a data: URL."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
