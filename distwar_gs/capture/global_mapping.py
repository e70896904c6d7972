"""Global mapping: all poses at once (GLOMAP, Pan et al. 2024), in place of one photo after the other.

COLMAP's function for it takes no token to cancel it, so it runs in a process of its own, which an interruption ends.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pycolmap

from distwar_gs.capture.features import staged_photos
from distwar_gs.capture.work import Work
from distwar_gs.system.progress import progress

_LOOK_S = 0.2


def map_globally(work: Work, folder: Path) -> None:
    """Writes models into `folder`, as COLMAP numbers them. Raises RuntimeError where COLMAP fails."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    arguments = (sender, work.database, work.images, folder, work.threads, work.folder)
    process = multiprocessing.get_context("spawn").Process(target=_map, args=arguments, daemon=True)
    process.start()
    sender.close()
    try:
        with progress(total=len(staged_photos(work)), unit="camera", desc="cameras") as bar:
            while process.is_alive():
                process.join(_LOOK_S)
            bar.update(bar.total or 0)
    finally:
        process.kill()  # it has ended, or is not to go on
        process.join()
    try:
        problem = receiver.recv()
    except EOFError:
        problem = f"it ended with code {process.exitcode}"
    if problem:
        raise RuntimeError(problem)


def _map(sender: Connection, database: Path, images: Path, folder: Path, threads: int, log: Path) -> None:
    """In the process: focal lengths from pairs of photos, then the mapping. Sends why it failed, or nothing."""
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.stderrthreshold = pycolmap.logging.Level.FATAL.value
    pycolmap.logging.set_log_destination(pycolmap.logging.Level.INFO, log / "colmap.log.")
    try:
        pycolmap.calibrate_view_graph(database)
        pycolmap.global_mapping(database, images, folder, pipeline_options(threads))
        sender.send("")
    except Exception as error:  # what pycolmap raises, and what Python does
        sender.send((str(error).strip() or type(error).__name__).splitlines()[0])


def pipeline_options(threads: int) -> Any:
    """COLMAP's, for a run."""
    options = pycolmap.GlobalPipelineOptions(num_threads=threads, random_seed=0)
    options.mapper.random_seed = options.mapper.global_positioning.random_seed = 0
    return options
