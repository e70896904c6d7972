"""The photometric loss's CUDA kernels, compiled for the CPU (emulated_kernels.py) and called through ctypes.

python tests/emulated_photometric.py thread     missing barriers, by GCC's thread sanitizer
python tests/emulated_photometric.py address    reads and writes outside an array, by its address sanitizer
"""

import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from emulated_kernels import sanitize
from torch import Tensor

_POINTERS = ("image", "target", "background", "maps", "partials", "loss", "parts", "v_image", "errors")


class _Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in _POINTERS]
        + [(name, ctypes.c_int) for name in ("width", "height")]
        + [("lambda_dssim", ctypes.c_double)]
    )


def run(
    library: ctypes.CDLL,
    image: Tensor,
    target: Tensor,
    lambda_dssim: float,
    background: Tensor | None = None,
    with_errors: bool = False,
) -> tuple[Tensor, ...]:
    """Loss, parts, v_image, and errors if asked for, as torch.ops.distwar.photometric_loss returns them; what is not
    written is NaN."""
    height, width, _ = image.shape
    nan = float("nan")
    tensors = {
        "image": image, "target": target, "background": background if target.shape[-1] == 4 else None,
        "maps": torch.full((3, *image.shape), nan), "partials": torch.full((library.blocks(width, height), 2), nan),
        "loss": torch.full((), nan), "parts": torch.full((2,), nan), "v_image": torch.full_like(image, nan),
        "errors": torch.full((height, width), nan) if with_errors else None,
    }  # fmt: skip
    assert all(tensor.is_contiguous() for tensor in tensors.values() if tensor is not None)
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
    library.run(ctypes.byref(_Call(**pointers, width=width, height=height, lambda_dssim=lambda_dssim)))
    results = tuple(tensors[name] for name in ("loss", "parts", "v_image"))
    return (*results, tensors["errors"]) if with_errors else results


def run_all(library: ctypes.CDLL) -> None:
    """Both kernels on small images, with and without alpha."""
    torch.set_num_threads(1)
    for height, width, channels in ((1, 1, 3), (9, 35, 3), (31, 33, 4), (17, 64, 3)):
        image, target = torch.rand(height, width, 3), torch.randint(0, 256, (height, width, channels))
        for with_errors in (False, True):
            run(library, image, target.to(torch.uint8), 0.2, torch.rand(3), with_errors)
        print(f"{width}x{height}, {channels} channels: done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run_all(ctypes.CDLL(sys.argv[2]))
    else:
        sys.exit(sanitize("photometric", sys.argv[1], __file__))
