"""A bilateral grid for each photo: colour matrices that depend on where in the photo a pixel is, and how bright.

Wang et al. 2024, "Bilateral Guided Radiance Field Processing" (SIGGRAPH), whose numbers these are: 16 x 16 cells of the
image, 8 of brightness, 3x4 matrices between which is interpolated, a total variation in the loss. That is enough for
exposure, white balance, vignette and the curve that a phone's camera makes of light; not for what changes its shape.

Beside the published grid there is one matrix more for each photo, added to all its cells: an exposure as in
distwar_gs.adjust.exposure, which at its higher rate is found within a few visits of a photo. The cells alone learn too
slowly for that, and must, so that they do not learn what Gaussians should: a stop would take them a hundred visits.

The grid is sliced by PyTorch's `grid_sample`, and differentiated by autograd: no kernel of its own yet.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from distwar_datasets import Scene
from distwar_gs.adjust.exposure import exposure_rate
from distwar_gs.adjust.photo_values import PhotoValues
from distwar_gs.config import AppearanceConfig, Config, ConfigError
from distwar_kernels import Cameras

log = logging.getLogger(__name__)

WIDTH, HEIGHT, LEVELS = 16, 16, 8
"""Cells of a grid: across the image, down, and in brightness."""
LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue (ITU-R BT.601)."""
WARM_UP = 1.0 / 30.0
"""Share of the run in which the learning rate rises, from WARM_FROM of what it is to be."""
WARM_FROM = 0.01
FINAL = 0.01
"""What it falls to by the end, as a share."""


def neutral_grid(device: torch.device | str = "cpu") -> Tensor:
    """[12, LEVELS, HEIGHT, WIDTH]: the 3x4 matrix that changes nothing, row after row, in each cell."""
    matrix = torch.eye(3, 4, device=device).reshape(12, 1, 1, 1)
    return matrix.repeat(1, LEVELS, HEIGHT, WIDTH)


def sliced(image: Tensor, grid: Tensor) -> Tensor:
    """Each pixel of an image [H, W, 3] changed by the matrix that a grid [12, LEVELS, HEIGHT, WIDTH] has for its place
    and brightness. Cells at the border have their middle on the image's border, on black and on white; beyond these,
    pixels get the same as on them."""
    matrices = grid_sample(grid[None], _places(image), align_corners=True, padding_mode="border")[0, :, 0]
    matrices = matrices.unflatten(0, (3, 4))  # [3, 4, H, W]
    colors = (matrices[:, :3] * image.permute(2, 0, 1)).sum(dim=1) + matrices[:, 3]
    return colors.permute(1, 2, 0).contiguous()


def _places(image: Tensor) -> Tensor:
    """[1, 1, H, W, 3]: column, row and brightness of each pixel, from -1 to 1 as `grid_sample` takes them."""
    height, width = image.shape[:2]
    options: dict[str, Any] = {"dtype": image.dtype, "device": image.device}
    x = (torch.arange(width, **options) + 0.5) * (2.0 / width) - 1.0
    y = (torch.arange(height, **options) + 0.5) * (2.0 / height) - 1.0
    red, green, blue = image.unbind(-1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width), 2.0 * luma - 1.0], dim=-1)
    return places[None, None]


def total_variation(grid: Tensor) -> Tensor:
    """Mean square of the difference of neighbouring cells, summed over the three directions; a scalar."""
    return sum((grid.diff(dim=axis).square().mean() for axis in (1, 2, 3)), start=grid.new_zeros(()))


def total_variation_gradient(grid: Tensor) -> Tensor:
    """d(`total_variation`)/d(grid), of the grid's shape; without a graph."""
    gradient = torch.zeros_like(grid)
    for axis in (1, 2, 3):
        steps = grid.diff(dim=axis)
        steps *= 2.0 / steps.numel()
        size = grid.shape[axis] - 1
        gradient.narrow(axis, 1, size).add_(steps)
        gradient.narrow(axis, 0, size).sub_(steps)
    return gradient


