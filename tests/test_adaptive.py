"""Adaptive density control: schedule, statistics, and what a refinement does to every row and its Adam moments."""

import contextlib
import logging
import math

import pytest
import torch
from memory_pressure import RunsOutAt
from torch.nn import Parameter

from distwar_gs.config import DensificationConfig, OptimConfig
from distwar_gs.config.schedule import Moment
from distwar_gs.formats.morton import morton_order
from distwar_gs.gaussians.edits import drop_rows
from distwar_gs.gaussians.optimizer import make_optimizers, step_all
from distwar_gs.gaussians.rows import capacity_of
from distwar_gs.strategies import adaptive as adc

CONFIG = DensificationConfig()
KEPT, CLONED, SPLIT, FAINT, BIG, BROKEN = range(6)


def gaussians() -> tuple[dict[str, Parameter], dict, dict[str, torch.Tensor]]:
    """Six Gaussians of different fates, stepped once so that all have Adam moments; extent 1."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    params = {name: Parameter(torch.randn(6, *shape, generator=generator)) for name, shape in shapes.items()}
    sizes = torch.tensor([0.005, 0.005, 0.05, 0.05, 0.5, 0.005])
    params["scales"].data = sizes.log()[:, None] - torch.tensor([0.0, 0.5, 1.0])
    params["opacities"].data = torch.logit(torch.tensor([0.5, 0.4, 0.3, 0.004, 0.5, 0.5]))
    optimizers = make_optimizers(params, OptimConfig(means_lr=1e-9, scales_lr=0.0, opacities_lr=0.0), 1.0)
    for param in params.values():
        param.grad = torch.randn(param.shape, generator=generator)
    step_all(optimizers)
    params["shN"].data[BROKEN, 3, 1] = math.nan
    state = {"grad2d": torch.tensor([3e-4, 6e-4, 8e-4, 9e-4, 0.0, 1.0]), "count": torch.tensor([2.0, 3, 4, 1, 0, 1])}
    return params, optimizers, state


def refined(step: int = 600, seed: int = 0, state=None, **settings):
    params, optimizers, own_state = gaussians()
    state = own_state if state is None else state
    before = {name: param.detach().clone() for name, param in params.items()}
    moments = {
        name: {key: old.clone() for key, old in opt.state[params[name]].items()} for name, opt in optimizers.items()
    }
    config = DensificationConfig(**settings)
    report = adc.refine(params, optimizers, state, step, 1.0, config, torch.Generator().manual_seed(seed))
    return params, optimizers, state, before, moments, report


# ---------------------------------------------------------------------------------------------------- schedule


def test_schedule_has_the_references_off_by_ones():
    steps = range(1, 30_001)
    refinements = [step for step in steps if adc.is_refined(Moment.of_step(step), CONFIG)]
    assert refinements == list(range(600, 15_000, 100))
    resets = [[step for step in steps if adc.is_reset(Moment.of_step(step), CONFIG, white)] for white in (False, True)]
    assert resets == [[3000, 6000, 9000, 12_000], [500, 3000, 6000, 9000, 12_000]]
    assert [step for step in steps if adc.is_accumulated(Moment.of_step(step), CONFIG)] == list(range(1, 15_000))


# -------------------------------------------------------------------------------------------------- statistics


def test_accumulate_is_the_ndc_gradient_where_visible():
    state = adc.new_state(4, "cpu")
    grad = torch.tensor([[[3.0, 0.0], [0.0, 2.0], [3.0, 8.0], [1.0, 1.0]]])
    radii = torch.tensor([[[1, 1], [5, 2], [2, 3], [4, 0]]], dtype=torch.int32)
    for _ in range(2):
        adc.accumulate(state, grad, radii, width=20, height=10)
    expected = torch.tensor([3 * 10.0, 2 * 5.0, math.hypot(30, 40), 0.0])
    torch.testing.assert_close(state["grad2d"], 2 * expected)
    assert state["count"].tolist() == [2, 2, 2, 0]


def test_a_gradient_that_is_nan_where_invisible_does_not_count():
    state = adc.new_state(1, "cpu")
    adc.accumulate(state, torch.full((1, 1, 2), math.nan), torch.zeros(1, 1, 2, dtype=torch.int32), 20, 10)
    assert state["grad2d"].item() == 0


# -------------------------------------------------------------------------------------------------- refinement


def test_each_gaussian_meets_its_fate():
    """KEPT is below the threshold (1.5e-4), CLONED exactly at it (2e-4), SPLIT at it and large, FAINT too transparent,
    BIG never seen (and not yet prunable), BROKEN not finite."""
    params, _, state, before, _, report = refined()
    assert report == adc.RefineReport(cloned=1, split=1, pruned=2, total=6)
    sources = torch.tensor([KEPT, CLONED, CLONED, SPLIT, BIG, SPLIT])  # new ones where old ones went
    for name in ("quats", "opacities", "sh0", "shN"):
        assert torch.equal(params[name].detach(), before[name][sources]), name
    whole = sources != SPLIT
    assert torch.equal(params["means"].detach()[whole], before["means"][sources[whole]])
    shrunk = before["scales"][sources] - math.log(1.6) * ~whole[:, None]
    torch.testing.assert_close(params["scales"].detach(), shrunk)
    assert state["grad2d"].tolist() == [0.0] * 6 and state["count"].tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("step", "stay", "new"), [(600, [KEPT, CLONED, BIG], [2, 3, 5]), (3100, [KEPT, CLONED], [2, 3, 4])]
)
def test_only_survivors_keep_their_moments(step, stay, new):
    params, optimizers, _, _, moments, _ = refined(step)
    for name, optimizer in optimizers.items():
        state = optimizer.state[params[name]]
        assert optimizer.param_groups[0]["params"][0] is params[name] and len(optimizer.state) == 1
        assert state["step"] == moments[name]["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[key][stay], moments[name][key][stay])
            assert moments[name][key][[CLONED, SPLIT]].any() and not state[key][new].any()


def test_a_refinement_with_room_for_it_moves_nothing_but_what_changes():
    params, optimizers, state = gaussians()
    generator = torch.Generator().manual_seed(0)
    adc.refine(params, optimizers, state, 600, 1.0, CONFIG, generator)
    addresses = {name: param.data_ptr() for name, param in params.items()}
    state["grad2d"][0], state["count"][0] = 1.0, 1.0
    params["opacities"].data[1] = -9.0
    report = adc.refine(params, optimizers, state, 700, 1.0, CONFIG, generator)
    assert (report.cloned, report.pruned) == (1, 1)
    assert {name: param.data_ptr() for name, param in params.items()} == addresses


def test_splits_are_drawn_from_their_gaussian():
    """20,000 halves of one rotated, anisotropic Gaussian have its mean and covariance."""
    count = 10_000
    quat, scales, mean = torch.tensor([0.9, -0.3, 0.5, 0.2]), torch.tensor([0.5, 0.1, 0.02]), torch.tensor([1.0, 2, 3])
    w, x, y, z = (quat / quat.norm()).tolist()
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    values = {"means": mean, "quats": 3 * quat, "scales": scales.log(), "opacities": torch.tensor(0.0)}
    params = {name: Parameter(value.expand(count, *value.shape).clone()) for name, value in values.items()}
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    state = {"grad2d": torch.ones(count), "count": torch.ones(count)}
    report = adc.refine(params, optimizers, state, 600, 1.0, CONFIG, torch.Generator().manual_seed(1))
    assert report.split == count and report.total == 2 * count
    offsets = params["means"].detach() - mean
    whitened = offsets @ rotation / scales
    torch.testing.assert_close(whitened.mean(0), torch.zeros(3), rtol=0, atol=0.03)
    torch.testing.assert_close(whitened.T @ whitened / len(whitened), torch.eye(3), rtol=0, atol=0.04)


def test_refinement_repeats_with_its_seed():
    first, second, other = refined(seed=5)[0], refined(seed=5)[0], refined(seed=6)[0]
    assert all(torch.equal(first[name].detach(), second[name].detach()) or name == "shN" for name in first)
    assert not torch.equal(first["means"], other["means"])


def test_oversized_go_after_the_first_reset_only():
    """`>` the reset interval: at step 3000 itself the opacities have not been reset yet."""
    assert refined(step=3000)[-1].total == 6
    params, *_, report = refined(step=3100)
    assert report == adc.RefineReport(cloned=1, split=1, pruned=3, total=5)
    assert params["scales"].exp().max() <= 0.1


def test_halves_that_are_still_oversized_go_too():
    state = {"grad2d": torch.tensor([0.0, 0, 0, 0, 1.0, 0]), "count": torch.ones(6)}
    params, *_, report = refined(step=3100, state=state)
    assert report.split == 1 and report.total == 3 and params["scales"].exp().max() <= 0.1


@pytest.mark.parametrize(("cap", "total"), [(3, 4), (4, 4), (5, 5), (6, 6), (7, 6), (0, 6)])
def test_the_cap_is_never_passed_and_takes_the_largest_gradient(cap, total):
    """Four Gaussians are fit; CLONED and SPLIT want to grow, and SPLIT has the larger gradient here."""
    state = {"grad2d": torch.tensor([0.0, 3e-4, 9e-4, 9e-4, 0.0, 1.0]), "count": torch.ones(6)}
    *_, report = refined(state=state, cap_max=cap)
    assert report.total == total
    assert (report.cloned, report.split) == {4: (0, 0), 5: (0, 1), 6: (1, 1)}[total]


def test_not_finite_gradients_do_not_grow():
    state = {"grad2d": torch.tensor([math.inf, math.nan, 0, 0, 0, 0]), "count": torch.ones(6)}
    assert refined(state=state)[-1] == adc.RefineReport(cloned=0, split=0, pruned=2, total=4)


def test_it_never_prunes_everything(caplog):
    with caplog.at_level(logging.WARNING):
        params, _, state, before, _, report = refined(prune_opacity=0.9)
    assert report == adc.RefineReport(0, 0, 0, 6) and "all 6 Gaussians" in caplog.text
    assert torch.equal(params["means"].detach(), before["means"]) and not state["count"].any()


def test_reset_caps_opacities_and_forgets_their_moments():
    params, optimizers, _ = gaussians()
    scales_state = dict(optimizers["scales"].state[params["scales"]])
    adc.reset_opacity(params, optimizers, 0.01)
    expected = torch.tensor([0.01, 0.01, 0.01, 0.004, 0.01, 0.01])
    torch.testing.assert_close(torch.sigmoid(params["opacities"].detach()), expected)
    state = optimizers["opacities"].state[params["opacities"]]
    assert not state["exp_avg"].any() and not state["exp_avg_sq"].any() and state["step"] == 1
    assert torch.equal(optimizers["scales"].state[params["scales"]]["exp_avg"], scales_state["exp_avg"])


# ----------------------------------------------------------------------------------------------- out of memory


def tensors_of(params, optimizers) -> dict[str, torch.Tensor]:
    """Parameters and moments by name, with every optimiser seen to hold its parameter and nothing else."""
    tensors = {name: param.detach() for name, param in params.items()}
    for name, optimizer in optimizers.items():
        assert optimizer.param_groups[0]["params"] == [params[name]] and list(optimizer.state) == [params[name]]
        assert params[name].is_leaf and params[name].requires_grad
        tensors |= {f"{name}.{key}": v for key, v in optimizer.state[params[name]].items() if key != "step"}
    return tensors


def copies(params, optimizers) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors_of(params, optimizers).items()}


def assert_rows_of(tensors, before, sources) -> None:
    """Every row is wholly that of its old Gaussian; moments may be zero instead."""
    for name, tensor in tensors.items():
        wanted = before[name][sources]
        same = ((tensor == wanted) | (tensor.isnan() & wanted.isnan())).flatten(1 if tensor.dim() > 1 else 0)
        rows = same.all(dim=1) if tensor.dim() > 1 else same
        if "." in name:
            rows |= (tensor == 0).reshape(len(tensor), -1).all(dim=1)
        assert rows.all(), f"{name}: rows {(~rows).nonzero().squeeze(1).tolist()} are nobody's"


def at_every_operation(work) -> None:
    """Calls work(pressure) with memory that runs out at each of its operations in turn, then once with enough."""
    for number in range(1000):
        pressure = RunsOutAt(number)
        work(pressure)
        if not pressure.hit:
            assert number > 50, "hardly an operation was seen"
            return
    raise AssertionError("it never ends")


def test_memory_that_runs_out_in_a_refinement_changes_nothing():
    """At every operation of it."""
    outcomes = []

    def refine(pressure):
        params, optimizers, state = gaussians()
        before = copies(params, optimizers)
        report, generator = None, torch.Generator().manual_seed(0)
        with pressure, contextlib.suppress(torch.OutOfMemoryError):
            report = adc.refine(params, optimizers, state, 600, 1.0, CONFIG, generator)
        after = tensors_of(params, optimizers)
        assert {len(tensor) for tensor in after.values()} == {len(value) for value in state.values()}
        if report is None:
            assert_rows_of(after, before, torch.arange(6))
            assert state["grad2d"].any()
        else:
            assert report == adc.RefineReport(cloned=1, split=1, pruned=2, total=6)
        outcomes.append(report is None)

    at_every_operation(refine)
    assert outcomes.count(True) == len(outcomes) - 1 > 50


def test_memory_that_runs_out_while_room_is_made_changes_nothing():
    """Seven Gaussians do not fit into the memory of six."""
    outcomes = []

    def refine(pressure):
        params, optimizers, state = gaussians()
        params["opacities"].data[FAINT] = 0.0
        before = copies(params, optimizers)
        report = None
        with pressure, contextlib.suppress(torch.OutOfMemoryError):
            report = adc.refine(params, optimizers, state, 600, 1.0, CONFIG, torch.Generator().manual_seed(0))
        after = tensors_of(params, optimizers)
        outcomes.append((report is None, max(map(capacity_of, after.values()))))
        if report is None:
            assert_rows_of(after, before, torch.arange(6))
        else:
            assert report.total == 8 == len(state["count"])

    at_every_operation(refine)
    assert sum(room > 6 for failed, room in outcomes if failed) >= 17, "room that was made for some"


def test_a_refinement_out_of_memory_goes_on_through_training():
    params, optimizers, state = gaussians()
    params["shN"].data[BROKEN] = 0.0
    densifier = adc.Densifier(6, "cpu", 1.0, DensificationConfig(cap_max=0), white_background=False)
    densifier.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    with RunsOutAt(40) as pressure:
        report = densifier.step(600, params, optimizers, generator)
    assert (
        pressure.hit and report.out_of_memory and report.total == len(params["means"]) == len(densifier.state["count"])
    )
    for param in params.values():
        param.grad = torch.ones_like(param)
    step_all(optimizers)
    densifier.state["grad2d"].fill_(1.0)
    densifier.state["count"].fill_(1.0)
    assert densifier.step(700, params, optimizers, generator).total <= report.total, "growth stays off"
    tensors_of(params, optimizers)


def test_memory_that_runs_out_is_said_with_what_comes_of_it(caplog):
    params, optimizers, state = gaussians()
    densifier = adc.Densifier(6, "cpu", 1.0, CONFIG, white_background=False)
    densifier.load_state_dict(state)
    with RunsOutAt(0), caplog.at_level(logging.INFO):
        report = densifier.step(600, params, optimizers, torch.Generator())
    assert report == adc.RefineReport(0, 0, 0, 6, out_of_memory=True)
    assert "step 600: out of memory while Gaussians were added; growth is skipped" in caplog.text
    assert "at most the 6 there are" in caplog.text


def test_memory_that_runs_out_while_they_are_ordered_changes_nothing_or_orders_them_all(caplog):
    complete, _, _ = gaussians()
    complete["means"].data[BROKEN] = math.nan
    order = morton_order(complete["means"].detach())

    def put_in_order(pressure):
        params, optimizers, _ = gaussians()
        params["means"].data[BROKEN] = math.nan
        before = copies(params, optimizers)
        densifier = adc.Densifier(6, "cpu", 1.0, DensificationConfig(order_every=10), white_background=False)
        densifier.state["count"] = torch.arange(6.0)
        with pressure:
            densifier.step(10, params, optimizers, torch.Generator())
        sources = densifier.state["count"].long()
        assert sources.tolist() in (list(range(6)), order.tolist())
        assert_rows_of(tensors_of(params, optimizers), before, sources)
        tellings.add(sources.tolist() == order.tolist())

    tellings: set[bool] = set()
    with caplog.at_level(logging.WARNING):
        at_every_operation(put_in_order)
    assert tellings == {True, False} and "no memory to bring the Gaussians into spatial order" in caplog.text


def test_the_reset_takes_no_memory():
    params, optimizers, _ = gaussians()
    pointers = [t.data_ptr() for t in tensors_of(params, optimizers).values()]
    adc.reset_opacity(params, optimizers, 0.01)
    assert [t.data_ptr() for t in tensors_of(params, optimizers).values()] == pointers


def test_dropping_rows_drops_moments_and_statistics():
    params, optimizers, state = gaussians()
    before = copies(params, optimizers)
    drop_rows(params, optimizers, state, torch.tensor([False, True, False, True, False, True]))
    after = tensors_of(params, optimizers)
    rows = torch.tensor([0, 4, 2])  # the last one that stays took the first place that was free
    assert all(torch.equal(tensor, before[name][rows]) for name, tensor in after.items())
    assert state["count"].tolist() == [2.0, 0.0, 4.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_growth_that_does_not_fit_a_gpu_is_skipped():
    """With room for what there is and half of the largest parameter more, and for all but one of them."""
    count, cuda = 400_000, torch.device("cuda")
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    for spare in (0.5, 1.2, 1.8):
        torch.cuda.empty_cache()
        params = {name: Parameter(torch.rand(count, *shape, device=cuda)) for name, shape in shapes.items()}
        params["scales"].data.fill_(-6.0)
        optimizers = make_optimizers(params, OptimConfig(), 1.0)
        for param in params.values():
            param.grad = torch.ones_like(param)
        step_all(optimizers)
        densifier = adc.Densifier(count, cuda, 1.0, DensificationConfig(cap_max=0), white_background=False)
        densifier.state["grad2d"] += 1.0
        densifier.state["count"] += 1.0
        torch.cuda.empty_cache()
        limit = torch.cuda.memory_reserved() + spare * params["shN"].nbytes
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
        try:
            report = densifier.step(600, params, optimizers, torch.Generator(cuda).manual_seed(0))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert report.out_of_memory and report.total == count
        assert {len(tensor) for tensor in tensors_of(params, optimizers).values()} == {count}
        for name, tensor in tensors_of(params, optimizers).items():
            assert tensor.isfinite().all(), name
        assert len(densifier.state["grad2d"]) == count


# --------------------------------------------------------------------------------------------------- the whole


def test_densifier_follows_the_schedule():
    params, optimizers, state = gaussians()
    densifier = adc.Densifier(6, "cpu", 1.0, DensificationConfig(opacity_reset_every=600), white_background=False)
    densifier.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    assert densifier.step(500, params, optimizers, generator) is None
    assert len(params["means"]) == 6
    grad, radii = torch.full((1, 6, 2), 1e-3), torch.ones(1, 6, 2, dtype=torch.int32)
    densifier.after_backward(600, grad, radii, 10, 10)
    densifier.after_backward(15_000, grad, radii, 10, 10)
    assert densifier.state["count"].tolist() == [3.0, 4, 5, 2, 1, 2]
    report = densifier.step(600, params, optimizers, generator)
    assert report is not None and len(densifier.state["count"]) == len(params["means"]) == report.total
    assert torch.sigmoid(params["opacities"]).max() <= 0.0101


def test_statistics_of_another_model_are_refused():
    densifier = adc.Densifier(6, "cpu", 1.0, CONFIG, white_background=False)
    with pytest.raises(ValueError, match="grad2d"):
        densifier.load_state_dict(adc.new_state(5, "cpu"))


def test_interrupted_statistics_continue():
    densifier = adc.Densifier(6, "cpu", 1.0, CONFIG, white_background=False)
    densifier.after_backward(1, torch.ones(1, 6, 2), torch.ones(1, 6, 2, dtype=torch.int32), 10, 10)
    other = adc.Densifier(6, "cpu", 1.0, CONFIG, white_background=False)
    other.load_state_dict(densifier.state_dict())
    assert all(torch.equal(other.state[name], value) for name, value in densifier.state.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_accumulate_never_syncs():
    state = adc.new_state(100, "cuda")
    grad, radii = torch.rand(1, 100, 2, device="cuda"), torch.ones(1, 100, 2, dtype=torch.int32, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        adc.accumulate(state, grad, radii, 20, 10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(state["grad2d"][:1], torch.hypot(grad[0, :1, 0] * 10, grad[0, :1, 1] * 5))
