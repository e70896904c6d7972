"""The section `log` of the settings: what a run tells. See distwar_gs.config.schema, which has the others."""

from dataclasses import dataclass

from distwar_gs.config.rules import at_least, between, setting


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What the run tells while it runs."""

    every: int = setting(100, at_least(1))
    """Steps between two points of the TensorBoard curves; the parts of a step are timed on those steps only."""
    images: int = setting(2, at_least(0))
    """Test images shown in TensorBoard at each evaluation. Only used when log.tensorboard is on."""
    flip: bool = setting(False)
    """Measure FLIP beside PSNR and SSIM, where the package flip-evaluator is installed (requirements-optional.txt). On
    the CPU, about 1.5 s a megapixel, which does not count as time of training."""
    colour_fit: bool = setting(False)
    """Measure PSNR, SSIM and LPIPS also after a fit of each test view's colours to its photo's (docs/appearance.md).
    Always done where appearance.model is not none."""
    align_poses: bool = setting(False)
    """Measure PSNR, SSIM and LPIPS also after the pose of each test view was fitted to its photo, the model as it is
    (docs/poses.md); a hundred renders and their gradients for each. Always done where poses.refine is on."""
    quiet: bool = setting(False)
    """No progress bar; warnings and errors still appear."""
    report: bool = setting(True)
    """Write report.html into the run folder at the end: numbers, curves, pictures, and the model itself. curves.jsonl
    keeps what its curves show meanwhile."""
    tensorboard: bool = setting(True)
    """Write TensorBoard event files into the run folder."""
    viewer: int | None = setting(None, between(0, 65_535, "a port; 0: any that is free"))
    """Port of the live viewer, a page that shows the model while it trains (docs/viewer.md); null: no viewer."""
    viewer_host: str = setting("127.0.0.1")
    """Address that the viewer listens on; 0.0.0.0: on all, and whoever reaches it can steer the run."""
    viewer_fps: float = setting(10.0, between(0.1, 60))
    """Pictures a second that the viewer takes from a training, at most, for all who watch; and half of its time."""
    timelapse: int | None = setting(None, between(2, 100_000, "frames of a video"))
    """Frames of timelapse.mp4, a film of the model while it trains (docs/films.md); null: no film. More of them show
    the beginning, when most changes; a run of fewer steps has a frame for each."""
    timelapse_path: str | None = setting(None)
    """Camera of the film: ellipse, interpolate, or a file of poses as render.py --path takes them; null: the first test
    view. Only used with log.timelapse."""