def rate_share(share: float) -> float:
    """The learning rate as a share of the one that is set, when a share of the run is done."""
    warmth = WARM_FROM + (1.0 - WARM_FROM) * min(share / WARM_UP, 1.0)
    return warmth * math.exp(share * math.log(FINAL))


class Bilateral:
    """An adjustment (distwar_gs.adjust.base)."""

    name = "bilateral"

    def __init__(self, photos: int, settings: AppearanceConfig, device: torch.device) -> None:
        """Of so many photos."""
        self._settings = settings
        self.grids = PhotoValues(neutral_grid(device), photos)
        self.offsets = PhotoValues(torch.zeros(12, device=device), photos)
        """[12]: added to all cells of a photo."""

    def grid(self, view: int) -> Tensor:
        """What a photo is sliced with, [12, LEVELS, HEIGHT, WIDTH]."""
        return self.grids.of(view) + self.offsets.of(view)[:, None, None, None]

    def camera(self, view: int, camera: Cameras) -> Cameras:
        """The same."""
        return camera

    @torch.enable_grad()
    def image(self, view: int, image: Tensor) -> Tensor:
        """See Adjustment."""
        self._view = view
        self._leaves = image.detach().requires_grad_(), self.grid(view).requires_grad_()
        self._made = sliced(*self._leaves)
        return self._made.detach()

    def backward(self, v_image: Tensor) -> Tensor:
        """See Adjustment."""
        v_rendered, self._v_grid = torch.autograd.grad(self._made, self._leaves, v_image)
        self._v_offset = self._v_grid.sum(dim=(1, 2, 3))
        self._v_grid.add_(total_variation_gradient(self._leaves[1].detach()), alpha=self._settings.grid_tv)
        del self._made, self._leaves  # the graph
        return v_rendered.contiguous()

    def step(self, share: float) -> None:
        """See Adjustment."""
        self.step_of(self._view, self.noted(), share)

    def noted(self) -> list[Tensor]:
        """See SharedAdjustment."""
        return [self._v_grid, self._v_offset]

    @torch.no_grad()
    def step_of(self, view: int, noted: Sequence[Tensor], share: float) -> None:
        """See SharedAdjustment."""
        v_grid, v_offset = noted
        self.grids.step(view, v_grid, self._settings.grid_lr * rate_share(share))
        self.offsets.step(view, v_offset, exposure_rate(self._settings, share))

    def state_dict(self) -> dict[str, Any]:
        """See Adjustment."""
        return {"grids": self.grids.state_dict(), "offsets": self.offsets.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Adjustment."""
        if not isinstance(state, dict) or set(state) != {"grids", "offsets"}:
            raise ValueError("what is learned of photos lacks a part, or has another one")
        self.grids.load_state_dict(state["grids"])
        self.offsets.load_state_dict(state["offsets"])


def make_bilateral(config: Config, scene: Scene, device: torch.device) -> Bilateral | None:
    """A row of ADJUSTMENTS. Raises ConfigError where it would not be deterministic and that is asked for."""
    settings = config.appearance
    if settings.model != "bilateral":
        return None
    if config.train.deterministic and device.type != "cpu":
        raise ConfigError(
            "appearance.model is bilateral: its gradients are summed in another order in each run on a GPU, so it does "
            "not go with train.deterministic; use exposure, or leave --deterministic out"
        )
    _warn_of_small_photos(scene)
    return Bilateral(len(scene.train), settings, device)


def _warn_of_small_photos(scene: Scene) -> None:
    """Says that a grid has more numbers than photos have values: it then learns what Gaussians should."""
    smallest = min(scene.train, key=lambda view: view.width * view.height)
    values, numbers = 3 * smallest.width * smallest.height, neutral_grid().numel()
    if values < numbers:
        log.warning(
            "appearance.model bilateral: a photo of %d x %d has %s values, fewer than the %s numbers of its grid; use "
            "exposure, or larger photos", smallest.width, smallest.height, f"{values:,}", f"{numbers:,}",
        )  # fmt: skip
