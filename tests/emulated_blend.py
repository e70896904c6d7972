"""The blend op's CUDA kernels, compiled for the CPU against emulated_cuda/cuda_runtime.h and called through ctypes.

python tests/emulated_blend.py thread     a warp's races and missing barriers, by GCC's thread sanitizer
python tests/emulated_blend.py address    reads and writes outside an array, by its address sanitizer
"""

import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from emulated_kernels import sanitize
from random_scenes import BlendScene, loss_weights, random_blend_scene
from torch import Tensor

from distwar_kernels import Reduction
from distwar_kernels.constants import PATCHES_PER_TILE, SPLAT_FLOATS, WARP_SIZE

STRATEGIES = ("atomic", "sw_s", "sw_b", "sw_t")
"""In the order of strategy.h."""
_POINTERS = (
    "means2d", "conics", "colors", "opacities", "backgrounds", "masks", "isect_offsets", "flatten_ids", "colors_out",
    "transmittances", "last_ids", "splats", "visits", "v_colors_out", "v_transmittances", "v_means2d", "v_conics",
    "v_colors", "v_opacities", "v_means2d_abs", "records", "counts", "errors", "largest", "exact",
)  # fmt: skip
_NUMBERS = (
    "images", "n_isects", "width", "height", "tile_width", "tile_height", "n_gaussians", "channels", "strategy",
    "threshold",
)  # fmt: skip


class _Call(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _POINTERS] + [(name, ctypes.c_int) for name in _NUMBERS]


def _tensors(scene: BlendScene, absgrad: bool) -> dict[str, Tensor]:
    images, rows, columns = scene.isect_offsets.shape
    n, channels = scene.opacities.numel(), scene.colors.shape[-1]
    pixels, v_image, v_alpha = (images, scene.height, scene.width), *loss_weights(scene)
    words = (len(scene.flatten_ids) // WARP_SIZE + images * rows * columns) * PATCHES_PER_TILE
    nan = float("nan")  # whatever is not written shows
    tensors = {
        "means2d": scene.means2d, "conics": scene.conics, "colors": scene.colors, "opacities": scene.opacities,
        "backgrounds": scene.backgrounds, "masks": scene.masks, "isect_offsets": scene.isect_offsets,
        "flatten_ids": scene.flatten_ids, "v_colors_out": v_image, "v_transmittances": -v_alpha[..., 0],
        "colors_out": torch.full((*pixels, channels), nan), "transmittances": torch.full(pixels, nan),
        "last_ids": torch.full(pixels, 12345, dtype=torch.int32), "splats": torch.full((n, SPLAT_FLOATS), nan),
        "visits": torch.full((words,), -1, dtype=torch.int32), "records": torch.zeros(n, SPLAT_FLOATS),
        "v_means2d": torch.zeros_like(scene.means2d), "v_conics": torch.zeros_like(scene.conics),
        "v_colors": torch.zeros_like(scene.colors), "v_opacities": torch.zeros_like(scene.opacities),
        "v_means2d_abs": torch.zeros_like(scene.means2d) if absgrad else None,
        "counts": torch.zeros(3, WARP_SIZE + 1, dtype=torch.int64),
    }  # fmt: skip
    return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}


def _call(tensors: dict[str, Tensor], scene: BlendScene, reduction: Reduction) -> _Call:
    images, rows, columns = scene.isect_offsets.shape
    numbers = {
        "images": images, "n_isects": len(scene.flatten_ids), "width": scene.width, "height": scene.height,
        "tile_width": columns, "tile_height": rows, "n_gaussians": scene.opacities.numel(),
        "channels": scene.colors.shape[-1],
        "strategy": STRATEGIES.index(reduction.strategy), "threshold": reduction.balance_threshold,
    }  # fmt: skip
    return _Call(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, **numbers)


def run(library: ctypes.CDLL, scene: BlendScene, reduction: Reduction, absgrad: bool = False) -> dict[str, Tensor]:
    """Image, alpha, gradients and the kernel's atomic traffic, named as `run_blend` of random_scenes.py does."""
    tensors = _tensors(scene, absgrad)
    call, channels = _call(tensors, scene, reduction), scene.colors.shape[-1]
    for function in (library.forward, library.backward, *([library.traffic] if channels == 1 else [])):
        function(ctypes.byref(call))
    results = {"image": tensors["colors_out"], "alpha": 1.0 - tensors["transmittances"][..., None]}
    results |= {name: tensors[name] for name in ("v_means2d", "v_conics", "v_colors", "v_opacities", "counts")}
    return results | ({"absgrad": tensors["v_means2d_abs"]} if absgrad else {})


def run_with_errors(
    library: ctypes.CDLL, scene: BlendScene, reduction: Reduction, errors: Tensor, absgrad: bool, exact: bool
) -> Tensor:
    """The records [G, 12] of a scene of three channels, with these errors of its pixels [images, H, W]."""
    tensors = _tensors(scene, absgrad) | {"errors": errors.contiguous()}
    if exact:
        tensors |= {
            "largest": torch.stack([tensors["v_colors_out"].abs().max(), errors.max()]),
            "exact": torch.zeros(scene.opacities.numel(), SPLAT_FLOATS, dtype=torch.int64),
        }
    call = _call(tensors, scene, reduction)
    library.forward(ctypes.byref(call))
    library.to_records(ctypes.byref(call))
    return tensors["records"]


# ------------------------------------------------------------------------------------------------------- sanitizers


def run_all(library: ctypes.CDLL) -> None:
    """Every kernel on small scenes."""
    torch.set_num_threads(1)
    scenes = [
        random_blend_scene(0, n=80, width=16, height=16),
        random_blend_scene(1, n=40, width=18, height=8, channels=4, cameras=2, masked=True),
        random_blend_scene(2, n=40, width=16, height=8, channels=8),
        random_blend_scene(3, n=40, width=17, height=5, channels=1),
    ]
    for scene in scenes:
        for reduction in (Reduction("atomic"), Reduction("sw_b"), Reduction("sw_t"), Reduction("sw_t", 8)):
            for absgrad in (False, True):
                run(library, scene, reduction, absgrad)
                if scene.colors.shape[-1] == 3:
                    for exact in (False, True):
                        run_with_errors(library, scene, reduction, torch.rand(1, 16, 16), absgrad, exact)
        print(f"{scene.width}x{scene.height}, {scene.colors.shape[-1]} channels: done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run_all(ctypes.CDLL(sys.argv[2]))
    else:
        sys.exit(sanitize("blend", sys.argv[1], __file__))
