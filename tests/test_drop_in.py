"""Our blend op in a gsplat user's program, with nothing but the import changed: same image, same gradients."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from random_scenes import relative_l2

PROGRAM = Path(__file__).with_name("gsplat_user.py").read_text()
BEFORE = "from gsplat import fully_fused_projection, isect_offset_encode, isect_tiles, rasterize_to_pixels\n"
AFTER = (
    "from gsplat import fully_fused_projection, isect_offset_encode, isect_tiles\n"
    "from distwar_kernels import rasterize_to_pixels\n"
)


def run(program: str, seed: int) -> list[torch.Tensor]:
    module = ModuleType("program")
    exec(program, vars(module))
    return module.image_and_gradients(**user_scene(seed))


def user_scene(seed: int) -> dict[str, object]:
    """500 Gaussians in front of two cameras side by side."""
    g = torch.Generator().manual_seed(seed)
    n, width, height = 500, 150, 100
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = 0.5
    K = torch.tensor([[120.0, 0.0, 70.0], [0.0, 120.0, 55.0], [0.0, 0.0, 1.0]])
    scene = {
        "means": torch.rand(n, 3, generator=g) * torch.tensor([4.0, 3.0, 3.0]) + torch.tensor([-2.0, -1.5, 2.0]),
        "quats": torch.randn(n, 4, generator=g),
        "scales": 0.01 + 0.1 * torch.rand(n, 3, generator=g),
        "opacities": torch.rand(n, generator=g),
        "colors": torch.rand(n, 3, generator=g),
        "viewmats": viewmats,
        "Ks": K.repeat(2, 1, 1),
    }
    return {name: tensor.cuda() for name, tensor in scene.items()} | {"width": width, "height": height}


def test_only_the_import_changes():
    assert PROGRAM.count(BEFORE.removesuffix("\n")) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(3))
def test_same_image_and_gradients(seed):
    theirs, ours = run(PROGRAM, seed), run(PROGRAM.replace(BEFORE, AFTER), seed)
    errors = [relative_l2(mine, stock) for mine, stock in zip(ours, theirs, strict=True)]
    print(f"relative L2 differences of image, alphas, gradients: {', '.join(f'{e:.1e}' for e in errors)}")
    assert max(errors) < 1e-4  # gsplat recomputes the transmittance as 1 - alpha in float32
