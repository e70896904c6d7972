"""Gaussians at the edge of a panorama, whose other part is at the other edge: drawn a second time, a width away."""

from typing import NamedTuple

import torch
from torch import Tensor

from distwar_kernels.cameras import Cameras


class Around(NamedTuple):
    """Which Gaussians are drawn again, and where."""

    rows: Tensor
    """[M] int64."""
    shifts: Tensor
    """[C, M, 2] from their own place, pixels."""
    touches: Tensor
    """[C, M] bool: in which of the views."""

    def again(self, values: Tensor) -> Tensor:
        """Values [C, N, ...] and behind them those of the copies, [C, N + M, ...]; differentiable."""
        return torch.cat([values, values[:, self.rows]], dim=1)

    def again_at(self, means2d: Tensor) -> Tensor:
        """Places [C, N, 2] and behind them those of the copies."""
        return torch.cat([means2d, means2d[:, self.rows] + self.shifts], dim=1)

    def again_radii(self, radii: Tensor) -> Tensor:
        """Half extents [C, N, 2] and behind them those of the copies; 0 in views that do not show one."""
        return torch.cat([radii, radii[:, self.rows] * self.touches[..., None]], dim=1)

    def summed(self, values: Tensor) -> Tensor:
        """Of values [C, N + M, ...] those of the copies added to their Gaussians': [C, N, ...]."""
        own = values.shape[1] - len(self.rows)
        return values[:, :own].index_add(1, self.rows, values[:, own:])


@torch.no_grad()
def around(cameras: Cameras, means2d: Tensor, radii: Tensor) -> Around | None:
    """What a lens that wraps around draws again; None for others. Waits for the device.

    means2d: [C, N, 2] pixels. radii: [C, N, 2] half extents, 0 where culled.
    """
    period = cameras.lens.period
    if period is None:
        return None
    seen = (radii > 0).all(-1)
    sides = [seen & (means2d[..., 0] < radii[..., 0]), seen & (means2d[..., 0] > cameras.width - radii[..., 0])]
    found = [side.any(0).nonzero()[:, 0] for side in sides]
    distances = period(cameras.intrinsics)[:, None].to(means2d)
    across = torch.cat([(sign * distances).expand(-1, len(rows)) for sign, rows in zip((1, -1), found, strict=True)], 1)
    touches = torch.cat([side[:, rows] for side, rows in zip(sides, found, strict=True)], dim=1)
    return Around(torch.cat(found), torch.stack([across, torch.zeros_like(across)], dim=-1), touches)
