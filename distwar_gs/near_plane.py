"""Where drawing begins before a camera: by what the cameras of a scene see, not by how far they are spread."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distwar_gs.config import Config, with_values
from distwar_gs.random_start import scene_distances

if TYPE_CHECKING:
    from datasets import Scene

KEY = "model.near_plane"
SHARE = 0.08
"""Of the depth at which the nearest things begin: what stands there is drawn even where Gaussians reach far out of it,
and what is much nearer is a floater. On orbits around an object this comes to 0.02 to 0.04 scene extents."""
OF_EXTENT = 0.03
"""In scene extents, where no points tell depths: about what REFERENCE is in the units that COLMAP leaves a scene in."""
REFERENCE = 0.2
"""In units of the input: where the 3DGS reference begins to draw (cuda_rasterizer/auxiliary.h, in_frustum)."""
_CLEAR = 0.5  # of the depth of the nearest things: REFERENCE must not reach farther than that


def with_near_plane(config: Config, scene: "Scene", saved: Mapping[str, Any] | None = None) -> Config:
    """`config` with a number for `model.near_plane`: its own, else that of the run to continue, whose `saved` values
    are keyed "section.name", else by the depths of what the cameras of `scene` see."""
    if config.model.near_plane is not None:
        return config
    return with_values(config, {KEY: (saved or {}).get(KEY) or _near_plane(scene)})


def _near_plane(scene: "Scene") -> float:
    """In scene extents. Without points, and with cameras that do not look at one place, things may be as near as the
    overlap of the photos allows."""
    if scene.nearest is not None:
        return SHARE * scene.nearest / scene.extent
    nearest, _ = scene_distances(scene.train, scene.extent)
    return min(OF_EXTENT, SHARE * nearest / scene.extent)


def with_reference_near_plane(config: Config, scene: "Scene") -> Config:
    """As `with_near_plane`, for a model that another program may have trained: the reference's near plane, unless the
    cameras see things that near."""
    near = REFERENCE * scene.normalisation.scale
    nearest = scene.extent if scene.nearest is None else scene.nearest
    if config.model.near_plane is not None or near > _CLEAR * nearest:
        return with_near_plane(config, scene)
    return with_values(config, {KEY: near / scene.extent})
