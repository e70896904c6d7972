"""From Gaussians and a camera to an image: the four ops of distwar_kernels in order (project, colour, tiles, blend), or
the fused rasteriser, which is all of them at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

import distwar_kernels as kernels
from distwar_gs.config import STRATEGIES, Config, ConfigError
from distwar_gs.rendering.near_plane import OF_EXTENT
from distwar_gs.rendering.projected import Projected, project_gaussians
from distwar_gs.rendering.settings import RenderSettings
from distwar_kernels import Cameras, gsplat_ops, loader
from distwar_kernels.constants import TILE_SIZE
from distwar_kernels.fused import fused
from distwar_kernels.fused.capacity import BYTES_PER_GAUSSIAN
from distwar_kernels.shapes import check_features

LEAST_ALPHA = 1e-10
"""Alpha at the least, where something that was blended is divided by it."""


class Rasterizer(Protocol):
    """A way to an image."""

    name: str
    """A key of RASTERIZERS."""

    def render(
        self,
        params: Mapping[str, Tensor],
        cameras: Cameras,
        settings: RenderSettings,
        *,
        sh_degree: int,
        background: Tensor | None,
        with_depth: bool,
        features: Tensor | None,
    ) -> "Rendering":
        """As the function `render`, which has checked the arguments."""

    def traffic(self, params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> kernels.AtomicTraffic:
        """What the blend's backward pass sends to the atomic units for a view."""

    def step_bytes(self, sh_degree: int, adam: str) -> int:
        """Memory per Gaussian that a training step takes beside parameters and moments; adam: `optim.adam`."""


@dataclass(frozen=True)
class Splats:
    """Gaussians as C cameras see them, and the tiles they touch: all that blending needs but the colours."""

    means2d: Tensor
    """[C, N, 2] projected centres, pixels."""
    conics: Tensor
    """[C, N, 3] inverse 2D covariances xx, xy, yy, 1/px^2."""
    opacities: Tensor
    """[C, N] in [0, 1], compensated for the blur if antialiased."""
    depths: Tensor
    """[C, N] along the camera's z axis."""
    radii: Tensor
    """[C, N, 2] int32, 0 where culled."""
    isect_offsets: Tensor
    """[C, tile_height, tile_width] int32, where each tile's list begins."""
    flatten_ids: Tensor
    """[n_isects] int32, the lists: indices into [C * N], nearest first."""
    copies: kernels.Around | None
    """Which of them are Gaussians drawn again at the other edge of a panorama: N counts them, too."""


@dataclass(frozen=True)
class Rendering:
    """Images of C views."""

    colors: Tensor
    """[C, H, W, 3], linear in the Gaussians' colours; may exceed [0, 1] slightly."""
    alphas: Tensor
    """[C, H, W, 1] in [0, 1]."""
    depths: Tensor | None
    """[C, H, W, 1] expected depth, along the camera's z axis or as the lens has it (`kernels.Lens.depth`), 0 where
    nothing is seen; only if asked for."""
    features: Tensor | None
    """[C, H, W, F] blended features, weighted by alpha: 0 where nothing is seen; only if given."""


@dataclass(frozen=True)
class ComposedRendering(Rendering):
    """And what densification needs of them: from the ops one after another."""

    means2d: Tensor
    """[C, N, 2] projected centres, pixels; part of the graph."""
    radii: Tensor
    """[C, N, 2] int32, 0 where culled."""
    splat_colors: Tensor
    """[C, N, 3] what was blended, with depth [C, N, 4]; part of the graph."""
    drawn: Splats
    """With what a panorama's edges show again behind the others."""

    def center_gradients(self, absolute: bool) -> Tensor:
        """dL/d(means2d) [C, N, 2] after the backward pass; or sums of its absolute values over the pixels, as
        RenderSettings.absgrad leaves them."""
        if not absolute:
            assert self.means2d.grad is not None
            return self.means2d.grad
        sums: Tensor = self.drawn.means2d.absgrad  # type: ignore[attr-defined]  # the blend's
        return sums if self.drawn.copies is None else self.drawn.copies.summed(sums)


def render_settings(config: Config, extent: float, device: torch.device) -> RenderSettings:
    """The settings a configuration asks for, in a frame where the scene has this extent.

    `distwar_gs.rendering.near_plane` makes `model.near_plane` a number that fits the scene; without that it is the one
    for scenes without points. Raises ConfigError for a rasteriser that cannot be had on this device or with this
    reduction.
    """
    return RenderSettings(
        near_plane=(config.model.near_plane or OF_EXTENT) * extent,
        far_plane=config.model.far_plane * extent,
        antialiased=config.model.antialiased,
        absgrad=STRATEGIES[config.densification.strategy].absgrad,
        reduction=kernels.Reduction(config.reduction.strategy, config.reduction.balance_threshold),
        rasterizer=_rasterizer(config, device),
    )


