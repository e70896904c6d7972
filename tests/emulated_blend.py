"""The blend op's CUDA kernels, compiled for the CPU against emulated_cuda/cuda_runtime.h and called through ctypes.

python tests/emulated_blend.py thread     a warp's races and missing barriers, by GCC's thread sanitizer
python tests/emulated_blend.py address    reads and writes outside an array, by its address sanitizer
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
import torch
from random_scenes import BlendScene, loss_weights, random_blend_scene
from torch import Tensor

from distwar_kernels import Reduction
from distwar_kernels.constants import PATCHES_PER_TILE, SPLAT_FLOATS, WARP_SIZE

HERE = Path(__file__).parent / "emulated_cuda"
KERNELS = HERE.parents[1] / "distwar_kernels"
STRATEGIES = ("atomic", "sw_s", "sw_b", "sw_t")
"""In the order of strategy.h."""
_POINTERS = (
    "means2d", "conics", "colors", "opacities", "backgrounds", "masks", "isect_offsets", "flatten_ids", "colors_out",
    "transmittances", "last_ids", "splats", "visits", "v_colors_out", "v_transmittances", "v_means2d", "v_conics",
    "v_colors", "v_opacities", "v_means2d_abs", "packed", "counts",
)  # fmt: skip
_NUMBERS = (
    "images", "n_isects", "width", "height", "tile_width", "tile_height", "n_gaussians", "channels", "strategy",
    "threshold",
)  # fmt: skip


class _Call(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _POINTERS] + [(name, ctypes.c_int) for name in _NUMBERS]


def build(folder: Path, *more_flags: str) -> Path:
    """Compiles the kernels, each file by itself; skips the test where the compiler has no C++20 barriers."""
    compiler = os.environ.get("CXX", "c++")
    probe = subprocess.run([compiler, "-std=c++20", "-x", "c++", "-fsyntax-only", "-"], input="#include <barrier>\n",
                           capture_output=True, text=True, check=False)  # fmt: skip
    if probe.returncode != 0:
        pytest.skip("the compiler has no C++20 barriers")
    flags = [
        "-std=c++20",
        "-O1",
        "-fPIC",
        "-pthread",
        "-DDISTWAR_BACKEND=cuda",
        "-w",
        f"-I{HERE}",
        f"-I{KERNELS}",
        *more_flags,
    ]

    def compiled(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        subprocess.run([compiler, *flags, "-x", "c++", "-c", source, "-o", target], check=True)
        return str(target)

    sources = [HERE / "blend.cpp", *sorted((KERNELS / "blend").glob("*.cu"))]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "emulated_blend.so"
    subprocess.run([compiler, "-shared", "-pthread", *more_flags, *objects, "-o", library], check=True)
    return library


def run(library: ctypes.CDLL, scene: BlendScene, reduction: Reduction, absgrad: bool = False) -> dict[str, Tensor]:
    """Image, alpha, gradients and the kernel's atomic traffic, named as `run_blend` of random_scenes.py does."""
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
        "visits": torch.full((words,), -1, dtype=torch.int32), "packed": torch.zeros(n, SPLAT_FLOATS),
        "v_means2d": torch.zeros_like(scene.means2d), "v_conics": torch.zeros_like(scene.conics),
        "v_colors": torch.zeros_like(scene.colors), "v_opacities": torch.zeros_like(scene.opacities),
        "v_means2d_abs": torch.zeros_like(scene.means2d) if absgrad else None,
        "counts": torch.zeros(3, WARP_SIZE + 1, dtype=torch.int64),
    }  # fmt: skip
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    numbers = {
        "images": images, "n_isects": len(scene.flatten_ids), "width": scene.width, "height": scene.height,
        "tile_width": columns, "tile_height": rows, "n_gaussians": n, "channels": channels,
        "strategy": STRATEGIES.index(reduction.strategy), "threshold": reduction.balance_threshold,
    }  # fmt: skip
    call = _Call(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, **numbers)
    for function in (library.forward, library.backward, *([library.traffic] if channels == 1 else [])):
        function(ctypes.byref(call))
    results = {"image": tensors["colors_out"], "alpha": 1.0 - tensors["transmittances"][..., None]}
    results |= {name: tensors[name] for name in ("v_means2d", "v_conics", "v_colors", "v_opacities", "counts")}
    return results | ({"absgrad": tensors["v_means2d_abs"]} if absgrad else {})


# ------------------------------------------------------------------------------------------------------- sanitizers


def sanitize(kind: str) -> int:
    """Builds the kernels with a sanitizer and runs them in a process that has it; its exit code, 0 if all is well."""
    name = {"thread": "libtsan.so", "address": "libasan.so"}[kind]
    asked = [os.environ.get("CXX", "c++"), f"-print-file-name={name}"]
    runtime = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder), f"-fsanitize={kind}", "-g")
        environment = os.environ | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",
            "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
        }
        return subprocess.run([sys.executable, __file__, "run", library], env=environment, check=False).returncode


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
        print(f"{scene.width}x{scene.height}, {scene.colors.shape[-1]} channels: done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run_all(ctypes.CDLL(sys.argv[2]))
    else:
        sys.exit(sanitize(sys.argv[1]))
