"""What several ranks share out at a step: views, or one view's tiles (train.split)."""

import logging

from distwar_datasets import Scene
from distwar_gs.config import Config, with_values
from distwar_gs.engines.choice import TILES
from distwar_gs.system.parallel import ALONE, Ranks

log = logging.getLogger(__name__)

LARGE = 8_000_000
"""Pixels of a photo above which ranks share out its tiles: a 4K frame has 8.3 million. There a blend takes much longer
than the two exchanges that sharing it costs, and what it leaves for the way back takes a gigabyte."""
MOST_VIEWS = 16
"""Views that a step shows at most: as many as Grendel (Zhao et al. 2025) has GPUs, whose rule for rates this is."""


def with_split(config: Config, scene: Scene, ranks: Ranks) -> Config:
    """The config with a decided `train.split`, where there are several ranks; says it."""
    if ranks.count == 1:
        return config
    largest = max(view.width * view.height for view in scene.train)
    is_tiles = largest > LARGE or ranks.count > MOST_VIEWS
    if config.train.split == "auto":
        config = with_values(config, {"train.split": TILES if is_tiles else "views"})
    if config.train.split == TILES:
        log.info("%d ranks train this model: each step shows one view, of which each has some rows", ranks.count)
    else:
        count = ranks.count
        log.info("%d ranks train this model: a step shows %d views, and counts as so many", count, count)
    return config


def showing(config: Config, ranks: Ranks) -> Ranks:
    """Those that show a view each at a step: this one alone, where all show the same."""
    return ALONE if config.train.split == TILES else ranks
