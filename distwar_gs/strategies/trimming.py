"""Which Gaussians the pictures could do without: those that cost many pixels and hardly change any.

A Gaussian is blended in every pixel that its ellipse covers, also where what is in front of it hides it. Of trained
models four layers in ten carry a hundredth to a thousandth of the light. Those go that do least for the pixels they
cost, weight by area, until together they are a given share of all weight: so what a removal changes is known before,
whatever the scene, its resolution and its exposure.

(Speedy-Splat, Hanson et al. 2025, removes a given share of the Gaussians by the gradient of the image; LightGaussian,
Fan et al. 2024, by weight and volume. Both set how many go, not how much of the picture.)
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.config import DensificationConfig
from distwar_gs.config.schedule import FEWEST_TO_RECOVER, Moment
from distwar_gs.gaussians.edits import drop_rows
from distwar_gs.rendering.renderer import RenderSettings
from distwar_gs.rendering.weights import uses
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_kernels import Cameras

log = logging.getLogger(__name__)

VIEWS = 48
"""Training views that are asked each time, at most; the next time others are. Of bonsai's 255 all would take a fifth of
the training's time."""
WITNESSES = 4
"""Views that must have a Gaussian in their picture before it may go: one alone may have it hidden by what others do not
see."""


class Use(NamedTuple):
    """What some training views say of N Gaussians, those of all ranks."""

    weights: Tensor
    """[N] their weights (alpha times transmittance), summed over pixels and views."""
    areas: Tensor
    """[N] the pixels in which they are blended, hidden or not."""
    views: Tensor
    """[N] how many of the views have them in their picture."""


Look = Callable[[Mapping[str, Tensor], int], Use]
"""Of this rank's Gaussians and the number of looks before."""


def look_at_views(cameras: Sequence[Cameras], settings: RenderSettings, ranks: Ranks = ALONE) -> Look:
    """A `Look` at these training views. Ranks share them out, and have the Gaussians of all for as long as that takes:
    what hides one may be another rank's."""

    @torch.no_grad()
    def look(params: Mapping[str, Tensor], before: int) -> Use:
        drawn = {name: ranks.everywhere(values.detach()) for name, values in params.items() if name != "shN"}
        drawn["shN"] = drawn["sh0"][:, :0]
        found = drawn["means"].new_zeros(3, len(drawn["means"]))
        for camera in spread(cameras, before)[ranks.rank :: ranks.count]:
            weights, areas = uses(drawn, camera, settings)
            found += torch.stack((weights, areas, (areas > 0).to(weights)))
        return Use(*(ranks.mean(found) * ranks.count))

    return look


def spread(cameras: Sequence[Cameras], before: int) -> Sequence[Cameras]:
    """`VIEWS` of the cameras, evenly spread; each time others, as far as there are."""
    count = len(cameras)
    if count <= VIEWS:
        return cameras
    return [cameras[(index * count // VIEWS + before) % count] for index in range(VIEWS)]


def trims_before(position: float, pace: float, config: DensificationConfig) -> int:
    """How often trimming has been due up to a position: `trims` times, evenly spread over the time until `stop`; less
    often where fewer than `FEWEST_TO_RECOVER` steps would lie between, in which the others make up for what is gone."""
    if not config.trim or not config.trims:
        return 0
    interval = max(config.stop / (config.trims + 1), FEWEST_TO_RECOVER * pace)
    return int(max(position, 0.0) / interval + 1e-6)  # a multiple of it may be a hair below


def is_trimmed(now: Moment, config: DensificationConfig) -> bool:
    """Whether a refinement also trims: it is the first one since trimming has become due."""
    position = now.mark(config.every)
    before = position - config.every * now.pace
    return trims_before(position, now.pace, config) > trims_before(before, now.pace, config)


def dispensable(use: Use, share: float) -> Tensor:
    """[N] bool: the Gaussians that do least for the pixels they cost, of which all weights together are at most `share`
    of those of all Gaussians. Those that fewer than `WITNESSES` views have in their picture stay."""
    judged = (use.views >= WITNESSES) & (use.areas > 0)
    order = (use.weights / use.areas).masked_fill(~judged, torch.inf).argsort(stable=True)
    so_far = use.weights[order].double().cumsum(0)
    gone = torch.zeros_like(judged)
    gone[order] = judged[order] & (so_far <= share * use.weights.double().sum())
    return gone


def trim(
    look: Look,
    now: Moment,
    params: dict[str, Parameter],
    optimizers: dict[str, Adam],
    state: dict[str, Tensor],
    config: DensificationConfig,
    ranks: Ranks = ALONE,
) -> None:
    """Takes what the training views could do without out of the Gaussians, their moments and statistics.

    Raises:
        torch.OutOfMemoryError: nothing is changed then.
    """
    _, ours = ranks.span(len(params["means"]))
    gone = dispensable(look(params, trims_before(now.mark(config.every), now.pace, config)), config.trim)
    drop_rows(params, optimizers, state, gone[ours])
    log.debug("step %d: %d Gaussians that the views could do without are removed", now.step, int(gone.sum()))
