"""Times another renderer's gradient computation on a trained model of ours: what bench_reduction.py --compare runs.

    python benchmarks/rivals.py distwar_sw_b_8 output/garden -s data/360_v2/garden

One process measures one rival and prints a line of JSON. A rival is measured if its Python package is importable:

    inria                      diff_gaussian_rasterization (graphdeco-inria)
    taming                     diff_gaussian_rasterization (humansensinglab/taming-3dgs: same name, other settings)
    distwar_atomic             diff_gaussian_rasterization_distwar (the DISTWAR authors' kernels)
    distwar_sw_s_N             the same, serialised with balance threshold N
    distwar_sw_b_N             the same, butterfly with balance threshold N
    fast_gs                    diff_gaussian_rasterization_fastgs
    faster_gs                  FasterGSCudaBackend

Kernel time is that of the kernel that turns pixel gradients into Gaussian gradients, forward time that of the kernel
that blends, backward time that of the whole pass to the parameters. The image's distance from ours shows that the same
work is done: these renderers assume a centred principal point and cull at a fixed depth of 0.2, so it is small, not
zero.
"""

import argparse
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.measuring import median_kernel_ms, median_ms, relative_l2
from distwar_datasets import View
from distwar_gs.cli import run_cli
from distwar_gs.config import ConfigError
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.viewing.render_args import RenderArgs
from distwar_gs.viewing.trained import TrainedModel

KERNELS = r"renderCUDA|RenderCUDA|blend_backward"
FORWARD_KERNELS = r"renderCUDA|forward::blend_cu"
Params = dict[str, Tensor]
Render = Callable[[Params, "_Camera", Tensor], Tensor]
"""Parameters, camera, background -> image [3, H, W]."""


def main(arguments: Sequence[str]) -> None:
    """Measure one rival, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rival")
    parser.add_argument("model", type=Path, help="a run folder or a PLY")
    parser.add_argument("-s", "--source_path")
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args(arguments)
    render = _renderer(args.rival)
    model = TrainedModel.load(RenderArgs(model=args.model, source_path=args.source_path, device="cuda"))
    print(json.dumps(_measure(render, model, args.views, args.repeats)))


def _measure(render: Render, model: TrainedModel, count: int, repeats: int) -> dict[str, float]:
    scale = model.scene.normalisation.scale
    params = {name: value.requires_grad_() for name, value in _in_input_units(model.params, scale).items()}
    errors, kernel, forward, backward = [], [], [], []
    for view in model.spread_views(count):
        draw = partial(render, params, _Camera.of(view, scale, model.device), model.background)
        image = draw()
        upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)

        def work(image: Tensor = image, upstream: Tensor = upstream) -> None:
            torch.autograd.grad(image, list(params.values()), upstream, retain_graph=True)

        errors.append(relative_l2(image.detach(), model.render(view).colors[0].permute(2, 0, 1)))
        kernel.append(median_kernel_ms(work, KERNELS, repeats))
        forward.append(median_kernel_ms(draw, FORWARD_KERNELS, repeats))
        backward.append(median_ms(work, model.device, repeats))
    times = {"kernel_ms": fmean(kernel), "forward_ms": fmean(forward), "backward_ms": fmean(backward)}
    return times | {"image_vs_ours": max(errors)}


def _in_input_units(params: Params, scale: float) -> Params:
    """The Gaussians scaled (not shifted) back: the rivals' near planes are fixed in the units that COLMAP leaves."""
    changed = {"means": params["means"] / scale, "scales": params["scales"] - math.log(scale)}
    return {name: value.detach().clone() for name, value in (params | changed).items()}


