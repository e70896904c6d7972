"""DISTWAR's gradient kernels for Gaussian splatting, and the ops around them.

Importing builds nothing; a backend's kernels are built when an op first meets a tensor on it.
"""

from distwar_kernels.blend.blend import rasterize_to_pixels
from distwar_kernels.blend.traffic import atomic_traffic
from distwar_kernels.cameras import MODELS, Cameras
from distwar_kernels.errors import KernelError
from distwar_kernels.noise.noise import add_noise
from distwar_kernels.photometric.photometric import (
    composite,
    photometric_errors,
    photometric_gradient,
    photometric_loss,
)
from distwar_kernels.projection.around import Around, around
from distwar_kernels.projection.projection import Projection, project_gaussians
from distwar_kernels.reduction import STRATEGIES, Reduction
from distwar_kernels.sh.sh import spherical_harmonics
from distwar_kernels.spheres.spheres import render_spheres, sphere_traffic
from distwar_kernels.tiles.tiles import intersect_tiles, tile_grid
from distwar_kernels.traffic import AtomicTraffic
from distwar_kernels.tuner import ReductionTuner, TuningRound, resolve, tuner_of

__all__ = [
    "MODELS",
    "STRATEGIES",
    "Around",
    "AtomicTraffic",
    "Cameras",
    "KernelError",
    "Projection",
    "Reduction",
    "ReductionTuner",
    "TuningRound",
    "add_noise",
    "around",
    "atomic_traffic",
    "composite",
    "intersect_tiles",
    "photometric_errors",
    "photometric_gradient",
    "photometric_loss",
    "project_gaussians",
    "rasterize_to_pixels",
    "render_spheres",
    "resolve",
    "sphere_traffic",
    "spherical_harmonics",
    "tile_grid",
    "tuner_of",
]
