"""Each rule takes what it is for and leaves the rest; a model with floaters comes out as it was without them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from distwar_gs.cleaning.boxes import bounds_box
from distwar_gs.cleaning.criteria import Rules, Subject, apply, contributions, only
from distwar_gs.cleaning.result import compare
from distwar_gs.formats.export import find_ply, load_exactly
from distwar_gs.system.errors import ConfigError
from distwar_gs.viewing.render_args import RenderArgs
from distwar_gs.viewing.trained import TrainedModel

NOTHING = Rules(unseen=False, haze=0.0, islands=0.0, contribution=0.0)
KINDS = {"haze": 40, "single": 40, "outside": 20}
"""Floaters that are added, in this order."""


@dataclass(frozen=True)
class Dirty:
    """The demo run's model, and the same with floaters behind its rows."""

    clean: Subject
    dirty: Subject
    weights: torch.Tensor
    """What the model's own Gaussians contribute, without floaters."""

    @property
    def count(self) -> int:
        """Of the model's own Gaussians."""
        return len(self.clean.params["means"])

    def taken(self, rules: Rules) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of the model's own Gaussians, and which floaters, the rules take: bool."""
        gone = ~apply(rules, self.dirty).kept
        return gone[: self.count], gone[self.count :]

    def kind(self, name: str) -> slice:
        """Where floaters of a kind are among all."""
        start = sum(list(KINDS.values())[: list(KINDS).index(name)])
        return slice(start, start + KINDS[name])


def floaters(model: TrainedModel) -> dict[str, torch.Tensor]:
    """Copies of the model's Gaussians in the training frame, put elsewhere: wide and faint ones before a camera, small
    ones between cameras and things, and some where no camera looks."""
    generator = np.random.default_rng(5)
    total, views = sum(KINDS.values()), model.scene.train
    made = only(model.params, torch.from_numpy(generator.integers(0, len(model.params["means"]), total)))
    made["sh0"] = torch.from_numpy(generator.choice([-2.0, 4.0], (total, 1, 3))).float()  # loud colors
    for index in range(total):
        kind = next(name for name in KINDS if index < sum(list(KINDS.values())[: list(KINDS).index(name) + 1]))
        view = views[generator.integers(len(views))]
        depth = model.scene.nearest * {"haze": 0.2, "single": 0.7, "outside": 1.0}[kind] * generator.uniform(0.6, 1.2)
        pixel = np.array([generator.uniform(0.1, 0.9) * view.width, generator.uniform(0.1, 0.9) * view.height, 1.0])
        place = view.viewmat[:3, :3].T @ (depth * np.linalg.inv(view.K) @ pixel) + view.center
        place = view.center - 40.0 * depth * view.viewmat[1, :3] if kind == "outside" else place  # far above
        made["means"][index] = torch.from_numpy(place)
        made["scales"][index] = float(np.log(abs(depth) * {"haze": 0.15, "single": 0.004, "outside": 0.04}[kind]))
        made["opacities"][index] = float(torch.tensor(generator.uniform(0.15, 0.4)).logit())
    return made


@pytest.fixture(scope="module")
def dirty(demo_run) -> Dirty:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = TrainedModel.load(RenderArgs(model=demo_run.folder, device="cpu"))
    params, origin = load_exactly(find_ply(demo_run.folder))
    added = floaters(model)
    frame = model.scene.normalisation
    in_file = {
        **added, "means": torch.from_numpy(frame.undo_points(added["means"].double().numpy())).float(),
        "scales": added["scales"] - float(np.log(frame.scale)),
    }  # fmt: skip
    joined = replace(model, params={name: torch.cat([tensor, added[name]]) for name, tensor in model.params.items()})
    both = {name: torch.cat([tensor, in_file[name]]) for name, tensor in params.items()}
    weights = contributions(model, torch.arange(len(params["means"])))
    yield Dirty(Subject(params, origin, model), Subject(both, origin, joined), weights)
    torch.set_num_threads(threads)


def test_floaters_go_and_what_contributes_stays(dirty):
    own, added = dirty.taken(Rules())
    contributes = dirty.weights >= Rules().contribution
    assert added.float().mean() >= 0.9
    assert (own & contributes).sum() <= 0.01 * contributes.sum()
    rows = apply(Rules(), dirty.dirty).rows
    with_floaters = compare(dirty.dirty.model, rows)
    assert with_floaters.after.psnr > with_floaters.before.psnr
    assert with_floaters.after.ssim > with_floaters.before.ssim + 0.02
    assert with_floaters.after.psnr >= compare(dirty.clean.model, torch.arange(dirty.count)).before.psnr - 0.05


