"""A training step in which all ranks show one view, each some rows of its tiles (bands.py).

Everything else is as where each shows a view of its own (sharded.py): whoever has Gaussians projects them, once; what a
band shows of them goes to the rank whose band it is. All get the whole image, and compare it as one process does, so
that whatever a loss asks of it is the same on all; each goes back from its band. The sum over the bands is the view's:
a step is that of one process, to rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_gs.engines.bands import Bands
from distwar_gs.engines.gradients import errors_of, image_gradient
from distwar_gs.engines.sharded import WORDS, Received, Sent, ShardedComposedEngine
from distwar_gs.engines.timing import StepTimer
from distwar_gs.strategies.base import wants_score
from distwar_kernels import Cameras


@dataclass(frozen=True)
class TiledRendered:
    """See distwar_gs.engines.base.Rendered."""

    step: int
    camera: Cameras
    bands: Bands
    seen: Sent
    """What the view shows of this rank's Gaussians."""
    places: list[Tensor]
    """int64: which of these each band shows."""
    received: Received
    """This rank's band."""
    whole: Tensor
    """[H, W, 3], of all bands; with depth [H, W, 5]: as it is expected, and alpha."""

    @property
    def image(self) -> Tensor:
        """See Rendered."""
        return self.whole[..., :3].contiguous()

    @property
    def depth(self) -> tuple[Tensor, Tensor] | None:
        """See Rendered."""
        return (self.whole[..., 3], self.whole[..., 4]) if self.whole.shape[-1] == 5 else None

    def coverage(self) -> float:
        """See Rendered; of this rank's band."""
        return float((self.received.alphas > 0).float().mean())


class TiledComposedEngine(ShardedComposedEngine):
    """The ops one after another. Looks are those of ShardedComposedEngine: each rank with a camera of its own."""

    def forward(  # type: ignore[override]  # what it returns is for its own `update`
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> TiledRendered:  # fmt: skip
        """See distwar_gs.engines.base.Engine; all ranks show the same view."""
        self._agree()
        bands, own = Bands.of(camera, self.ranks), camera
        if camera.viewmats.requires_grad:  # of which this rank has a part
            own = camera._replace(viewmats=camera.viewmats.detach().requires_grad_())
        seen = self._project(own, sh_degree)
        places = _places(seen, bands)
        tops = bands.tops(seen.splats.detach())
        pieces = [_below(seen.splats.detach()[at], top) for at, top in zip(places, tops, strict=True)]
        scored = wants_score(self.strategy, step)
        received = self._blend(bands.size(camera), *self._exchange(pieces), background, with_depth, scored)
        return TiledRendered(step, camera, bands, seen, places, received, bands.whole(_drawn(received)))

    def update(  # type: ignore[override]
        self, rendered: TiledRendered, gradients: Mapping[str, Tensor], timer: StepTimer
    ) -> None:
        """See distwar_gs.engines.base.Engine."""
        statistics, own = self.strategy.statistics(rendered.step), rendered.bands.own
        v_image, v_depth = image_gradient(gradients, rendered.depth is not None), gradients.get("depth")
        errors = errors_of(gradients, statistics, rendered.step)
        records = self._differentiated(
            rendered.received, own(v_image), None if v_depth is None else own(v_depth),
            None if errors is None else own(errors),
        )  # fmt: skip
        timer.mark("blend_backward")
        back = self._way_back(records, rendered.received, [len(at) for at in rendered.places])
        timer.mark("exchange")
        summed = records.new_zeros(len(rendered.seen.rows), records.shape[1])
        for at, of_band in zip(rendered.places, back, strict=True):
            summed[at] += of_band
        self._differentiate(rendered.step, [rendered.seen], [summed], statistics)
        if rendered.camera.viewmats.requires_grad:
            part = rendered.seen.camera.viewmats.grad
            part = torch.zeros_like(rendered.camera.viewmats) if part is None else part
            rendered.camera.viewmats.grad = rendered.bands.summed(part)
        timer.mark("backward")
        self._step()
        timer.mark("optimizer")


def _places(seen: Sent, bands: Bands) -> list[Tensor]:
    """Which splats each band shows, by their boxes: the tile lists are made of these."""
    words = dict(zip(WORDS, seen.splats.detach().split(list(WORDS.values()), dim=-1), strict=True))
    middle, reach = words["means2d"][:, 1], words["radii"][:, 1]
    return [touched.nonzero().squeeze(1) for touched in bands.touched(middle - reach, middle + reach)]


def _below(splats: Tensor, top: Tensor) -> Tensor:
    """Splats [M, 12] whose centres are relative to a row; `splats` is changed."""
    splats[:, 1] -= top
    return splats


def _drawn(received: Received) -> Tensor:
    """[rows, W, 3], with depth [rows, W, 5], without the graph."""
    parts = [received.colors[0, ..., :3]]
    if received.depths is not None:
        parts += [received.depths[0], received.alphas[0]]
    return torch.cat(parts, dim=-1).detach()
