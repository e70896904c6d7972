"""Which engine makes the steps of a run."""

from collections.abc import Mapping

from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.config import Config
from distwar_gs.engines.base import ComposedEngine, Engine
from distwar_gs.engines.fused_engine import FusedEngine
from distwar_gs.engines.sharded import ShardedComposedEngine
from distwar_gs.engines.sharded_fused import ShardedFusedEngine
from distwar_gs.engines.tiled import TiledComposedEngine
from distwar_gs.engines.tiled_fused import TiledFusedEngine
from distwar_gs.rendering.renderer import FUSED, RenderSettings
from distwar_gs.strategies.base import Strategy
from distwar_gs.system.parallel import Ranks

TILES = "tiles"
"""Of train.split."""


def make_engine(
    config: Config,
    params: dict[str, Parameter],
    optimizers: Mapping[str, Adam],
    strategy: Strategy,
    settings: RenderSettings,
    ranks: Ranks,
) -> Engine:
    """The engine of these settings' rasteriser, for as many ranks as there are; `config.train.split` is decided."""
    run, is_fused = (params, optimizers, strategy, settings), settings.rasterizer == FUSED.name
    if ranks.count > 1 and is_fused:
        fused = TiledFusedEngine if config.train.split == TILES else ShardedFusedEngine
        return fused(*run, ranks, deterministic=config.train.deterministic)
    if ranks.count > 1:
        return (TiledComposedEngine if config.train.split == TILES else ShardedComposedEngine)(*run, ranks)
    if is_fused:
        return FusedEngine(*run, adam=config.optim.adam, deterministic=config.train.deterministic)
    return ComposedEngine(*run)
