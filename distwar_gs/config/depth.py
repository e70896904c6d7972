"""The settings of what is known of depth: a section of its own (see distwar_gs.config.schema)."""

from dataclasses import dataclass

from distwar_gs.config.rules import A_SHARE, at_least, one_of, setting


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """What is known of depth beside the photos, as a part of the loss (docs/depth.md)."""

    weight: float = setting(0.0, at_least(0))
    """Weight in the loss, at the first step, of how far the rendered depth is from the depth of the scene's points in
    each photo, as a share of it; for few photos. 0: no such part."""
    weight_final: float = setting(0.1, A_SHARE)
    """What the weights fall to by the end of the run, exponentially, as a share of what they were."""
    maps: str | None = setting(None)
    """Folder with a depth map for each photo, as a.png or a.npy for a.jpg (16-bit PNG, NPY; 0 and what is not finite is
    unknown); a relative path starts in the scene's folder. Photos without a map go without. null: no maps."""
    maps_weight: float = setting(0.1, at_least(0))
    """Weight of the maps in the loss, at the first step. Only used with depth.maps."""
    maps_kind: str = setting("inverse", one_of("metric", "inverse"))
    """metric: maps hold depth along the camera's axis. inverse: one over it, as networks tell it, up to a scale and a
    shift for each photo, which are fitted at each step."""
    normals: str | None = setting(None)
    """Folder with a normal map for each photo, named as depth maps are (RGB PNG, or NPY of vectors), in the axes of the
    camera. null: none."""
    normals_weight: float = setting(0.05, at_least(0))
    """Weight of the normals in the loss, at the first step. Only used with depth.normals."""
    normals_axes: str = setting("opengl", one_of("opengl", "opencv"))
    """Of the normal maps. opengl: x right, y up, z towards the camera, so that what faces it is light blue, as most
    networks tell them. opencv: x right, y down, z away from it."""
    maps_scale: float = setting(1.0, at_least(1e-12))
    """What the numbers of metric maps are multiplied by to be in the units of the poses: 0.001 for millimetres, say."""
