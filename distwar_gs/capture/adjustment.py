"""Bundle adjustment of a whole COLMAP model, that can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pycolmap

AT_ONCE = 10
"""Iterations between two looks at whether to stop."""


def adjust(
    model: pycolmap.Reconstruction, options: pycolmap.BundleAdjustmentOptions, iterations: int,
    fixed_cameras: Iterable[int] = (), tick: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Improve poses, points and intrinsics of a model in place; the intrinsics of `fixed_cameras` stay.

    At most so many iterations; `tick` is called before every AT_ONCE of them, and may raise. Raises RuntimeError when
    no solution is found. (Not by `pycolmap.bundle_adjustment`: 4.2.1 turns COLMAP's messages on stderr on for good.)
    """
    options.print_summary = False
    options.ceres.solver_options.max_num_iterations = AT_ONCE
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    for number in fixed_cameras:
        config.set_constant_cam_intrinsics(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    for _ in range(0, iterations, AT_ONCE):
        tick()
        summary = pycolmap.create_default_bundle_adjuster(options, config, model).solve()
        if not summary.is_solution_usable():
            raise RuntimeError("bundle adjustment found no solution")
        if summary.termination_type == pycolmap.BundleAdjustmentTerminationType.CONVERGENCE:
            break
