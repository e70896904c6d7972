"""The blend op's CUDA kernels on the CPU: their own source, run thread by thread, against the float64 reference.

What a GPU alone can show (rounding of its fast functions, races, speed) is for `pytest -m gpu`; an index that is wrong,
a barrier that some lanes miss or a channel count that was forgotten shows here, on any machine.
"""

import ctypes
from functools import partial

import pytest
import torch
from emulated_blend import run, run_with_errors
from emulated_kernels import build
from random_scenes import (
    any_blend_scene,
    assert_close,
    count_traffic,
    random_blend_scene,
    reference_results,
    stack_scene,
)
from test_blend import ABSGRAD_CASES, absgrad_of, break_gaussians, needle_scene, without

from distwar_kernels import Reduction
from distwar_kernels.blend.blend_reference import blend_reference

BOUND = 1e-5
CASES = {
    "one-tile": partial(random_blend_scene, 0, n=33, width=16, height=16),
    "odd-size-cameras-masks": partial(random_blend_scene, 9, n=40, width=33, height=18, cameras=2, masked=True),
    "one-pixel": partial(random_blend_scene, 2, n=20, width=1, height=1),
    "no-gaussians": partial(random_blend_scene, 3, n=0, width=20, height=10),
    "packed": partial(random_blend_scene, 7, n=50, width=20, height=17, cameras=2, packed=True),
    "1-channel": partial(random_blend_scene, 10, n=64, width=31, height=17, channels=1),
    "4-channels": partial(random_blend_scene, 22, n=77, width=20, height=18, channels=4),
    "8-channels": partial(random_blend_scene, 12, n=63, width=18, height=19, channels=8),
    "32-channels": partial(random_blend_scene, 13, n=50, width=17, height=20, channels=32),
    "opaque": partial(random_blend_scene, 19, n=600, width=18, height=18, opacity=(0.9, 1.0)),
    "more-than-a-batch": partial(random_blend_scene, 23, n=500, width=16, height=16, opacity=(0.01, 0.06)),
    "tiny": partial(random_blend_scene, 18, n=200, width=20, height=18, size=(0.05, 0.5)),
    "huge": partial(random_blend_scene, 21, n=70, width=18, height=20, size=(20.0, 200.0)),
    "capped": partial(stack_scene, 1.0, 3),
    "needles": partial(needle_scene, 0),
    "any-1": partial(any_blend_scene, 1),
    "any-2": partial(any_blend_scene, 2),
}
REDUCTIONS = [pytest.param(Reduction("sw_b", 8), marks=pytest.mark.slow), Reduction("sw_t"), Reduction("sw_t", 8)]


@pytest.fixture(scope="module")
def library(emulation_flags):
    return ctypes.CDLL(str(build("blend", *emulation_flags)))


def check(result: dict, expected: dict, bound: float = BOUND) -> None:
    assert_close(result, {name: value for name, value in expected.items() if name in result}, bound)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_against_the_reference(library, case, reduction):
    check(run(library, case(), reduction), reference_results(case))


@pytest.mark.parametrize("reduction", [Reduction("atomic"), Reduction("sw_s", 8)], ids=str)
@pytest.mark.parametrize("case", ["one-tile", "odd-size-cameras-masks", "8-channels"])
def test_older_strategies(library, case, reduction):
    check(run(library, CASES[case](), reduction), reference_results(CASES[case]))


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("case", list(ABSGRAD_CASES.values()), ids=list(ABSGRAD_CASES))
def test_absgrad(library, case, reduction):
    check(run(library, case(), reduction, absgrad=True), reference_results(case) | {"absgrad": absgrad_of(case)})


@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("reduction", [Reduction("sw_b"), Reduction("sw_t")], ids=str)
def test_broken_gaussians_spoil_nothing(library, reduction, channels):
    scene = random_blend_scene(1, n=150, width=20, height=18, channels=channels)
    broken, which = break_gaussians(scene, 1)
    check(run(library, broken, reduction), run(library, without(scene, which), reduction))


def test_the_kernel_counts_its_traffic_as_the_cpu_backend_does(library):
    scene = random_blend_scene(1, n=40, width=20, height=16, channels=1)
    assert run(library, scene, Reduction("atomic"))["counts"].equal(count_traffic(scene).counts)


ERROR_CASES = {
    "cameras": partial(random_blend_scene, 9, n=40, width=33, height=18, cameras=2),
    "masks": partial(random_blend_scene, 9, n=40, width=33, height=18, masked=True),
    "one-pixel": partial(random_blend_scene, 2, n=20, width=1, height=1),
    "opaque": partial(random_blend_scene, 19, n=300, width=18, height=18, opacity=(0.9, 1.0)),
    "capped": partial(stack_scene, 1.0, 3),
    "needles": partial(needle_scene, 0),
    "huge": partial(random_blend_scene, 21, n=70, width=18, height=20, size=(20.0, 200.0)),
}
ERROR_SUMS = [(r, False) for r in (Reduction("atomic"), Reduction("sw_s"), Reduction("sw_b"), Reduction("sw_t", 8))]


@pytest.mark.parametrize(("reduction", "exact"), [*ERROR_SUMS, (Reduction("sw_t"), True)], ids=str)
@pytest.mark.parametrize("case", ERROR_CASES.values(), ids=ERROR_CASES.keys())
def test_errors_are_summed_by_weight_and_the_rest_is_as_without(library, case, reduction, exact):
    """In float64 they are the gradient of a fourth colour that all Gaussians have as 0."""
    scene = case()
    pixels = (len(scene.isect_offsets), scene.height, scene.width)
    errors = torch.rand(pixels, generator=torch.Generator().manual_seed(5))
    black = torch.zeros_like(scene.colors[..., :1]).double().requires_grad_()
    splats = [t.double().flatten(0, -2) for t in (scene.means2d, scene.conics, black)]
    image, _ = blend_reference(
        *splats, scene.opacities.double().flatten(), scene.width, scene.height, scene.isect_offsets, scene.flatten_ids,
        masks=scene.masks,
    )  # fmt: skip
    (wanted,) = torch.autograd.grad((image[..., 0] * errors).sum(), black)
    records = run_with_errors(library, scene, reduction, errors, True, exact)
    assert_close({"sums": records[:, 11]}, {"sums": wanted.flatten()}, BOUND)
    plain = run(library, scene, reduction, True)
    parts = {
        "v_means2d": records[:, :2], "v_conics": records[:, 2:5], "v_opacities": records[:, 5],
        "absgrad": records[:, 6:8], "v_colors": records[:, 8:11],
    }  # fmt: skip
    check({name: part.reshape(plain[name].shape) for name, part in parts.items()},
          {name: tensor.double() for name, tensor in plain.items()})  # fmt: skip
