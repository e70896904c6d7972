"""Measuring rendered images against held-out photos: one evaluator for training and rendering alike.

Published numbers for one scene differ by half a decibel between protocols, so every number is stored with the protocol
it was measured by. What is measured is the 8-bit image, as a saved PNG holds it.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from distwar_gs.evaluation.color_fit import NAME as FIT_NAME
from distwar_gs.evaluation.color_fit import PROTOCOL as FIT_PROTOCOL
from distwar_gs.evaluation.color_fit import SUFFIX, fitted
from distwar_gs.evaluation.flip import PROTOCOL as FLIP_PROTOCOL
from distwar_gs.evaluation.flip import flip_measure
from distwar_gs.evaluation.losses import WINDOW_SIGMA, WINDOW_SIZE, masked_ssim, ssim, without_ignored
from distwar_gs.evaluation.lpips import MIN_SIZE as LPIPS_MIN_SIZE
from distwar_gs.evaluation.lpips import PROTOCOL as LPIPS_PROTOCOL
from distwar_gs.evaluation.lpips import lpips_vgg
from distwar_gs.system.files import check_regular, replacing

if TYPE_CHECKING:
    from distwar_datasets.scene import Scene, View

log = logging.getLogger(__name__)

PSNR_LIMIT = 100.0
"""dB; what equal images get instead of infinity, which JSON does not know."""

MEASURES = {
    "rounding": "render clamped to [0, 1] and rounded to 8 bits before measuring",
    "psnr": "peak 1, one mean squared error over all pixels and channels of a view, then the mean over the views",
    "ssim": f"{WINDOW_SIZE}x{WINDOW_SIZE} Gaussian window of sigma {WINDOW_SIGMA}, zero padding, per channel, "
    "then the mean over the views",
    "lpips": "not computed",
    "flip": "not computed",
}
"""How the numbers of this module are made; "lpips" where its parts are missing, "flip" where it is not asked for."""

FITTED = ("psnr", "ssim", "lpips")
"""What is measured a second time, after a fit of colours, where that is asked for."""

ALIGNED_NAME = "aligned"
"""Of the protocol; and, after an underscore, the ending of the names of what is measured so."""
ALIGNED = f"_{ALIGNED_NAME}"
ALIGNED_PROTOCOL = (
    "names with this ending are measured after the camera pose of each view (rotation and position) was fitted to its "
    "photo by the training loss, the model as it is; not comparable with numbers from poses as they are"
)

UNFITTED = ("psnr", "ssim", "lpips", "flip")
NUMBERS = (*UNFITTED, *(name + ending for ending in (SUFFIX, ALIGNED) for name in FITTED))
"""What a view may have."""


class Images(Protocol):
    """Photos [H, W, 3] uint8, made when asked for: a list or an ImageStore."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


Measure = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Image and photo [H, W, 3] in [0, 1], and which pixels count, bool [H, W] (None: all), to a scalar."""


@dataclass(frozen=True)
class ViewMetrics:
    """One view: PSNR in dB, SSIM, and LPIPS and FLIP if they were measured; the same after fits of colours, poses."""

    name: str
    psnr: float
    ssim: float
    lpips: float | None = None
    flip: float | None = None
    psnr_colour_fit: float | None = None
    ssim_colour_fit: float | None = None
    lpips_colour_fit: float | None = None
    psnr_aligned: float | None = None
    ssim_aligned: float | None = None
    lpips_aligned: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """All views of a split, in order, and by which protocol they were measured."""

    views: tuple[ViewMetrics, ...]
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def psnr(self) -> float:
        """Mean over the views, dB."""
        return sum(view.psnr for view in self.views) / len(self.views)

    @property
    def ssim(self) -> float:
        """Mean over the views."""
        return sum(view.ssim for view in self.views) / len(self.views)

    @property
    def lpips(self) -> float | None:
        """Mean over the views, VGG; None if it was not measured."""
        return _mean_of([view.lpips for view in self.views])

    @property
    def flip(self) -> float | None:
        """Mean over the views; None if it was not measured."""
        return _mean_of([view.flip for view in self.views])

    @property
    def numbers(self) -> dict[str, float | None]:
        """The means of all `NUMBERS`; of those after a fit, only where they were measured."""
        means = {name: _mean_of([getattr(view, name) for view in self.views]) for name in NUMBERS}
        return {name: mean for name, mean in means.items() if mean is not None or name in UNFITTED}

    def words(self) -> str:
        """The means for the log: PSNR, SSIM, those after fits in brackets where they were measured."""
        numbers, text = self.numbers, f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}"
        for ending, of_what in ((SUFFIX, "colours"), (ALIGNED, "poses")):
            psnr, ssim = (numbers.get(name + ending) for name in ("psnr", "ssim"))
            text += "" if psnr is None else f" (after a fit of {of_what} {psnr:.2f} dB, {ssim:.4f})"
        return text


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def psnr(image: Tensor, target: Tensor, kept: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of two images of equal shape in [0, 1]: a scalar in dB, at most `PSNR_LIMIT`.

    With `kept` (bool, without the channels) over the pixels where it is True; there must be one.
    """
    squares = (image - target).square()
    if kept is None:
        error = squares.mean()
    else:  # sums, because picking pixels would make the host wait for the GPU
        error = torch.where(kept[..., None], squares, 0.0).sum() / (kept.sum() * squares.shape[-1])
    return -10.0 * torch.log10(error.clamp_min(10.0 ** (-PSNR_LIMIT / 10.0)))