def _rasterizer(config: Config, device: torch.device) -> str:
    wanted, stock = config.train.rasterizer, config.reduction.strategy == "gsplat"
    if wanted == "fused" and device.type == "cpu":
        raise ConfigError("train.rasterizer is fused, which needs a CUDA GPU; use auto on the CPU")
    if wanted == "fused" and stock:
        raise ConfigError(
            "reduction.strategy gsplat is a part of gsplat's rasteriser; use train.rasterizer=gsplat with it"
        )
    chosen = "fused" if device.type == "cuda" and wanted != "gsplat" and not stock else "composed"
    if (
        config.train.deterministic
        and device.type == "cuda"
        and (chosen, config.reduction.strategy) != ("fused", "sw_t")
    ):
        raise ConfigError(
            "train.deterministic needs train.rasterizer fused and reduction.strategy sw_t: only they add in a fixed way"
        )
    return chosen


def load_kernels(settings: RenderSettings, device: torch.device) -> None:
    """Builds, where this machine has not yet, and loads what rendering with these settings needs.

    Without it the first view does so. Raises KernelError where that is not possible.
    """
    loader.load(device.type)
    if device.type == "cuda" and settings.rasterizer != "fused":
        gsplat_ops.gsplat()


def render(
    params: Mapping[str, Tensor],
    cameras: Cameras,
    settings: RenderSettings,
    *,
    sh_degree: int,
    background: Tensor | None = None,  # [3]
    with_depth: bool = False,
    features: Tensor | None = None,  # [N, F]
) -> Rendering:
    """Renders views of the Gaussians; differentiable in all parameters, and in the features.

    Args:
        params: as in distwar_gs.gaussians.model: log scales, logit opacities.
        cameras: C of them; their size is the images'.
        settings: near plane, rasteriser, ...
        sh_degree: degree of the spherical harmonics in use.
        background: colour behind the Gaussians; black if None. Where the settings have an environment, that.
        with_depth: blend depth as a fourth channel.
        features: per-Gaussian numbers [N, F], alpha-blended like colours over a zero background; one that is not finite
            counts as 0.

    Raises ValueError for features that are not [N, F] with F at least 1.
    """
    check_features(features, len(params["means"]))
    return RASTERIZERS[settings.rasterizer].render(
        params, cameras, settings, sh_degree=sh_degree, background=background, with_depth=with_depth, features=features
    )


