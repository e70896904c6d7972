"""Several ranks: what they tell each other, and that a step and a refinement of theirs is one process's."""

from dataclasses import replace

import pytest
import torch
from fused_scenes import random_params, random_view
from rank_processes import on_ranks
from torch import Tensor

from distwar_gs.adjust.exposure import Exposure
from distwar_gs.adjust.sharing import step_together
from distwar_gs.config import config_of
from distwar_gs.config.schedule import MEANT_FOR, Schedule
from distwar_gs.engines.agreed import AgreedReduction
from distwar_gs.engines.base import ComposedEngine, Engine, Rendered
from distwar_gs.engines.fused_engine import FusedEngine
from distwar_gs.engines.sharded import ShardedComposedEngine
from distwar_gs.engines.sharded_fused import ShardedFusedEngine
from distwar_gs.engines.tiled import TiledComposedEngine
from distwar_gs.engines.tiled_fused import TiledFusedEngine
from distwar_gs.engines.timing import NoTimer
from distwar_gs.evaluation.losses import photometric_gradients
from distwar_gs.gaussians.model import as_parameters
from distwar_gs.gaussians.optimizer import load_state_dicts, make_optimizers, moments_of, state_dicts, step_all
from distwar_gs.gaussians.shards import BLOCK, planned, rebalance, rows_of
from distwar_gs.rendering.renderer import RenderSettings
from distwar_gs.strategies import guided, mcmc
from distwar_gs.strategies.adaptive import is_refined
from distwar_gs.strategies.base import StrategySetup, make_strategy
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training.sampler import ViewSampler
from distwar_kernels import Cameras, Reduction, tuner_of
from distwar_kernels.fused import capacity
from distwar_kernels.tuner import CANDIDATES

COUNT = 50
SIZES = ((40, 33), (24, 50), (33, 17))
CONFIG = config_of({"densification.strategy": "guided"})
SETTINGS = RenderSettings(near_plane=0.1, far_plane=1e10)


# ------------------------------------------------------------------------------------------------ what ranks say


def _say(ranks: Ranks, values: list[Tensor]) -> dict[str, object]:
    own, rank = values[ranks.rank], ranks.rank
    rows = torch.arange(10.0)[:, None] + 100 * rank
    sent = [(rank + other) % 3 for other in range(ranks.count)]
    return {
        "numbers": ranks.numbers(rank * 10), "span": ranks.span(rank + 1), "any": ranks.any(rank == 1),
        "all": ranks.all(rank == 1), "told": ranks.told({"rank": rank}), "gathered": ranks.gathered("x" * rank),
        "first": [ranks.first(own, count) for count in (0, 1, 4, 7, 100)], "most": ranks.most(own.max()),
        "mean": ranks.mean(torch.tensor([rank, 1.0])), "swapped": ranks.swap(rows[: ranks.count]),
        "collected": ranks.collected(rows[: rank + 1]), "everywhere": ranks.everywhere(rows[: rank + 1]),
        "exchanging": ranks.exchanging(rows[: sum(sent)], sent, [(rank + other) % 3 for other in range(ranks.count)])(),
        "exchanged": ranks.exchange(rows[: sum(sent)], sent, [(rank + other) % 3 for other in range(ranks.count)]),
    }  # fmt: skip


def test_what_ranks_tell_each_other(tmp_path):
    values = [torch.tensor(one) for one in ([-2.0, 0.0, 5.0], [0.0, 0.0, 0.0, 9.0], [-1e300, -0.0, float("inf")])]
    said = on_ranks(3, tmp_path, _say, [one.double() for one in values])
    for rank, told in enumerate(said):
        assert told["numbers"] == [0, 10, 20] and told["any"] and not told["all"]
        assert told["span"] == (6, slice([0, 1, 3][rank], [1, 3, 6][rank]))
        assert told["told"] == {"rank": 0} and told["gathered"] == ["", "x", "xx"]
        assert float(told["most"]) == float("inf") and told["mean"].tolist() == [1.0, 1.0]
        assert told["swapped"].flatten().tolist() == [100.0 * other + rank for other in range(3)]
    assert said[0]["collected"].flatten().tolist() == [0, 100, 101, 200, 201, 202] and said[1]["collected"] is None
    assert all(torch.equal(told["everywhere"], said[0]["collected"]) for told in said)
    assert all(torch.equal(told["exchanging"], told["exchanged"]) for told in said)
    assert said[1]["exchanged"].flatten().tolist() == [0.0, 101.0, 102.0]
    # -1e300; -2; zeros by rank: one, three, one (minus zero is a zero); 5; 9; infinity.
    assert [told["first"] for told in said] == [[0, 0, 2, 2, 3], [0, 0, 1, 3, 4], [0, 1, 1, 2, 3]]