def to_8bit(image: Tensor) -> Tensor:
    """A float image, nominally in [0, 1], as uint8 of the same shape: clamped, halves rounded up, NaN as black."""
    return image.nan_to_num(nan=0.0).clamp(0.0, 1.0).mul(255.0).add(0.5).to(torch.uint8)


def data_protocol(scene: "Scene", background: str) -> dict[str, Any]:
    """The part of the protocol that the data decide: where the images come from, what is behind them, the split.

    Args:
        scene: what was loaded.
        background: the setting data.background; black is measured where training draws a new colour at every step.
    """
    color = "white" if background == "white" else "black"
    behind = f"{color} behind the Gaussians and"
    if background == "learned":
        behind = "a learned sky behind the Gaussians, black behind"
    return {
        "image_source": scene.image_source,
        "background": f"{behind} images with alpha",
        "split_rule": scene.split_rule,
    }


@torch.no_grad()
def evaluate(
    render: Callable[["View"], Tensor],
    images: "Images",
    views: Sequence["View"],
    protocol: Mapping[str, Any],
    observe: Callable[["View", Tensor, Tensor], None] | None = None,
    mask_of: Callable[[int], Tensor | None] | None = None,
    with_flip: bool = False,
    with_color_fit: bool = False,
    aligned: Callable[["View", Tensor, Tensor | None], Tensor] | None = None,
) -> Evaluation:
    """Render every view and measure it; LPIPS too where its parts are installed (distwar_gs.evaluation.lpips).

    Args:
        render: a view to its image [H, W, 3], float.
        images: the photos, uint8 [H, W, 3], one for each view (any sequence: an ImageStore).
        views: what to render.
        protocol: what the caller knows of the data (see `data_protocol`); how it is measured is added here.
        observe: called with each view, its 8-bit render and its photo, to save or show them without rendering again.
        mask_of: by index, which pixels count, bool [H, W] (None: all); an ImageStore's `mask`.
        with_flip: measure FLIP too, where its package is installed (distwar_gs.evaluation.flip).
        with_color_fit: measure `FITTED` a second time, after a fit of colours (distwar_gs.evaluation.color_fit).
        aligned: renders a view from a pose that is fitted to its photo, uint8, where the mask (None: all) keeps it
            (distwar_gs.adjust.aligning); `FITTED` are measured of it, too.

    Raises:
        ValueError: no views, not as many images as views, or a render of another size than its photo.
    """
    if not views or len(images) != len(views):
        raise ValueError(f"nothing to evaluate: {len(views)} views and {len(images)} images")
    measured, ignored, pixels, measures = list[dict[str, Tensor]](), 0, 0, dict[str, Measure]()
    for index, view in enumerate(views):
        render8, photo = to_8bit(render(view)), images[index]
        if render8.shape != photo.shape:
            raise ValueError(f"{view.name}: rendered as {[*render8.shape]}, the photo is {[*photo.shape]}")
        kept = mask_of(index) if mask_of else None
        kept = kept if kept is None else kept.to(render8.device)
        measures = _measures(render8, with_flip, with_color_fit) if index == 0 else measures
        image, target = render8.float() / 255.0, photo.to(render8.device).float() / 255.0
        values = {name: measure(image, target, kept) for name, measure in measures.items()}
        if aligned is not None:
            again = to_8bit(aligned(view, photo, kept)).float() / 255.0
            values |= {name + ALIGNED: measures[name](again, target, kept) for name in FITTED if name in measures}
        measured.append(values)
        ignored += 0 if kept is None else int((~kept).sum())
        pixels += photo.shape[0] * photo.shape[1]
        if observe is not None:
            observe(view, render8, photo)
    numbers = torch.stack([torch.stack([*row.values()]) for row in measured]).tolist()  # but for FLIP the only wait
    rows = (dict(zip(measured[0], row, strict=True)) for row in numbers)
    results = (ViewMetrics(view.name, **row) for view, row in zip(views, rows, strict=True))
    how = MEASURES | {name: text for name, text in _OPTIONAL.items() if name in measures}
    how |= {FIT_NAME: FIT_PROTOCOL} if with_color_fit else {}
    how |= {ALIGNED_NAME: ALIGNED_PROTOCOL} if aligned is not None else {}
    return Evaluation(tuple(results), {**protocol, **how, "masks": _mask_protocol(ignored / pixels)})


