"""Global mapping: all poses at once (GLOMAP, Pan et al. 2024), in place of one photo after the other.

COLMAP's function for it takes no token to cancel it, so it runs in a process of its own, which an interruption ends:

    python -m distwar_gs.capture.global_mapping DATABASE PHOTOS MODELS LOGS THREADS
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pycolmap

from distwar_gs.capture.features import staged_photos
from distwar_gs.capture.work import Work
from distwar_gs.system.progress import progress

_LOOK_S = 0.2


def map_globally(work: Work, folder: Path) -> None:
    """Writes models into `folder`, as COLMAP numbers them. Raises RuntimeError where COLMAP fails."""
    places = [str(path.absolute()) for path in (work.database, work.images, folder, work.folder)]
    command = [sys.executable, "-m", __name__, *places, str(work.threads)]
    root = str(Path(__file__).resolve().parents[2])
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=around, start_new_session=True, **pipes) as process:
        try:
            with progress(total=len(staged_photos(work)), unit="camera", desc="cameras") as bar:
                while process.poll() is None:
                    _wait(process)
                bar.update(bar.total or 0)
        finally:
            process.kill()  # it has ended, or is not to go on
        said = process.stdout.read().strip() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(said.splitlines()[-1] if said else f"it ended with code {process.returncode}")


def _wait(process: subprocess.Popen) -> None:
    try:
        process.wait(_LOOK_S)
    except subprocess.TimeoutExpired:
        return


def pipeline_options(threads: int) -> Any:
    """COLMAP's, for a run."""
    options = pycolmap.GlobalPipelineOptions(num_threads=threads, random_seed=0)
    options.mapper.random_seed = options.mapper.global_positioning.random_seed = 0
    return options


def main(database: str, images: str, models: str, logs: str, threads: str) -> int:
    """In the process: focal lengths from pairs of photos, then the mapping. Prints why it failed; the exit code."""
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.stderrthreshold = pycolmap.logging.Level.FATAL.value
    pycolmap.logging.set_log_destination(pycolmap.logging.Level.INFO, f"{logs}/colmap.log.")
    try:
        pycolmap.calibrate_view_graph(database)
        pycolmap.global_mapping(database, images, models, pipeline_options(int(threads)))
    except (RuntimeError, ValueError) as error:  # what pycolmap raises
        print((str(error).strip() or type(error).__name__).splitlines()[0])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
