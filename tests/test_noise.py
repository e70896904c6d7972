"""MCMC's noise: its deviates are Philox's and normal, and what they do to a Gaussian equals the float64 reference."""

import ctypes
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distwar_kernels import add_noise, loader
from distwar_kernels.noise import noise as noise_module
from distwar_kernels.noise.noise import LARGEST_DEVIATE, NEGLIGIBLE
from distwar_kernels.noise.noise_reference import deviates_reference, displacements_reference, philox_reference

SEED, STEP = 2**40 + 12345, 700
Gaussians = dict[str, Tensor]
Add = Callable[..., Gaussians]


class _Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("means", "quats", "scales", "opacities")]
        + [("count", ctypes.c_int), ("amount", ctypes.c_float), ("least_gate", ctypes.c_float)]
        + [("seed", ctypes.c_uint64), ("step", ctypes.c_uint64)]
    )


def emulated_op(flags: tuple[str, ...]) -> Callable[..., None]:
    """The CUDA kernel on the CPU, with the op's arguments."""
    from emulated_kernels import build

    library = ctypes.CDLL(str(build("noise", *flags)))

    def op(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, *numbers: float) -> None:
        arrays = (tensor.data_ptr() for tensor in (means, quats, scales, opacities))
        library.run(ctypes.byref(_Call(*arrays, len(means), *numbers)))

    return op


@pytest.fixture(params=["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def add(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Add:
    """add(gaussians, amount, largest=..., seed=..., step=...): the Gaussians after the noise, on the CPU."""
    if request.param == "emulated":
        op = emulated_op(request.getfixturevalue("emulation_flags"))
        monkeypatch.setattr(noise_module.torch.ops.distwar, "add_noise", op)
    where = "cuda" if request.param == "cuda" else "cpu"

    def added(
        gaussians: Gaussians, amount: float, largest: float = 1.0, seed: int = SEED, step: int = STEP
    ) -> Gaussians:
        there = {name: tensor.to(where, copy=True) for name, tensor in gaussians.items()}
        add_noise(*there.values(), amount, largest=largest, seed=seed, step=step)
        return {name: tensor.cpu() for name, tensor in there.items()}

    return added


def gaussians(count: int, seed: int = 0) -> Gaussians:
    """Of all opacities, sizes over three orders of magnitude, quaternions of any length, one of them 0."""
    g = torch.Generator().manual_seed(seed)
    quats = torch.randn(count, 4, generator=g) * torch.exp(2.0 * torch.randn(count, 1, generator=g))
    if count > 5:
        quats[5] = 0.0
    return {
        "means": torch.randn(count, 3, generator=g),
        "quats": quats,
        "scales": -3.0 + 2.0 * torch.randn(count, 3, generator=g),
        "opacities": -4.0 + 3.0 * torch.randn(count, generator=g),
    }


def unit_gaussians(count: int) -> Gaussians:
    """Transparent balls of size 1 at the origin: their noise is the deviates times the gate of opacity 0."""
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4).contiguous()
    return {
        "means": torch.zeros(count, 3), "quats": quats, "scales": torch.zeros(count, 3),
        "opacities": torch.full((count,), -80.0),
    }  # fmt: skip


GATE_OF_NOTHING = 1.0 / (1.0 + math.exp(-0.5))


def deviates(add: Add, count: int, **where: int) -> Tensor:
    """[count, 3] float64, as the kernel has drawn them."""
    return add(unit_gaussians(count), 1.0 / GATE_OF_NOTHING, **where)["means"].double()


# ---------------------------------------------------------------------------------------------------- the generator


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_reference_gives_the_known_answers(counter, key, wanted):
    """Those of the authors' library (Random123, tests/kat_vectors)."""
    counter, key, wanted = ([int(word, 16) for word in text.split()] for text in (counter, key, wanted))
    assert philox_reference(torch.tensor(counter), tuple(key)).tolist() == wanted


@pytest.mark.parametrize(("seed", "step"), [(0, 1), (SEED, STEP), (2**63 - 1, 2**33 + 5), (-1, 30_000), (2**64 - 1, 3)])
def test_the_deviates_are_philoxs(add, seed, step):
    """By Box and Muller from its words: one other bit in seed, step or row is another number."""
    torch.testing.assert_close(deviates(add, 333, seed=seed, step=step), deviates_reference(seed, step, 333),
                               rtol=2e-5, atol=2e-6)  # fmt: skip


# -------------------------------------------------------------------------------------------------- are they normal?


def normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2.0))