@dataclass(frozen=True)
class _Camera:
    viewmat: Tensor
    """[4, 4] world-to-camera."""
    width: int
    height: int
    focal: tuple[float, float]
    """Pixels. The principal point is taken to be the centre: Inria's renderers know no other."""

    @classmethod
    def of(cls, view: View, scale: float, device: torch.device) -> "_Camera":
        """A view of the training frame, in the units of the input."""
        viewmat = torch.tensor(view.viewmat, dtype=torch.float32, device=device)
        viewmat[:3, 3] /= scale
        return cls(viewmat, view.width, view.height, (float(view.K[0, 0]), float(view.K[1, 1])))

    @property
    def position(self) -> Tensor:
        """[3] in the world."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]


# ---------------------------------------------------------------------------------------------------- the rivals


def _renderer(rival: str) -> Render:
    """The adapter of a rival; ConfigError for one that is unknown or not importable."""
    distwar = re.fullmatch(r"distwar_(atomic|sw_s|sw_b)(?:_(\d+))?", rival)
    if distwar:
        # Read by its kernels at their first launch.
        os.environ["BW_IMPLEMENTATION"] = {"atomic": "0", "sw_b": "1", "sw_s": "2"}[distwar[1]]
        os.environ["BALANCE_THRESHOLD"] = distwar[2] or "8"
        return _inria(_imported("diff_gaussian_rasterization_distwar"))
    adapters: dict[str, Callable[[], Render]] = {
        "inria": lambda: _inria(_imported("diff_gaussian_rasterization")),
        "taming": lambda: _taming(_imported("diff_gaussian_rasterization")),
        "fast_gs": lambda: _fast_gs(_imported("diff_gaussian_rasterization_fastgs")),
        "faster_gs": lambda: _faster_gs(_imported("FasterGSCudaBackend.torch_bindings")),
    }
    if rival not in adapters:
        known = ", ".join((*adapters, "distwar_atomic", "distwar_sw_s_N", "distwar_sw_b_N"))
        raise ConfigError(f"unknown rival {rival}: choose among {known}")
    return adapters[rival]()


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module} cannot be imported ({error})") from error


def _inria(module: Any) -> Render:
    def render(params: Params, camera: _Camera, background: Tensor) -> Tensor:
        harmonics = torch.cat([params["sh0"], params["shN"]], dim=1)
        rasterizer = module.GaussianRasterizer(_inria_settings(module, params, camera, background))
        return rasterizer(**_inria_arguments(params), shs=harmonics)[0]

    return render


def _taming(module: Any) -> Render:
    def render(params: Params, camera: _Camera, background: Tensor) -> Tensor:
        settings = _inria_settings(module, params, camera, background, pixel_weights=None)
        harmonics = {"dc": params["sh0"], "shs": params["shN"]}
        return module.GaussianRasterizer(settings)(**_inria_arguments(params), **harmonics)[0]

    return render


def _fast_gs(module: Any) -> Render:
    def render(params: Params, camera: _Camera, background: Tensor) -> Tensor:
        pixels = torch.zeros(camera.height * camera.width, dtype=torch.int32, device=background.device)
        settings = _inria_settings(module, params, camera, background, mult=0.5, get_flag=False, metric_map=pixels)
        arguments = _inria_arguments(params) | {"dc": params["sh0"], "shs": params["shN"]}
        arguments["means2D"] = torch.zeros(len(params["means"]), 4, device=background.device, requires_grad=True)
        return module.GaussianRasterizer(settings)(**arguments, colors_precomp=None, cov3D_precomp=None)[0]

    return render


def _inria_settings(module: Any, params: Params, camera: _Camera, background: Tensor, **more: object) -> Any:
    viewmatrix = camera.viewmat.T.contiguous()
    return module.GaussianRasterizationSettings(
        image_height=camera.height,
        image_width=camera.width,
        tanfovx=camera.width / (2 * camera.focal[0]),
        tanfovy=camera.height / (2 * camera.focal[1]),
        bg=background,
        scale_modifier=1.0,
        viewmatrix=viewmatrix,
        projmatrix=viewmatrix @ _projection(camera).T,
        sh_degree=sh_degree_of(params),
        campos=camera.position,
        prefiltered=False,
        debug=False,
        **more,
    )


def _projection(camera: _Camera, near: float = 0.01, far: float = 100.0) -> Tensor:
    """OpenGL's perspective matrix with z in [0, 1], for column vectors."""
    matrix = camera.viewmat.new_zeros(4, 4)
    matrix[0, 0] = 2 * camera.focal[0] / camera.width
    matrix[1, 1] = 2 * camera.focal[1] / camera.height
    matrix[2, 2], matrix[2, 3], matrix[3, 2] = far / (far - near), -far * near / (far - near), 1.0
    return matrix


def _inria_arguments(params: Params) -> dict[str, Tensor]:
    return {
        "means3D": params["means"],
        "means2D": torch.zeros_like(params["means"], requires_grad=True),
        "opacities": torch.sigmoid(params["opacities"])[:, None],
        "scales": params["scales"].exp(),
        "rotations": torch.nn.functional.normalize(params["quats"], dim=-1),
    }


def _faster_gs(module: Any) -> Render:
    def render(params: Params, camera: _Camera, background: Tensor) -> Tensor:
        settings = module.RasterizerSettings(
            w2c=camera.viewmat, cam_position=camera.position, bg_color=background,
            active_sh_bases=1 + params["shN"].shape[1], width=camera.width, height=camera.height,
            focal_x=camera.focal[0], focal_y=camera.focal[1],
            center_x=camera.width / 2, center_y=camera.height / 2, near_plane=0.2, far_plane=10_000.0,
            proper_antialiasing=False,
        )  # fmt: skip
        return module.diff_rasterize(
            means=params["means"], scales=params["scales"], rotations=params["quats"],
            opacities=params["opacities"][:, None], sh_coefficients_0=params["sh0"],
            sh_coefficients_rest=params["shN"], rasterizer_settings=settings,
            densification_info=torch.zeros(2, len(params["means"]), device=background.device),
        )  # fmt: skip

    return render


if __name__ == "__main__":
    run_cli(main)
