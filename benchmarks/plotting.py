"""What the scripts that draw share. matplotlib is no requirement of the project: it is asked for before any work."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distwar_gs.config import ConfigError


def check_plot(path: Path | None, flag: str = "--plot") -> None:
    """Raises ConfigError if a plot is asked for that cannot be drawn: before anything is measured, not after."""
    if path and path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{flag} {path}: a picture is a .png, .svg or .pdf")
    if path and find_spec("matplotlib") is None:
        raise ConfigError(f"{flag} needs matplotlib: pip install matplotlib")


def panels(count: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure and `count` axes side by side, each of `size` inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    width, height = size
    figure, axes = pyplot.subplots(1, count, figsize=(count * width, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def save_plot(figure: Any, path: Path) -> None:
    """Writes the figure, and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"plot: {path}")