def test_one_process_is_all_ranks():
    values, rows = torch.tensor([1.0, 2.0]), torch.ones(2, 3)
    assert ALONE.numbers(7) == [7] and ALONE.total(7) == 7 and ALONE.span(4) == (4, slice(0, 4)) and ALONE.leads
    assert ALONE.first(values, 5) == 2 and ALONE.told("x") == "x" and ALONE.gathered(1) == [1]
    assert ALONE.swap(rows) is rows and ALONE.exchange(rows, [2], [2]) is rows and ALONE.collected(rows) is rows
    assert ALONE.everywhere(rows) is rows and ALONE.exchanging(rows, [2], [2])() is rows


def test_ranks_share_the_order_of_one_process_out():
    def sampler(rank: int, count: int) -> ViewSampler:
        ranks = Ranks()
        ranks.rank, ranks.count = rank, count
        return ViewSampler(7, torch.Generator().manual_seed(5), ranks)

    alone, together = sampler(0, 1), [sampler(rank, 3) for rank in range(3)]
    whole = [alone.next() for _ in range(12)]
    assert [one.next() for _ in range(4) for one in together] == whole
    assert together[1].shown == whole[-3:]
    together[1].put_back(whole[-2])
    assert together[1].next() == whole[-2] and together[1].shown == whole[-3:]


# ------------------------------------------------------------------------------------------------ a step


def _views(count: int, model: str = "pinhole") -> list[tuple]:
    """Cameras, and a photo of each; panoramas have the Gaussians at their edges, where they are drawn twice."""
    cameras = [random_view(seed, *SIZES[seed], model=model).camera for seed in range(count)]
    if model == "equirectangular":
        around = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
        cameras = [camera._replace(viewmats=around @ camera.viewmats) for camera in cameras]
    g = torch.Generator().manual_seed(7)
    return [
        (camera, torch.randint(0, 256, (camera.height, camera.width, 3), generator=g).to(torch.uint8))
        for camera in cameras
    ]


class _Training:
    """Some Gaussians, and what a step takes."""

    def __init__(self, rows: Tensor, views: int, ranks: Ranks = ALONE, device: torch.device | str = "cpu") -> None:
        self.params = as_parameters({name: value[rows] for name, value in random_params(COUNT, 3).items()}, device)
        self.optimizers = make_optimizers(self.params, CONFIG.optim, 1.0, views)
        self.strategy = make_strategy(
            StrategySetup(CONFIG, len(rows), device, 1.0, Schedule(MEANT_FOR, views=views), ranks=ranks)
        )

    def state(self) -> dict[str, Tensor]:
        names = list(self.params)
        moments = dict(enumerate(moments_of(self.optimizers, names)))
        values = {**self.params, **moments, **self.strategy.state}
        return {name: value.detach().clone() for name, value in values.items()}


BACKGROUND = torch.tensor([0.2, 0.5, 0.9])


def _moving(camera: Cameras) -> Cameras:
    return camera._replace(viewmats=camera.viewmats.clone().requires_grad_())


def _compared(rendered: Rendered, photo: Tensor, with_more: bool) -> dict[str, Tensor]:
    """Gradients of what is rendered."""
    gradients, _ = photometric_gradients(rendered.image, photo, 0.2, with_errors=True)
    if with_more:
        depth, alpha = rendered.depth
        gradients["depth"] = torch.where(alpha > 0.05, (depth - 4.0).sign() / depth.numel(), 0.0)
    return gradients


