"""The rules by which Gaussians go, in their order. Thresholds are shares, so that they fit every scene."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from distwar_gs.cleaning.boxes import is_inside
from distwar_gs.cleaning.islands import islands
from distwar_gs.cleaning.sight import Sight, look_at
from distwar_gs.rendering.views import camera_of
from distwar_gs.rendering.weights import largest_weights
from distwar_gs.system.errors import ConfigError
from distwar_gs.viewing.live.orders import CropBox
from distwar_gs.viewing.trained import TrainedModel

HAZE_NEAR = 0.5
"""Of a Gaussian's weight: haze has more than this in pictures in which it is nearer than the nearest things."""
HAZE_WIDE = 0.05
"""Of a picture's diagonal: the longest standard deviation of haze takes more, in one of those pictures."""
HAZE_FAINT = 0.5
"""The opacity of haze is below."""
FEWEST = 1.5
"""Cameras that are few, however few there are in all."""


@dataclass(frozen=True)
class Rules:
    """What goes. 0, None and False switch a rule off."""

    bounds: CropBox | None = None
    """Centers outside of this box, in the frame of the input."""
    crop: CropBox | None = None
    """The same, of a second box: the live viewer's."""
    unseen: bool = True
    """What no training camera has in its picture."""
    haze: float = 0.15
    """What is faint, wide, before the nearest things, and seen by less than this share of the cameras
    (`Sight.effective_cameras`)."""
    islands: float = 0.001
    """Groups that touch nothing else, with less than this share of all opacity."""
    contribution: float = 0.02
    """What has less weight than this, alpha times transmittance, in every pixel of every training camera."""

    @property
    def needs_cameras(self) -> bool:
        """Whether a rule asks what cameras see."""
        return self.unseen or self.haze > 0.0 or self.contribution > 0.0


@dataclass(frozen=True)
class Subject:
    """A model as its file has it, and, where its scene is known, in front of its cameras."""

    params: Mapping[str, Tensor]
    """N Gaussians on the CPU, in the frame of the file (distwar_gs.formats.export.load_exactly)."""
    origin: np.ndarray
    """What positions are relative to, float64 [3], in the frame of the input."""
    model: TrainedModel | None = None
    """The same Gaussians in the same order, in the training frame."""


@dataclass
class Sieve:
    """Which of N Gaussians are left, and how many each rule took of what those before it had left."""

    kept: Tensor
    """[N] bool, on the CPU."""
    removed: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> Tensor:
        """[M] int64, those left."""
        return self.kept.nonzero()[:, 0]

    def take(self, rule: str, gone: Tensor) -> None:
        """Take out what is True of those left ([M] bool). Raises ConfigError where nothing would remain."""
        gone = gone.cpu()
        if gone.all():
            raise ConfigError(
                f"{rule}: none of the {len(gone):,} Gaussians would be left; nothing is written: choose another "
                "threshold or box, or switch the rule off"
            )
        self.removed[rule] = int(gone.sum())
        self.kept[self.rows[gone]] = False


def apply(rules: Rules, subject: Subject) -> Sieve:
    """Rule after rule, each on what is left: what floaters hid from the cameras is weighed when these are gone.

    Rules that ask for cameras are passed over where the subject has none.
    """
    sieve = Sieve(torch.ones(len(subject.params["means"]), dtype=torch.bool))
    for name, box in (("bounds", rules.bounds), ("crop", rules.crop)):
        if box is not None:
            sieve.take(name, _outside(box, subject, sieve.rows))
    if subject.model is not None and (rules.unseen or rules.haze > 0.0):
        _sift_by_sight(rules, subject.model, sieve)
    if rules.islands > 0.0:
        sieve.take("islands", _islands(rules.islands, subject, sieve.rows))
    if subject.model is not None and rules.contribution > 0.0:
        sieve.take("contribution", contributions(subject.model, sieve.rows) < rules.contribution)
    return sieve


def contributions(model: TrainedModel, rows: Tensor) -> Tensor:
    """[M] the largest weight that each of these Gaussians ([M] of N), alone in the scene with the others of them, has
    in any training view (`largest_weights`)."""
    params = only(model.params, rows)
    largest = torch.zeros(len(rows), device=model.device)
    for view in model.scene.train:
        largest = largest.maximum(largest_weights(params, camera_of(view, model.device), model.settings))
    return largest


def only(params: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Those rows of every parameter."""
    return {name: tensor[rows.to(tensor.device)] for name, tensor in params.items()}


def _sift_by_sight(rules: Rules, model: TrainedModel, sieve: Sieve) -> None:
    """Unseen and haze: what is not seen hides nothing, so one look tells both."""
    params = only(model.params, sieve.rows)
    sight = look_at(params, model.scene, model.settings)
    unseen = (sight.counts == 0) if rules.unseen else torch.zeros_like(sight.counts, dtype=torch.bool)
    haze = _haze(rules.haze, sight, params)
    if rules.unseen:
        sieve.take("unseen", unseen)
    if rules.haze > 0.0:
        sieve.take("haze", haze[~unseen])


def _haze(share: float, sight: Sight, params: Mapping[str, Tensor]) -> Tensor:
    """[M] bool: faint and wide, mostly before the nearest things, and seen by few cameras."""
    few = sight.effective_cameras < max(FEWEST, share * sight.cameras)
    faint = params["opacities"].sigmoid() < HAZE_FAINT
    return few & faint & (sight.near_share > HAZE_NEAR) & (sight.near_widths > HAZE_WIDE)


def _outside(box: CropBox, subject: Subject, rows: Tensor) -> Tensor:
    means = subject.params["means"][rows].double().numpy() + subject.origin
    return torch.from_numpy(~is_inside(box, means))


def _islands(least: float, subject: Subject, rows: Tensor) -> Tensor:
    params = only(subject.params, rows)
    widths, opacities = params["scales"].amax(dim=1).exp(), params["opacities"].sigmoid()
    found = islands(params["means"].double().numpy(), widths.double().numpy(), opacities.double().numpy(), least)
    return torch.from_numpy(found)