def test_the_model_itself_is_as_good_as_before(dirty):
    sieve = apply(replace(Rules(), contribution=0.05), dirty.clean)  # 60 steps make hardly any below 0.02
    compared = compare(dirty.clean.model, sieve.rows)
    assert sum(sieve.removed.values()) > 0 and list(sieve.removed) == ["unseen", "haze", "islands", "contribution"]
    assert compared.after.psnr >= compared.before.psnr - 0.05
    assert len(sieve.rows) + sum(sieve.removed.values()) == dirty.count


@pytest.mark.parametrize(
    ("rules", "kind", "least"),
    [
        (replace(NOTHING, unseen=True), "outside", 1.0),
        (replace(NOTHING, haze=0.15), "haze", 0.9),
        (replace(NOTHING, islands=0.001), "single", 0.8),
        (replace(NOTHING, contribution=0.02), "outside", 1.0),
    ],
    ids=["unseen", "haze", "islands", "contribution"],
)
def test_a_rule_takes_its_kind(dirty, rules, kind, least):
    own, added = dirty.taken(rules)
    assert added[dirty.kind(kind)].float().mean() >= least
    if kind == "haze":
        assert not added[dirty.kind("single")].any() and not added[dirty.kind("outside")].any()
    assert (own & (dirty.weights >= 0.02)).sum() <= 0.01 * dirty.count


def test_the_order_of_rows_has_no_meaning(dirty):
    """What one rule takes does not move the rows of the next."""
    subject, rules = dirty.dirty, replace(NOTHING, unseen=True, haze=0.15, islands=0.001)
    params, seen = (
        {name: tensor.flip(0) for name, tensor in values.items()} for values in (subject.params, subject.model.params)
    )
    turned = Subject(params, subject.origin, replace(subject.model, params=seen))
    assert apply(rules, turned).kept.flip(0).tolist() == apply(rules, subject).kept.tolist()


def test_without_rules_nothing_goes(dirty):
    sieve = apply(NOTHING, dirty.dirty)
    assert sieve.kept.all() and sieve.removed == {}


def test_more_is_taken_the_higher_the_threshold(dirty):
    counts = [sum(apply(replace(NOTHING, contribution=c), dirty.clean).removed.values()) for c in (0.05, 0.2, 0.5)]
    assert 0 < counts[0] < counts[1] < counts[2]


def test_what_a_floater_hides_is_weighed_without_it(dirty):
    """Opaque haze before every camera: contribution alone would take what is behind."""
    model = dirty.clean.model
    walls = only(model.params, torch.zeros(len(model.scene.train), dtype=torch.int64))
    for index, view in enumerate(model.scene.train):
        place = view.center + 0.2 * model.scene.nearest * view.viewmat[2, :3]
        walls["means"][index] = torch.from_numpy(place)
        walls["scales"][index] = float(np.log(0.5 * model.scene.nearest))
        walls["opacities"][index] = float(torch.tensor(0.49).logit())
    params = {name: torch.cat([tensor, *([walls[name]] * 12)]) for name, tensor in model.params.items()}
    subject = Subject(params, np.zeros(3), replace(model, params=params))
    hidden = apply(replace(NOTHING, contribution=0.02), subject).kept[: dirty.count].sum()
    seen = apply(replace(NOTHING, haze=1.0, contribution=0.02), subject).kept[: dirty.count].sum()
    assert seen > 0.9 * dirty.count > 2 * hidden


def test_bounds_are_in_the_frame_of_the_input(dirty):
    params = dirty.clean.params
    low, high = params["means"].double().quantile(0.2, dim=0), params["means"].double().quantile(0.8, dim=0)
    box = bounds_box([*low.tolist(), *high.tolist()])
    kept = apply(replace(NOTHING, bounds=box), dirty.clean).kept
    inside = ((params["means"] > low) & (params["means"] < high)).all(dim=1)
    assert kept.tolist() == inside.tolist() and 0 < int(kept.sum()) < dirty.count
    far = np.array([452310.0, 5411950.0, 265.0])
    moved = Subject({**params, "means": params["means"]}, far)
    shifted = bounds_box([*(low.numpy() + far), *(high.numpy() + far)])
    assert apply(replace(NOTHING, crop=shifted), moved).kept.sum() == pytest.approx(int(kept.sum()), abs=1)


def test_nothing_left_is_refused(dirty):
    with pytest.raises(ConfigError, match=r"bounds: none of the 3,008 Gaussians would be left; nothing is written"):
        apply(replace(NOTHING, bounds=bounds_box([1e6, 1e6, 1e6, 2e6, 2e6, 2e6])), dirty.clean)


def test_without_cameras_the_other_rules_go_on(dirty):
    sieve = apply(Rules(), replace(dirty.dirty, model=None))
    assert list(sieve.removed) == ["islands"] and not Rules(unseen=False, haze=0, contribution=0).needs_cameras
