"""Values of each photo: their mean stays, a step is one of the usual Adam's, and a checkpoint is exact."""

import math

import pytest
import torch

from distwar_gs.adjust.photo_values import BETAS, EPS, PhotoValues, rate_factor

NEUTRAL = torch.tensor([[1.0, 0.0], [0.5, -2.0]])


def stepped(values: PhotoValues, steps: int, seed: int = 0) -> PhotoValues:
    """After so many steps of photos and gradients drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        view = int(torch.randint(values.count, (), generator=generator))
        values.step(view, torch.randn(2, 2, generator=generator), 0.01)
    return values


def all_of(values: PhotoValues) -> torch.Tensor:
    return torch.stack([values.of(view) for view in range(values.count)])


def test_photos_begin_neutral():
    assert torch.equal(all_of(PhotoValues(NEUTRAL, 3)), NEUTRAL.expand(3, 2, 2))


def test_the_mean_over_photos_stays():
    photos = all_of(stepped(PhotoValues(NEUTRAL, 7), 500))
    torch.testing.assert_close(photos.mean(dim=0), NEUTRAL, rtol=0.0, atol=1e-6)
    assert (photos - NEUTRAL).abs().max() > 0.1


def test_what_all_photos_have_in_common_is_not_learned():
    """The same gradient for each moves none of them, once all have had it as often."""
    values = PhotoValues(NEUTRAL, 5)
    for step in range(50):
        values.step(step % 5, torch.ones(2, 2), 0.01)
    torch.testing.assert_close(all_of(values), NEUTRAL.expand(5, 2, 2), rtol=0.0, atol=1e-6)


def test_one_photo_learns_nothing():
    assert torch.equal(stepped(PhotoValues(NEUTRAL, 1), 20).of(0), NEUTRAL)


def test_a_step_goes_against_the_gradient_and_counts_for_its_photo_alone():
    values = PhotoValues(torch.zeros(2, 2), 4)
    values.step(2, torch.tensor([[1.0, -1.0], [0.0, 5.0]]), 0.1)
    moved = 0.1 * rate_factor(4)
    expected = torch.tensor([[-1.0, 1.0], [0.0, -1.0]]) * moved
    torch.testing.assert_close(values.of(2), expected * 3 / 4)
    torch.testing.assert_close(values.of(0), -expected / 4)


@pytest.mark.parametrize("photos", [2, 10, 50])
def test_steps_are_as_large_as_those_of_the_usual_adam(photos):
    """Which updates all photos at every step. Over 20 rounds of gradients of one sign both go as far, but for the part
    that its last steps have yet to go."""
    usual = torch.zeros(photos, requires_grad=True)
    adam = torch.optim.Adam([usual], lr=0.01, betas=BETAS, eps=EPS)
    own = PhotoValues(torch.zeros(()), photos)
    for step in range(20 * photos):
        usual.grad = torch.zeros(photos)
        usual.grad[step % photos] = 1.0
        adam.step()
        own.step(step % photos, torch.ones(()), 0.01)
    went = own._raw.mean() / usual.detach().mean()
    assert 0.85 < went < 1.15


def test_what_is_not_finite_is_no_gradient():
    values, other = PhotoValues(NEUTRAL, 3), PhotoValues(NEUTRAL, 3)
    values.step(1, torch.tensor([[math.nan, 1.0], [math.inf, -math.inf]]), 0.01)
    other.step(1, torch.tensor([[0.0, 1.0], [0.0, 0.0]]), 0.01)
    assert torch.equal(all_of(values), all_of(other)) and all_of(values).isfinite().all()


def test_a_checkpoint_is_exact():
    whole = stepped(stepped(PhotoValues(NEUTRAL, 4), 30), 30, seed=1)
    saved = {name: tensor.clone() for name, tensor in stepped(PhotoValues(NEUTRAL, 4), 30).state_dict().items()}
    other = PhotoValues(NEUTRAL, 4)
    other.load_state_dict(saved)
    assert torch.equal(all_of(stepped(other, 30, seed=1)), all_of(whole))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"more": torch.zeros(1)},
        lambda state: {name: value for name, value in state.items() if name != "shift"},
        lambda state: state | {"values": torch.zeros(3, 2, 2)},
        lambda state: state | {"steps": 5},
        lambda state: [],
    ],
)
def test_other_states_are_refused_and_change_nothing(change):
    values = stepped(PhotoValues(NEUTRAL, 4), 10)
    before = all_of(values)
    with pytest.raises(ValueError, match="photos"):
        values.load_state_dict(change({name: tensor.clone() + 1 for name, tensor in values.state_dict().items()}))
    assert torch.equal(all_of(values), before)
