"""Which lens model the photos of a camera call for: as few parameters as describe photos held out of the fit.

Mapping begins with START: one focal length and one radial term. Others are fitted to the same observations. One with
more parameters is taken only if it lowers the error of photos that had no part in the fit (calibration.py): by at least
LEAST_GAIN and, by a paired t-test over the photos, not by chance. Implausible intrinsics (camera_models.py) must lower
it by LEAST_GAIN_OF_ODD: upright photos from around an object, for example, leave the ratio of fx and fy almost open, so
that small systematic errors decide it (Sturm, Critical motion sequences for monocular self-calibration, CVPR 1997).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pycolmap
from scipy.special import stdtr

from distwar_gs.capture.calibration import (
    Fit,
    Sightings,
    fit,
    folds_of,
    held_out,
    noise_of,
    posed,
    residuals,
    sightings_of,
)  # fmt: skip
from distwar_gs.capture.camera_models import converted, oddities

START = "SIMPLE_RADIAL"
"""Lens model that mapping begins with."""
CANDIDATES = (
    "SIMPLE_PINHOLE", START, "PINHOLE", "RADIAL", "OPENCV", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE",
)  # fmt: skip
"""In the order in which they are tried; a fisheye model with one or two terms can stand for other lenses as well, so
it comes after them."""
CENTER_BEFORE = "OPENCV"
"""Before this one, and at the end, the principal point is tried: tangential terms can stand for it, less well."""
LEAST_PHOTOS = 5
"""Of a camera, for a choice; fewer keep the model that they were placed with."""
LEAST_GAIN = 0.01
"""Of the error in pixels, for which a model with more parameters is taken."""
LEAST_GAIN_OF_ODD = 0.1
"""The same for one with implausible intrinsics."""
MOST_SHOWN = 3
"""Of the models that describe held-out photos less well."""
CONFIDENCE = 0.975
"""That a gain is none by chance: two standard errors."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One lens model, fitted."""

    lens: str
    """COLMAP's name."""
    principal_point: bool
    """Whether it was free."""
    camera: pycolmap.Camera
    inside: float
    """Noise of the observations that it was fitted to, in pixels per coordinate."""
    outside: np.ndarray | None
    """Residuals of held-out observations in pixels, float64 [M], NaN for those that do not judge; None: not looked at,
    since even the observations it was fitted to are not described better."""
    oddities: dict[str, str]
    """What is implausible about it (camera_models.py)."""

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.lens} + principal point" if self.principal_point else self.lens


@dataclass(frozen=True, eq=False)
class Choice:
    """The lens of a camera, and why."""

    camera: pycolmap.Camera
    photos: int
    principal_point: bool
    """Whether it is to be free."""
    reason: str
    """A sentence without its subject."""
    kept: bool = False
    """Whether the photos do not allow a choice, so that the camera is as it was."""
    errors: dict[str, float] = field(default_factory=dict)
    """Of held-out observations, in pixels, by the labels of trials."""


def choose(
    model: pycolmap.Reconstruction, camera_id: int, threads: int = -1, tick: Callable[[], None] = lambda: None
) -> Choice:
    """The lens model for a camera of a model, and its intrinsics. `tick` is called before every fit, and may raise.

    The model is not changed.
    """
    current = model.cameras[camera_id]
    photos = sum(image.has_pose and image.camera_id == camera_id for image in model.images.values())
    seen = sightings_of(model, camera_id)
    judging = sum(len(np.unique(seen.photo[held_out(seen, fold)])) for fold in folds_of(seen))
    if judging < LEAST_PHOTOS:
        reason = f"kept: {judging} photos that share enough points are too few to judge a lens by"
        return Choice(pycolmap.Camera(current.todict()), photos, False, reason, kept=True)
    return _Search(seen, current, threads, tick).choice(photos)