def _rank_steps(
    ranks: Ranks, kind: str, absgrad: bool, steps: int, with_more: bool, model: str
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    views, rows = _views(ranks.count, model), torch.arange(COUNT)[ranks.rank :: ranks.count]
    training, settings = _Training(rows, ranks.count, ranks), replace(SETTINGS, absgrad=absgrad, rasterizer=kind)
    make = {"composed": ShardedComposedEngine, "fused": ShardedFusedEngine}[kind]
    engine = make(training.params, training.optimizers, training.strategy, settings, ranks)
    camera, photo = views[ranks.rank]
    camera = _moving(camera) if with_more else camera
    for step in range(1, steps + 1):
        together = (one for one, _ in views)
        rendered = engine.forward(step * ranks.count, camera, 3, BACKGROUND, *together, with_depth=with_more)
        engine.update(rendered, _compared(rendered, photo, with_more), NoTimer())
    return training.state(), rendered.image.detach(), _seen(engine, camera, with_more)


def _tiled_step(ranks: Ranks, kind: str, absgrad: bool, with_more: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """All show the first view."""
    rows, (camera, photo) = torch.arange(COUNT)[ranks.rank :: ranks.count], _views(1)[0]
    training, settings = _Training(rows, 1, ranks), replace(SETTINGS, absgrad=absgrad, rasterizer=kind)
    make = {"composed": TiledComposedEngine, "fused": TiledFusedEngine}[kind]
    engine = make(training.params, training.optimizers, training.strategy, settings, ranks)
    camera = _moving(camera) if with_more else camera
    rendered = engine.forward(1, camera, 3, BACKGROUND, with_depth=with_more)
    engine.update(rendered, _compared(rendered, photo, with_more), NoTimer())
    return training.state(), rendered.image.detach(), _seen(engine, camera, with_more)


def _seen(engine: Engine, camera: Cameras, with_more: bool) -> Tensor:
    """A look, and the gradient of the pose if there is one."""
    look = engine.look(1, camera, 3, BACKGROUND, with_depth=with_more)
    if not with_more:
        return look.colors[0]
    pose = camera.viewmats.grad
    return torch.cat([look.colors.flatten(), look.depths.flatten(), (pose / pose.abs().max()).flatten()])


def _one_process_steps(
    count: int, absgrad: bool, steps: int, with_more: bool, model: str = "pinhole"
) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
    """The same by a process that sums the gradients of the views itself."""
    training = _Training(torch.arange(COUNT), count)
    engine = ComposedEngine(training.params, training.optimizers, training.strategy, replace(SETTINGS, absgrad=absgrad))
    views = [(_moving(camera) if with_more else camera, photo) for camera, photo in _views(count, model)]
    for step in range(1, steps + 1):
        images = []
        for camera, photo in views:
            rendered = engine.forward(step * count, camera, 3, BACKGROUND, with_depth=with_more)
            gradients = _compared(rendered, photo, with_more)
            sums = rendered.differentiate(gradients["image"], gradients["errors"], gradients.get("depth"))
            training.strategy.state["score"] += sums[:, 0].sqrt()
            radii, gradient = rendered.rendering.radii, rendered.rendering.center_gradients(absgrad)
            training.strategy.after_backward(step * count, gradient, radii, camera.width, camera.height)
            images.append(rendered.image.detach())
        training.strategy.regularize(training.params)
        step_all(training.optimizers)
    return training.state(), images, [_seen(engine, camera, with_more) for camera, _ in views]


STEPS = [
    ("composed", 2, False, "pinhole"), ("composed", 3, True, "pinhole"), ("fused", 2, True, "pinhole"),
    ("fused", 3, False, "pinhole"), ("composed", 2, True, "equirectangular"), ("fused", 2, False, "equirectangular"),
]  # fmt: skip


@pytest.mark.parametrize("with_more", [False, True], ids=["", "depth and poses"])
@pytest.mark.parametrize(("kind", "count", "absgrad", "model"), STEPS)
def test_a_step_is_that_of_one_process(kind, count, absgrad, model, with_more, tmp_path, request):
    if kind == "fused":
        if torch.cuda.is_available():
            pytest.skip("its kernels run on a CPU here")
        request.getfixturevalue("emulated_fused_ops")
    results = on_ranks(count, tmp_path, _rank_steps, kind, absgrad, 1, with_more, model)
    _assert_as_one_process(kind, results, *_one_process_steps(count, absgrad, 1, with_more, model))


@pytest.mark.parametrize("with_more", [False, True], ids=["", "depth and poses"])
@pytest.mark.parametrize(("kind", "count", "absgrad"), [("composed", 2, False), ("composed", 4, True),
                                                        ("fused", 2, True), ("fused", 4, False)])  # fmt: skip
def test_a_step_on_one_view_is_that_of_one_process(kind, count, absgrad, with_more, tmp_path, request):
    """Of three rows of tiles: with four ranks one has none."""
    if kind == "fused":
        if torch.cuda.is_available():
            pytest.skip("its kernels run on a CPU here")
        request.getfixturevalue("emulated_fused_ops")
    results = on_ranks(count, tmp_path, _tiled_step, kind, absgrad, with_more)
    wanted, images, looks = _one_process_steps(1, absgrad, 1, with_more)
    _assert_as_one_process(kind, results, wanted, count * images, count * looks)


def _assert_as_one_process(kind, results, wanted, images, looks):
    count = len(results)
    for (_, image, seen), one, look in zip(results, images, looks, strict=True):
        torch.testing.assert_close(image, one, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen, look, rtol=1e-3, atol=1e-3)
    whole = {}
    for name, value in wanted.items():
        whole[name] = torch.empty_like(value)
        for rank, (state, *_) in enumerate(results):
            whole[name][rank::count] = state[name]
    counts = whole.pop("count"), wanted.pop("count")
    differ = int((counts[0] != counts[1]).sum())  # at an image's border: one counts boxes, the other ellipses
    assert differ <= (15 if kind == "fused" else 0) and counts[1].sum() > COUNT / 3
    for name, value in wanted.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(whole[name], value, rtol=2e-3, atol=1e-4 * scale, msg=lambda m, n=name: f"{n}: {m}")


def _cut_step(ranks: Ranks, what: str) -> tuple[dict[str, Tensor], int]:
    """A step in which slabs are too small for all views, or the first view's lists are."""
    views, training = _views(2), _Training(torch.arange(COUNT)[ranks.rank :: 2], 2, ranks)
    settings = replace(SETTINGS, rasterizer="fused")
    engine = ShardedFusedEngine(training.params, training.optimizers, training.strategy, settings, ranks)
    camera, photo = views[ranks.rank]
    engine.forward(2, camera, 3, BACKGROUND, *(one for one, _ in views))  # the first one is always whole
    engine._agree = lambda pixels, most: None
    engine._capacity = 4 if what == "slabs" else 25
    lists = 8 if what == "lists" and ranks.rank == 0 else 4096
    engine.sizes.capacities = lambda gaussians: (engine._capacity, lists)
    rendered = engine.forward(4, camera, 3, BACKGROUND, *(one for one, _ in views))
    gradients, _ = photometric_gradients(rendered.image, photo, 0.2, with_errors=True)
    engine.update(rendered, gradients, NoTimer())
    engine.sizes.collect(wait=True)
    return training.state(), engine.skipped


@pytest.mark.parametrize("what", ["slabs", "lists"])
def test_a_view_that_was_cut_short_adds_nothing(what, tmp_path, request):
    """Neither where its own lists were too short, nor where some rank could not send all it sees."""
    if torch.cuda.is_available():
        pytest.skip("its kernels run on a CPU here")
    request.getfixturevalue("emulated_fused_ops")
    results = on_ranks(2, tmp_path, _cut_step, what)
    assert [skipped for _, skipped in results] == ([1, 1] if what == "slabs" else [1, 0])
    whole = {name: torch.empty(COUNT, *value.shape[1:]) for name, value in results[0][0].items()}
    for name, value in whole.items():
        for rank, (state, _) in enumerate(results):
            value[rank::2] = state[name]
    if what == "slabs":
        assert not any(whole[name].any() for name in ("grad2d", "count", "score", 0, 4))  # moments of means and sh0
        return
    training = _Training(torch.arange(COUNT), 2)
    engine = ComposedEngine(training.params, training.optimizers, training.strategy, SETTINGS)
    camera, photo = _views(2)[1]
    rendered = engine.forward(4, camera, 3, BACKGROUND)
    gradients, _ = photometric_gradients(rendered.image, photo, 0.2, with_errors=True)
    engine.update(rendered, gradients, NoTimer())
    wanted = training.state()
    for name in ("grad2d", 0, 4):
        atol = 1e-4 * float(wanted[name].abs().max())
        torch.testing.assert_close(whole[name], wanted[name], rtol=2e-3, atol=atol)


def _cut_band(ranks: Ranks, what: str) -> tuple[dict[str, Tensor], int]:
    """A step in which something is too small for the first rank's part of the view that all show."""
    training, (camera, photo) = _Training(torch.arange(COUNT)[ranks.rank :: 2], 1, ranks), _views(1)[0]
    settings = replace(SETTINGS, rasterizer="fused")
    engine = TiledFusedEngine(training.params, training.optimizers, training.strategy, settings, ranks)
    engine.forward(1, camera, 3, BACKGROUND)  # the first one is always whole
    engine._agree = lambda pixels, most: None
    engine._capacity = 4 if what == "slabs" else 25
    lists = 8 if what == "lists" and ranks.rank == 0 else 4096
    engine.sizes.capacities = lambda gaussians: (engine._capacity, lists)
    engine._own_sizes.capacities = lambda gaussians: (4 if what == "view" and ranks.rank == 0 else 25, 0)
    rendered = engine.forward(2, camera, 3, BACKGROUND)
    gradients, _ = photometric_gradients(rendered.image, photo, 0.2, with_errors=True)
    engine.update(rendered, gradients, NoTimer())
    for sizes in (engine.sizes, engine._own_sizes):
        sizes.collect(wait=True)
    return training.state(), engine.skipped


@pytest.mark.parametrize("what", ["view", "slabs", "lists"])
def test_a_view_of_all_that_was_cut_short_adds_nothing(what, tmp_path, request):
    """On no rank, whoever could not hold its part."""
    if torch.cuda.is_available():
        pytest.skip("its kernels run on a CPU here")
    request.getfixturevalue("emulated_fused_ops")
    results = on_ranks(2, tmp_path, _cut_band, what)
    assert results[0][1] == 1
    for state, _ in results:
        assert not any(state[name].any() for name in ("grad2d", "count", "score", 0, 4))  # moments of means and sh0


def _reductions(ranks: Ranks) -> list[str]:
    """Of the ranks, where the first has found something."""
    tuner, device = tuner_of(torch.device("cpu")), torch.device("cpu")
    agreed, named = (
        AgreedReduction(ranks, Reduction("auto"), device),
        AgreedReduction(ranks, Reduction("sw_b", 8), device),
    )
    if ranks.leads:
        tuner.reduction = CANDIDATES[5]
    before = str(agreed.watched(torch.zeros(1), 1, lambda v, reduction: v))
    agreed.agree()
    named.agree()
    after = str(agreed.watched(torch.zeros(1), 1, lambda v, reduction: v))
    return [before, after, agreed.setting.strategy, str(named.setting)]


def test_the_first_rank_measures_reductions_for_all(tmp_path):
    one, other = on_ranks(2, tmp_path, _reductions)
    chosen, named = str(CANDIDATES[5]), str(Reduction("sw_b", 8))
    assert one == [chosen, chosen, "auto", named]
    assert other == [str(CANDIDATES[0]), chosen, CANDIDATES[5].strategy, named]


def _deterministic_step(ranks: Ranks, is_exact: bool, is_small: bool) -> dict[str, Tensor]:
    """A step for which slabs and lists were too small, as far as was known before."""
    views, training = _views(2), _Training(torch.arange(COUNT)[ranks.rank :: 2], 2, ranks)
    settings = replace(SETTINGS, rasterizer="fused")
    engine = ShardedFusedEngine(
        training.params, training.optimizers, training.strategy, settings, ranks, deterministic=is_exact
    )
    camera, photo = views[ranks.rank]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "_GRAIN", 1)
        engine.forward(2, camera, 3, BACKGROUND, *(one for one, _ in views))
        if is_small:
            engine._capacity, engine._until_agreed, engine.sizes._now = 2, 100, (0.01, 0.01)
        rendered = engine.forward(4, camera, 3, BACKGROUND, *(one for one, _ in views))
        gradients, _ = photometric_gradients(rendered.image, photo, 0.2, with_errors=True)
        engine.update(rendered, gradients, NoTimer())
    assert engine.skipped == 0
    return training.state()


def test_deterministic_steps_are_whole(tmp_path, request):
    """Whatever was known of their size; and their sums are those of integers, which have no order."""
    if torch.cuda.is_available():
        pytest.skip("its kernels run on a CPU here")
    request.getfixturevalue("emulated_fused_ops")
    small = on_ranks(2, tmp_path / "small", _deterministic_step, True, True)
    large = on_ranks(2, tmp_path / "large", _deterministic_step, True, False)
    plain = on_ranks(2, tmp_path / "plain", _deterministic_step, False, False)
    for one, other, third in zip(small, large, plain, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert not torch.equal(one["grad2d"], third["grad2d"])
        torch.testing.assert_close(one["grad2d"], third["grad2d"], rtol=1e-4, atol=1e-8)


def _alone(make: type, device: torch.device, **options: object) -> tuple[_Training, Engine, Cameras, Tensor]:
    """A training whose engine's other ranks are nobody."""
    training, (camera, photo) = _Training(torch.arange(COUNT), 1, device=device), _views(1)[0]
    parts = (training.params, training.optimizers, training.strategy, replace(SETTINGS, rasterizer="fused"))
    return training, make(*parts, **options), _moving(camera.to(device)), photo.to(device)


def _one_step(engine: Engine, camera: Cameras, photo: Tensor, step: int) -> None:
    rendered = engine.forward(step, camera, 3, BACKGROUND.to(photo.device), camera, with_depth=True)
    engine.update(rendered, _compared(rendered, photo, True), NoTimer())


@pytest.mark.parametrize("make", [ShardedFusedEngine, TiledFusedEngine])
def test_ranks_of_one_make_the_step_of_the_fused_engine(make, device):
    """On a GPU, too."""
    results = []
    for engine, options in ((FusedEngine, {"adam": "dense"}), (make, {"ranks": ALONE})):
        training, engine, camera, photo = _alone(engine, device, **options)
        _one_step(engine, camera, photo, 1)
        results.append({**training.state(), "pose": camera.viewmats.grad})
    for name, value in results[0].items():
        atol = 1e-4 * float(value.abs().max())
        torch.testing.assert_close(results[1][name], value, rtol=2e-3, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.gpu
@pytest.mark.parametrize("make", [ShardedFusedEngine, TiledFusedEngine])
def test_steps_of_ranks_do_not_wait_for_the_gpu(make):
    """What is asked of other ranks apart, here of itself."""
    _, engine, camera, photo = _alone(make, torch.device("cuda"), ranks=ALONE)
    for step in (1, 2):
        _one_step(engine, camera, photo, step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3, 8):
            _one_step(engine, camera, photo, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert engine.skipped == 0


# ------------------------------------------------------------------------------------------------ beside Gaussians


def _exposures(ranks: Ranks, shown: list[list[int]]) -> list[Tensor]:
    """Of four photos after some steps, by a loss that wants each to be as bright as its number says."""
    adjustment = Exposure(4, CONFIG.appearance, torch.device("cpu"))
    image = torch.linspace(0.1, 0.9, 60).view(4, 5, 3)
    for step, views in enumerate(shown, 1):
        noted = []
        for view in views[ranks.rank : ranks.rank + 1] if ranks.count > 1 else views:
            adjustment.backward(adjustment.image(view, image) - (0.5 + view) * image)
            noted.append(adjustment.noted())
        if ranks.count > 1:
            step_together([adjustment], views, ranks, step / 10)
            continue
        for view, own in zip(views, noted, strict=True):
            adjustment.step_of(view, own, step / 10)
    return list(adjustment.state_dict().values())


def test_photos_learn_as_with_one_process(tmp_path):
    """Also where two ranks show the same one."""
    shown = [[0, 1], [2, 3], [1, 1], [3, 0]]
    one, other = on_ranks(2, tmp_path, _exposures, shown)
    alone = _exposures(ALONE, shown)
    for values, theirs, wanted in zip(one, other, alone, strict=True):
        assert torch.equal(values, theirs) and torch.equal(values, wanted)


# ------------------------------------------------------------------------------------------------ a refinement


def _model(seed: int, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gaussians of which some are dead, and statistics."""
    params, g = random_params(count, seed), torch.Generator().manual_seed(seed)
    params["opacities"][torch.rand(count, generator=g) < 0.2] = -9.0
    params["means"][3] = torch.nan
    state = {"grad2d": torch.rand(count, generator=g) * 1e-2, "count": torch.full((count,), 9.0)}
    return params, state | {"score": torch.rand(count, generator=g)}


CHANGES = {
    "guided": {"densification.strategy": "guided"},
    "guided, cap": {"densification.strategy": "guided", "densification.cap_max": 330},
    "guided, below": {"densification.strategy": "guided", "densification.cap_max": 250},
    "guided, share": {"densification.strategy": "guided", "densification.children": "share"},
    "guided, split": {"densification.strategy": "guided", "densification.children": "split"},
    "adc": {"densification.strategy": "adc", "densification.prune_scale": 10.0},
    "adc, cap": {"densification.strategy": "adc", "densification.cap_max": 270, "densification.prune_scale": 10.0},
    "mcmc": {"densification.strategy": "mcmc", "densification.cap_max": 310},
    "mcmc, below": {"densification.strategy": "mcmc", "densification.cap_max": 240},
}


def _refined(ranks: Ranks, changes: dict[str, object], bounds: list[int]) -> tuple[dict[str, Tensor], str]:
    config, rows = config_of(changes), slice(bounds[ranks.rank], bounds[ranks.rank + 1])
    params, statistics = _model(4, bounds[-1])
    params = as_parameters({name: value[rows] for name, value in params.items()}, "cpu")
    optimizers = make_optimizers(params, config.optim, 1.0, ranks.count)
    for number, moment in enumerate(moments_of(optimizers, list(params))):
        moment.copy_(params["opacities"].detach().view(-1, *[1] * (moment.dim() - 1)) + number)  # it is known again
    schedule = Schedule(config.train.iterations, views=ranks.count)
    strategy = make_strategy(StrategySetup(config, len(params["means"]), "cpu", 1.0, schedule, ranks=ranks))
    strategy.state.update({name: statistics[name][rows].clone() for name in strategy.state})
    report = strategy.step(600, params, optimizers, torch.Generator().manual_seed(3))
    values = {**{name: value.detach() for name, value in params.items()}, **strategy.state}
    return values | {"moment": moments_of(optimizers, ["scales"])[0]}, str(report)


def _as_set(values: dict[str, Tensor]) -> Tensor:
    """All that is kept of each Gaussian, by row, in an order that does not depend on where they are."""
    rows = torch.cat([value.reshape(len(value), -1).nan_to_num(nan=-77.0) for value in values.values()], dim=1)
    return torch.tensor(sorted(rows.tolist()))


def _comparable(name: str, values: dict[str, Tensor]) -> Tensor:
    """All that is kept of each Gaussian, sorted: but what is drawn for it, since that goes by their order."""
    if name == "mcmc":  # which ones grow goes by the order, too
        return torch.zeros(len(values["means"]))
    drawn = {"means"} if name in ("guided", "guided, cap", "adc", "adc, cap") else set()
    return _as_set({key: value for key, value in values.items() if key not in drawn})


@pytest.mark.parametrize("name", CHANGES)
def test_a_refinement_is_that_of_one_process(name, tmp_path):
    """The same Gaussians are cloned, split, relocated and removed."""
    alone, report = _refined(ALONE, CHANGES[name], [0, 300])
    results = on_ranks(3, tmp_path, _refined, CHANGES[name], [0, 90, 180, 300])
    assert [said for _, said in results] == [report] * 3
    together = {key: torch.cat([one[key] for one, _ in results]) for key in alone}
    torch.testing.assert_close(_comparable(name, together), _comparable(name, alone), rtol=1e-6, atol=1e-7)
    again = on_ranks(3, tmp_path, _refined, CHANGES[name], [0, 90, 180, 300])
    assert all(torch.equal(_as_set(one), _as_set(two)) for (one, _), (two, _) in zip(results, again, strict=True))


# ------------------------------------------------------------------------------------------------ shards


def test_blocks_are_dealt_round():
    dealt = [rows_of(1000, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(dealt).sort().values, torch.arange(1000))
    assert dealt[1][0] == BLOCK and dealt[1][BLOCK] == 4 * BLOCK
    assert torch.equal(rows_of(1000, 0, 1), torch.arange(1000))
    assert [len(rows_of(7, rank, 3)) for rank in range(3)] == [3, 2, 2]  # nobody is left without any


@pytest.mark.parametrize("counts", [[10, 0, 2], [5], [7, 8, 9, 40], [0, 0, 1]])
def test_moves_make_counts_even(counts):
    after = list(counts)
    for giver, taker, rows in planned(counts):
        after[giver] -= rows
        after[taker] += rows
        assert rows > 0 and counts[giver] > counts[taker]
    assert sum(after) == sum(counts) and max(after) - min(after) <= 1


def _rebalanced(ranks: Ranks) -> dict[str, Tensor]:
    count = [40, 10, 30][ranks.rank]
    params = as_parameters(random_params(count, 20 + ranks.rank), "cpu")
    optimizers = make_optimizers(params, CONFIG.optim, 1.0)
    for moment in moments_of(optimizers, list(params)):
        moment.copy_(params["opacities"].detach().view(-1, *[1] * (moment.dim() - 1)))
    statistics = {"score": params["opacities"].detach().clone()}
    rebalance(ranks, params, optimizers, statistics)
    moments = {str(index): one for index, one in enumerate(moments_of(optimizers, list(params)))}
    return {**{name: value.detach() for name, value in params.items()}, **moments, **statistics}


def test_ranks_with_many_gaussians_give_some_to_others(tmp_path):
    results = on_ranks(3, tmp_path, _rebalanced)
    assert [len(one["means"]) for one in results] == [27, 27, 26]
    before = [random_params(count, 20 + rank) for rank, count in enumerate([40, 10, 30])]
    for name in before[0]:
        after = torch.cat([one[name] for one in results])
        assert torch.equal(_as_set({name: after}), _as_set({name: torch.cat([one[name] for one in before])}))
    for one in results:
        assert torch.equal(one["score"], one["opacities"]) and torch.equal(one["3"], one["opacities"])


def test_moments_become_those_of_steps_on_more_views():
    """As if the gradients of one view at a step had been the same: a sum of two has twice the mean."""
    params = as_parameters(random_params(4, 1), "cpu")
    one, two = (make_optimizers(params, CONFIG.optim, 1.0, views) for views in (1, 2))
    for optimizer in one.values():
        optimizer.param_groups[0]["params"][0].grad = torch.ones_like(optimizer.param_groups[0]["params"][0])
        optimizer.step()
    saved = state_dicts(one)
    load_state_dicts(two, saved)
    for name in params:
        was, now = (optimizers[name].state[params[name]] for optimizers in (one, two))
        assert torch.equal(now["exp_avg"], 2.0 * was["exp_avg"]) and float(now["step"]) == 0.5
    back = make_optimizers(params, CONFIG.optim, 1.0)
    load_state_dicts(back, state_dicts(two))
    for name in params:
        torch.testing.assert_close(back[name].state[params[name]], one[name].state[params[name]])


def test_the_primitives_of_a_refinement_are_those_of_before():
    """One process draws what it drew before there were ranks."""
    weights, generator = torch.rand(100), torch.Generator().manual_seed(1)
    ends = (weights.double() * mcmc.SAMPLING_UNIT).long().cumsum(0)
    marks = torch.randint(int(ends[-1]), (30,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(mcmc.draw(weights, 30, generator), torch.searchsorted(ends, marks, right=True))
    assert len(guided.draw_distinct(weights, 200, generator)) == 100


@pytest.mark.parametrize("views", [1, 2, 3, 4, 7, 8])
def test_what_is_due_by_views_is_due_as_often_with_any_number_of_ranks(views):
    """Each refinement of one process, at the first step at or beyond its own."""
    density = replace(CONFIG.densification, start=500, every=100, stop=2000)
    schedule = Schedule(3000, views=views)
    steps = [step for step in range(views, 3000 + views, views) if is_refined(schedule.at(step), density)]
    assert [step - step % 100 for step in steps] == list(range(600, 2000, 100))
    assert [step for step in range(views, 3001, views) if schedule.is_one(step, (1000,))] == [-(-1000 // views) * views]