_OPTIONAL = {"lpips": LPIPS_PROTOCOL, "flip": FLIP_PROTOCOL}


def _measures(image8: Tensor, with_flip: bool, with_color_fit: bool) -> dict[str, Measure]:
    """What is measured of each view, in the order of `NUMBERS`: LPIPS where its parts are installed and images are
    large enough for it, FLIP where it is asked for and its package is installed, fits of colours where asked for."""
    lpips = lpips_vgg(image8.device) if min(image8.shape[:2]) >= LPIPS_MIN_SIZE else None

    def lpips_of_kept(image: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        assert lpips is not None
        return lpips(*((image, target) if kept is None else without_ignored(image, target, kept)))

    measures = {"psnr": psnr, "ssim": _ssim, "lpips": lpips and lpips_of_kept, "flip": with_flip and flip_measure()}
    found = {name: measure for name, measure in measures.items() if measure}
    return found | (
        {name + SUFFIX: _after_fit(found[name]) for name in FITTED if name in found} if with_color_fit else {}
    )


def _after_fit(measure: Measure) -> Measure:
    return lambda image, target, kept: measure(fitted(image, target, kept), target, kept)


def _ssim(image: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
    return ssim(image, target) if kept is None else masked_ssim(image, target, kept)


def _mask_protocol(share: float) -> str:
    if share == 0.0:
        return "none"
    return (
        f"{100.0 * share:.2f} % of the pixels are ignored: left out of PSNR's mean and of the mean over SSIM's map "
        "(and FLIP's), black in both images before SSIM's window (and FLIP, and LPIPS)"
    )


def append_metrics(
    path: Path, step: int, split: str, evaluation: Evaluation, extra: Mapping[str, Any] | None = None
) -> None:
    """Add an evaluation to the list of records in `metrics.json`, each complete with its protocol.

    A record of the same step, split and protocol is replaced, so that a resumed run does not list a step twice. A file
    that cannot be read is set aside with a warning rather than stopping a run that has just finished.

    Args:
        path: the file; made if missing.
        step: training steps of the model.
        split: "test" or "train".
        evaluation: from `evaluate`.
        extra: further numbers of the record (count of Gaussians, seconds), JSON values.
    """
    same = (step, split, evaluation.protocol)
    records = [old for old in _read_records(path) if (old.get("step"), old.get("split"), old.get("protocol")) != same]
    per_view = [{name: value for name, value in vars(view).items() if value is not None} for view in evaluation.views]
    tail = {"protocol": evaluation.protocol, "per_view": per_view}
    records.append(
        {"step": step, "split": split, **evaluation.numbers, "views": len(per_view), **(extra or {}), **tail}
    )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def is_measured(path: Path, step: int, split: str) -> bool:
    """Whether `metrics.json` has a record of this step and split, under any protocol."""
    return any((record.get("step"), record.get("split")) == (step, split) for record in _read_records(path))


def _read_records(path: Path) -> list[dict[str, Any]]:
    """The records of an earlier session; none if there is no file, or not one of ours."""
    if not path.exists():
        return []
    try:
        check_regular(path)
        records = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(records, list) and all(isinstance(record, dict) for record in records):
            return records
    except (OSError, ValueError, RecursionError):  # not JSON, not text, not even a file
        pass
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    log.warning("%s is not a list of metrics; kept as %s, a new one is begun", path, aside.name)
    return []