class _Search:
    """The trials of one camera."""

    def __init__(self, seen: Sightings, camera: pycolmap.Camera, threads: int, tick: Callable[[], None]) -> None:
        self.seen, self.camera, self.threads, self.tick = seen, camera, threads, tick
        self.everything = np.arange(len(seen.photo))
        self.trials: list[Trial] = []
        start = Fit(camera, seen.poses, seen.points)
        self.noise = noise_of(residuals(seen, start, self.everything))

    def choice(self, photos: int) -> Choice:
        """Try all, ascending."""
        best = self.first()
        if best is None:
            reason = "kept: no lens model could be fitted to its photos"
            return Choice(pycolmap.Camera(self.camera.todict()), photos, False, reason, kept=True)
        for lens in CANDIDATES[2:]:
            if lens == CENTER_BEFORE:
                best = self.with_center(best)
            best = self.better(best, self.trial(lens, best.principal_point, best))
        best = self.without_center(self.with_center(best))
        errors = {each.label: self.error(each) for each in self.trials if each.outside is not None}
        camera = pycolmap.Camera(best.camera.todict())
        camera.camera_id = self.camera.camera_id
        return Choice(camera, photos, best.principal_point, self.reason(best, errors), errors=errors)

    def first(self) -> Trial | None:
        """A pinhole, unless one radial term describes held-out photos better, and can be undistorted."""
        pinhole, start = (self.trial(lens, False, None) for lens in CANDIDATES[:2])
        if start is None or pinhole is None:
            return start or pinhole
        return pinhole if "folds" in start.oddities or self.gain(pinhole, start) < LEAST_GAIN else start

    def with_center(self, best: Trial) -> Trial:
        """The same with a free principal point, if that is better; then fewer other parameters may do, since these can
        have stood for it."""
        if best.principal_point:
            return best
        before, best = best, self.better(best, self.trial(best.lens, True, best))
        if best is before:
            return best
        for lens in CANDIDATES[: CANDIDATES.index(best.lens)]:
            other = self.trial(lens, True, None)
            if other and not other.oddities.keys() - best.oddities.keys() and self.gain(other, best) < LEAST_GAIN:
                return other
        return best

    def without_center(self, best: Trial) -> Trial:
        """The same with the principal point at the centre, if that is as good: it can have stood for other terms."""
        other = self.trial(best.lens, False, None) if best.principal_point else None
        return other if other and "folds" not in other.oddities and self.gain(other, best) < LEAST_GAIN else best

    def trial(self, lens: str, principal_point: bool, best: Trial | None) -> Trial | None:
        """Fit a lens to all photos, and, if that describes them better than `best` does, without each fold in turn.

        None when it cannot be fitted.
        """
        origin = best.camera if best and best.lens == lens else self.camera
        start = Fit(converted(origin, lens), self.seen.poses, self.seen.points)
        try:
            whole, inside = self.settled(start, principal_point)
            outside = None
            if best is None or inside < (1.0 - LEAST_GAIN / 2) * best.inside:
                outside = self.predicted(whole, inside, principal_point)
        except (RuntimeError, ValueError):  # of pycolmap: a fit that diverged
            return None
        made = Trial(lens, principal_point, whole.camera, inside, outside, oddities(whole.camera))
        self.trials.append(made)
        return made

    def settled(self, start: Fit, principal_point: bool) -> tuple[Fit, float]:
        """A fit, and the noise by which its loss is scaled: first what the model began with, then its own."""
        scale, found = self.noise, start
        for _ in range(2):
            self.tick()
            found = fit(self.seen, found, 2.0 * scale, None, principal_point, self.threads)
            scale = noise_of(residuals(self.seen, found, self.everything))
        return found, scale

    def predicted(self, whole: Fit, scale: float, principal_point: bool) -> np.ndarray:
        """Residuals of every photo's observations by the fit without its fold, [M]; NaN: not judged."""
        outside = np.full(len(self.everything), np.nan)
        for fold in folds_of(self.seen):
            self.tick()
            others = np.ones(len(self.seen.poses), dtype=bool)
            others[fold] = False
            found = fit(self.seen, whole, 2.0 * scale, others, principal_point, self.threads)
            judged = held_out(self.seen, fold)
            outside[judged] = residuals(self.seen, posed(self.seen, found, judged, 2.0 * scale), judged)
        return outside

    def better(self, best: Trial, other: Trial | None) -> Trial:
        """The other, if held-out photos speak for it and it can be undistorted; else `best`."""
        if other is None or other.outside is None or "folds" in other.oddities:
            return best
        least = LEAST_GAIN_OF_ODD if other.oddities.keys() - best.oddities.keys() else LEAST_GAIN
        certain = _chance(self.costs(best) - self.costs(other)) < 1.0 - CONFIDENCE
        return other if certain and self.gain(best, other) >= least else best

    def gain(self, one: Trial, other: Trial) -> float:
        """How much smaller the error of the other is, as a share."""
        return 1.0 - self.error(other) / self.error(one)

    def error(self, trial: Trial) -> float:
        """Of held-out observations, in pixels: the root of their mean square, but that wrong matches count little."""
        return float(self.scale * np.sqrt(np.expm1(self.costs(trial).mean())))

    def costs(self, trial: Trial) -> np.ndarray:
        """Mean Cauchy loss of each photo that is judged."""
        assert trial.outside is not None
        judged = ~np.isnan(trial.outside)
        losses = np.log1p((np.minimum(trial.outside[judged], 1e6) / self.scale) ** 2)
        photo = self.seen.photo[judged]
        return np.bincount(photo, losses)[np.unique(photo)] / np.bincount(photo)[np.unique(photo)]

    @property
    def scale(self) -> float:
        """Noise of held-out observations by the trial that describes them best."""
        outside = (each.outside for each in self.trials if each.outside is not None)
        return min(noise_of(each[~np.isnan(each)]) for each in outside)

    def reason(self, best: Trial, errors: dict[str, float]) -> str:
        """Why this one."""
        fewer = [label for label in errors if errors[label] * (1.0 - LEAST_GAIN) > errors[best.label]]
        rest = [each for each in self.trials if each is not best and each.label not in fewer]
        unusable = [each.label for each in rest if "folds" in each.oddities and each.label in errors]
        more = dict.fromkeys(each.label for each in rest if each.label not in (best.label, *unusable))
        said = f"error on held-out photos {errors[best.label]:.2f} px"
        if fewer:
            shown = sorted(fewer, key=lambda label: errors[label])[:MOST_SHOWN]
            said += "; " + ", ".join(f"{label} {errors[label]:.2f}" for label in shown)
        if more:
            shown = [f"{label} {errors[label]:.2f}" if label in errors else label for label in more]
            said += f"; no reliable gain from {', '.join(shown)}"
        if unusable:
            shown = [f"{label} {errors[label]:.2f}" for label in unusable]
            said += f"; no pinhole image can be made with {', '.join(shown)}"
        if best.oddities:
            said += f"; in spite of: {', '.join(best.oddities.values())}"
        return said


def _chance(gains: np.ndarray) -> float:
    """Probability of gains [K] like these or larger where there are none on average (Student's t-test, one-sided)."""
    deviation = gains.std(ddof=1) / np.sqrt(len(gains))
    return float(stdtr(len(gains) - 1, -gains.mean() / max(deviation, 1e-12)))
