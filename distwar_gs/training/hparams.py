"""TensorBoard's page HPARAMS, on which runs are compared: their settings beside what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard.summary import hparams

from distwar_gs.config import Config, as_values

METRICS = ("eval/psnr", "eval/ssim", "eval/lpips", "gaussians/count", "train/loss", "time/iteration_ms",
           "reduction/atomics_per_view")  # fmt: skip
"""Scalars that the page shows, by the tags under which a run writes them."""

_SECTIONS = ("model.", "optim.", "densification.", "reduction.")
_OTHERS = ("data.resolution", "data.background", "train.iterations", "train.seed", "train.rasterizer", "train.device")


def session(config: Config) -> tuple[Any, Any, Any]:
    """Summaries for an event file: what the page is of, the settings of this run (both to be written at its begin),
    and that it has ended."""
    values = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in as_values(config).items()
        if key in _OTHERS or key.startswith(_SECTIONS)
    }
    scene = Path(config.data.source_path or "").name
    return hparams({"scene": scene, **values}, dict.fromkeys(METRICS, 0.0))