@pytest.fixture(scope="module")
def many() -> Tensor:
    """[4 seeds and steps, 250,000 rows, 3] by the CPU's kernel, which others equal."""

    def add(gaussians: Gaussians, amount: float, seed: int, step: int) -> Gaussians:
        add_noise(*gaussians.values(), amount, largest=1.0, seed=seed, step=step)
        return gaussians

    return torch.stack(
        [deviates(add, 250_000, seed=seed, step=step) for seed, step in ((0, 1), (0, 2), (1, 1), (7, 9))]
    )


def test_moments_are_those_of_the_normal_distribution(many):
    """Within 4.5 standard errors each; the variance of x^k is that of the normal distribution, too."""
    n = many[0].numel() * len(many)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        error = (many.pow(power).mean() - mean).abs() / math.sqrt(variance / n)
        assert error < 4.5, power
    per_column = many.mean(dim=1) * math.sqrt(many.shape[1])
    assert per_column.abs().max() < 4.5


def test_the_distribution_is_the_normal_one_up_to_its_tails(many):
    """Kolmogorov and Smirnov's distance below its 0.1 % bound, and as many far out as there should be."""
    values = many.flatten().sort().values
    n = len(values)
    above = torch.arange(1, n + 1, dtype=torch.float64) / n - normal_cdf(values)
    assert max(above.max(), (1.0 / n - above).max()) < 1.95 / math.sqrt(n)
    for bound in (1.0, 2.0, 3.0, 4.0, 4.5):
        expected = n * 2.0 * float(normal_cdf(torch.tensor(-bound, dtype=torch.float64)))
        found = int((many.abs() > bound).sum())
        assert abs(found - expected) < 4.5 * math.sqrt(expected), bound
    assert many.abs().max() < LARGEST_DEVIATE


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """In standard errors of 0; of deviates and of their squares, whichever is larger."""
    squares = (a.square() - 1.0) * (b.square() - 1.0) / 2.0
    return torch.maximum((a * b).mean().abs(), squares.mean().abs()) * math.sqrt(a.numel())


def test_axes_rows_steps_and_seeds_are_independent(many):
    """Also of squares: Box and Muller's two share a radius, and do not show it."""
    one = many[0]
    pairs = {f"axes {i}, {j}": (one[:, i], one[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))}
    pairs |= {f"rows {lag} apart": (one[lag:], one[:-lag]) for lag in (1, 2, 31, 32, 33, 256, 1000, 65_536)}
    pairs |= {"steps": (one, many[1]), "seeds": (one, many[2]), "another seed and step": (one, many[3])}
    pairs |= {"steps, next row": (one[1:], many[1][:-1]), "axes and steps": (one[:, 0], many[1][:, 1])}
    errors = {name: float(correlation(*pair)) for name, pair in pairs.items()}
    assert max(errors.values()) < 4.5, errors


def test_step_after_step_they_walk_at_random():
    """400 steps of 2000 balls go as far as independent steps do: 400 times the variance of one."""
    walkers = unit_gaussians(2000)
    for step in range(400):
        add_noise(*walkers.values(), 1.0 / GATE_OF_NOTHING, largest=1.0, seed=3, step=step)
    ends = walkers["means"].double() / 20.0
    assert (ends.square().mean() - 1).abs() < 4.5 * math.sqrt(2 / ends.numel())
    assert ends.mean().abs() < 4.5 / math.sqrt(ends.numel())


# --------------------------------------------------------------------------------------------- what becomes of a mean


@pytest.mark.parametrize("count", [0, 1, 2, 255, 257, 700])
def test_displacements_are_those_of_the_reference(add, count):
    before, amount = gaussians(count, seed=count), 3.0
    after = add(before, amount)
    wanted = displacements_reference(
        before["quats"], before["scales"], before["opacities"], amount, deviates_reference(SEED, STEP, count)
    )
    wanted[5:6] = 0.0  # the reference divides by the quaternion's length: a test of its own
    moved = after["means"].double() - before["means"].double()
    moved[5:6] = 0.0
    rounding = 1e-6 + 1e-6 * before["scales"].exp().amax(1, keepdim=True).clamp_min(1.0)
    assert ((moved - wanted).abs() <= 3e-5 * wanted.norm(dim=1, keepdim=True) + rounding).all()
    assert all(torch.equal(after[name], before[name]) for name in ("quats", "scales", "opacities"))