def view_traffic(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> kernels.AtomicTraffic:
    """What the blend's backward pass sends to the atomic units for a view."""
    return RASTERIZERS[settings.rasterizer].traffic(params, camera, settings)


# ------------------------------------------------------------------------------------------------- op after op


class ComposedRasterizer:
    """The ops one after another; on CUDA gsplat's around our blend."""

    name = "composed"

    def render(
        self,
        params: Mapping[str, Tensor],
        cameras: Cameras,
        settings: RenderSettings,
        *,
        sh_degree: int,
        background: Tensor | None,
        with_depth: bool,
        features: Tensor | None,
    ) -> ComposedRendering:
        """See Rasterizer."""
        projected = project_gaussians(params, cameras, settings)
        splats = _listed(projected, cameras)
        if projected.means2d.requires_grad:
            projected.means2d.retain_grad()
        colors = view_colors(params, cameras, projected.radii, sh_degree)
        if with_depth:
            colors = torch.cat([colors, projected.depths[..., None]], dim=-1)
        channels = colors if features is None else _with_features(colors, features)
        channels = channels if splats.copies is None else splats.copies.again(channels)
        rendered, alphas = kernels.rasterize_to_pixels(
            splats.means2d, splats.conics, channels, splats.opacities, cameras.width, cameras.height, TILE_SIZE,
            splats.isect_offsets, splats.flatten_ids, absgrad=settings.absgrad, reduction=settings.reduction,
            backgrounds=_backgrounds(settings.plain(background), len(cameras.viewmats), channels.shape[-1]),
        )  # fmt: skip
        drawn = rendered[..., : colors.shape[-1]]
        drawn_features = None if features is None else rendered[..., colors.shape[-1] :]
        pictures = settings.behind(drawn[..., :3], alphas, cameras)
        images = (pictures, alphas, expected_depths(drawn, alphas), drawn_features)
        return ComposedRendering(*images, projected.means2d, projected.radii, colors, splats)

    def traffic(self, params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> kernels.AtomicTraffic:
        """See Rasterizer."""
        return splat_traffic(project(params, camera, settings), camera.width, camera.height)

    def step_bytes(self, sh_degree: int, adam: str) -> int:
        """What autograd keeps between the single ops, and 16 for each number of the higher harmonics; measured on the
        CPU: 940 and 1,590 bytes at degrees 0 and 3."""
        return 1000 + 16 * 3 * ((sh_degree + 1) ** 2 - 1)


def _with_features(colors: Tensor, features: Tensor) -> Tensor:
    """What is blended, [C, N, channels + F]. One number that is not finite would put out its Gaussian."""
    finite = features.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return torch.cat([colors, finite.expand(len(colors), -1, -1)], dim=-1)


def expected_depths(rendered: Tensor, alphas: Tensor) -> Tensor | None:
    """[C, H, W, 1] the fourth channel of what was blended over alpha; None where three were."""
    return rendered[..., 3:] / alphas.clamp_min(LEAST_ALPHA) if rendered.shape[-1] == 4 else None


def project(params: Mapping[str, Tensor], cameras: Cameras, settings: RenderSettings) -> Splats:
    """Projects the Gaussians and lists each tile's; arguments as for `render`."""
    return _listed(project_gaussians(params, cameras, settings), cameras)


def _listed(projected: Projected, cameras: Cameras) -> Splats:
    copies = kernels.around(cameras, projected.means2d, projected.radii)
    drawn = projected if copies is None else projected.drawn_again(copies)
    lists = kernels.intersect_tiles(drawn.means2d, drawn.radii, drawn.depths, cameras.width, cameras.height)
    return Splats(*drawn, *lists, copies)


def splat_traffic(splats: Splats, width: int, height: int) -> kernels.AtomicTraffic:
    """What the blend's backward pass sends to the atomic units for these views."""
    return kernels.atomic_traffic(
        splats.means2d, splats.conics, splats.opacities, width, height, splats.isect_offsets, splats.flatten_ids
    )


def view_colors(params: Mapping[str, Tensor], cameras: Cameras, radii: Tensor, sh_degree: int) -> Tensor:
    """Colours [C, N, 3] of the Gaussians as each camera sees them; negative ones are cut to 0 as in 3DGS, but minus
    infinity is NaN, which is not drawn."""
    directions = params["means"][None] - cameras.centers[:, None]
    coefficients = torch.cat([params["sh0"], params["shN"]], dim=1).expand(len(directions), -1, -1, -1)
    harmonics = kernels.spherical_harmonics(sh_degree, directions, coefficients, masks=(radii > 0).all(-1))
    return torch.where(harmonics.isneginf(), torch.nan, (harmonics + 0.5).clamp_min(0.0))


def _backgrounds(background: Tensor | None, views: int, channels: int) -> Tensor | None:
    """The colour, and 0 for all that is blended beside colours."""
    if background is None:
        return None
    return torch.nn.functional.pad(background, (0, channels - len(background))).expand(views, -1)


# ------------------------------------------------------------------------------------------------- all at once


class FusedRasterizer:
    """All ops in a few kernels, on CUDA."""

    name = "fused"

    def render(
        self,
        params: Mapping[str, Tensor],
        cameras: Cameras,
        settings: RenderSettings,
        *,
        sh_degree: int,
        background: Tensor | None,
        with_depth: bool,
        features: Tensor | None,
        adam: fused.AdamStep | None = None,
    ) -> Rendering:
        """See Rasterizer. adam: as for `fused.rasterize`."""
        drawing = settings.draw_options(sh_degree, background, with_depth)
        views = [
            fused.rasterize(
                params, camera, drawing, features=features, absgrad=settings.absgrad, reduction=settings.reduction,
                adam=adam,
            )
            for camera in cameras.each()
        ]  # fmt: skip
        rendered, alphas, *drawn = (torch.stack(parts) for parts in zip(*views, strict=True))
        pictures = settings.behind(rendered[..., :3], alphas, cameras)
        return Rendering(pictures, alphas, expected_depths(rendered, alphas), drawn[0] if drawn else None)

    def traffic(self, params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> kernels.AtomicTraffic:
        """See Rasterizer."""
        return fused.traffic(params, camera, settings.draw_options(0, None))

    def step_bytes(self, sh_degree: int, adam: str) -> int:
        """Its buffers, and gradients if torch's Adam makes the step."""
        numbers = 14 + 3 * ((sh_degree + 1) ** 2 - 1)
        return BYTES_PER_GAUSSIAN + (4 * numbers if adam == "dense" else 0)


COMPOSED, FUSED = ComposedRasterizer(), FusedRasterizer()
RASTERIZERS: dict[str, Rasterizer] = {COMPOSED.name: COMPOSED, FUSED.name: FUSED}