def test_a_zero_quaternion_is_no_rotation(add):
    one = unit_gaussians(40)
    torch.testing.assert_close(add(one | {"quats": torch.zeros(40, 4)}, 1.0)["means"], add(one, 1.0)["means"])


def test_displacements_scale_with_the_amount_and_the_square_of_the_size(add):
    small, large = unit_gaussians(50), unit_gaussians(50)
    large["scales"] += math.log(3.0)
    plain = add(small, 1.0)["means"]
    torch.testing.assert_close(add(small, 2.5)["means"], 2.5 * plain)
    torch.testing.assert_close(add(large, 1.0)["means"], 9.0 * plain, rtol=1e-5, atol=1e-6)


def test_what_would_hardly_move_stays_and_all_else_moves(add):
    """Stays: less than 1e-6 of its size, for sizes up to `largest`. So the reference's displacement is the judge."""
    count, amount, largest = 3000, 40.0, 2.0
    before = gaussians(count) | {"means": torch.zeros(count, 3), "opacities": torch.linspace(-9.0, 3.0, count)}
    before["scales"].clamp_(max=math.log(largest))
    stays = (add(before, amount, largest)["means"] == 0.0).all(dim=1)
    biggest = torch.full((count, 3), LARGEST_DEVIATE, dtype=torch.float64)
    gates = displacements_reference(
        torch.tensor([[1.0, 0, 0, 0]]), torch.zeros(1, 3), before["opacities"][:, None].squeeze(1), amount, biggest
    )[:, 0]  # of a ball of size 1, whose displacement is relative to its size
    assert (gates[stays] * before["scales"].exp().amax(dim=1)[stays] < NEGLIGIBLE).all()
    assert (gates[~stays] * largest > 0.999 * NEGLIGIBLE).all()
    assert 100 < stays.sum() < count - 100
    assert torch.equal(stays, before["opacities"] > before["opacities"][stays].min() - 1e-6)


def test_opaque_broken_and_unmoved_ones_keep_every_bit(add):
    before = gaussians(64)
    before["opacities"][:40], before["opacities"][40:50] = 6.0, math.nan
    after = add(before, 80.0)
    assert (
        torch.equal(after["means"][:50], before["means"][:50]) and (after["means"][50:] != before["means"][50:]).any()
    )
    assert torch.equal(add(before, 0.0)["means"], before["means"])


def test_the_same_numbers_come_again_and_others_with_another_seed_or_step(add):
    before = gaussians(100) | {"opacities": torch.full((100,), -6.0)}
    first = add(before, 1.0)["means"]
    assert torch.equal(first, add(before, 1.0)["means"])
    for change in ({"seed": SEED + 1}, {"seed": SEED + 2**32}, {"step": STEP + 1}, {"step": STEP + 2**32}):
        assert (first != add(before, 1.0, **change)["means"]).all(dim=1).float().mean() > 0.95, change
    part = {name: tensor[:37] for name, tensor in before.items()}
    assert torch.equal(first[:37], add(part, 1.0)["means"])  # a row's numbers do not depend on how many there are


def test_any_number_of_threads_gives_the_same_bits():
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            there = gaussians(999)
            add_noise(*there.values(), 1.0, largest=1.0, seed=1, step=1)
            results.append(there["means"])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_what_it_cannot_take_is_named():
    arguments = gaussians(5)
    with pytest.raises(ValueError, match=r"quats has shape \(4, 4\), expected \(5, 4\)"):
        add_noise(*(arguments | {"quats": torch.ones(4, 4)}).values(), 1.0, largest=1.0, seed=0, step=1)
    loader.load("cpu")
    with pytest.raises(RuntimeError, match="scales must be Float"):
        add_noise(*(arguments | {"scales": torch.ones(5, 3).double()}).values(), 1.0, largest=1.0, seed=0, step=1)
    with pytest.raises(RuntimeError, match="means must be contiguous"):
        add_noise(*(arguments | {"means": torch.ones(3, 5).T}).values(), 1.0, largest=1.0, seed=0, step=1)


@pytest.mark.gpu
def test_cuda_and_the_cpu_draw_the_same_deviates():
    on_gpu, on_cpu = gaussians(5000), gaussians(5000)
    there = {name: tensor.cuda() for name, tensor in on_gpu.items()}
    for tensors in (there, on_cpu):
        add_noise(*tensors.values(), 1.0, largest=1.0, seed=3, step=4)
    torch.testing.assert_close(there["means"].cpu(), on_cpu["means"], rtol=1e-5, atol=1e-5)
