"""Measures what a scene larger than memory costs: the memory of a training run, and steps per second with prefetch.

    python benchmarks/bench_images.py
    python benchmarks/bench_images.py --images 500 --budget_gib 1 --train_steps 0

Makes a COLMAP scene of 4-megapixel JPEGs in a temporary folder (all names are links to a few files) and removes it
again. Two things are measured, each in fresh processes. Images alone: steps that only wait, as the host does while a
GPU trains, under the budget, with and without prefetch. Training: `train.py` on the CPU under the budget and under one
of 0 bytes, where no image is kept; the difference of their peaks is what the images took.
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pycolmap
import torch
from PIL import Image

from benchmarks.measuring import print_table
from distwar_datasets import load_scene
from distwar_datasets.pixels.images import ImageStore
from distwar_gs.cli import run_cli
from distwar_gs.training.sampler import ViewSampler

_DISTINCT = 8


@dataclass
class StoreRow:
    """Images alone."""

    images: str
    budget_gib: float
    step_ms: float
    steps_per_second: float
    peak_gib: float
    """Of resident memory, above what the process had before it opened the images."""


@dataclass
class TrainRow:
    """A training run."""

    budget_gib: float
    steps: int
    seconds: float
    peak_gib: float


def main(arguments: Sequence[str]) -> None:
    """Make the scene, measure, print."""
    args = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder) / "scene", args.images, args.width, args.height)
        decoded = args.images * args.width * args.height * 3 / 2**30
        print(f"{args.images} images of {args.width}x{args.height}, {decoded:.2f} GiB decoded, {os.cpu_count()} CPUs")
        modes = (("decoded when needed", False), ("prefetched", True))
        print_table([_in_fresh_process(scene, args, name, prefetch) for name, prefetch in modes])
        if args.train_steps:
            rows = [train(scene, Path(folder) / "run", budget, args.train_steps) for budget in (0.0, args.budget_gib)]
            print_table(rows)
            print(f"images took {rows[1].peak_gib - rows[0].peak_gib:.2f} GiB of {args.budget_gib:g} GiB allowed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, metavar="N")
    parser.add_argument("--width", type=int, default=2308, metavar="PX")
    parser.add_argument("--height", type=int, default=1732, metavar="PX")
    parser.add_argument("--budget_gib", type=float, default=2.0, metavar="X")
    parser.add_argument("--step_ms", type=float, default=50.0, metavar="X", help="length of a step without its image")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="steps to time for images alone")
    parser.add_argument("--train_steps", type=int, default=10, metavar="N", help="steps of train.py; 0: no training")
    return parser


def make_scene(folder: Path, count: int, width: int, height: int) -> Path:
    """A COLMAP scene of `count` cameras on a ring and a thousand points between them."""
    (folder / "images").mkdir(parents=True)
    (folder / "sparse/0").mkdir(parents=True)
    for index in range(min(count, _DISTINCT)):
        Image.fromarray(_photo(width, height, index)).save(folder / f"{index}.jpg", quality=90)
    model, rng = pycolmap.Reconstruction(), np.random.default_rng(0)
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=1, model="PINHOLE", width=width, height=height,
                        params=[width, width, width / 2, height / 2])
    )  # fmt: skip
    for index in range(count):
        name = f"{index:05d}.jpg"
        os.link(folder / f"{index % _DISTINCT}.jpg", folder / "images" / name)
        image = pycolmap.Image(name=name, camera_id=1, image_id=index + 1)
        model.add_image_with_trivial_frame(image, _pose(2.0 * np.pi * index / count))
    for point in rng.uniform(-1, 1, (1000, 3)):
        model.add_point3D(point, pycolmap.Track(), np.full(3, 128, np.uint8))
    model.write_binary(folder / "sparse/0")
    return folder


def _photo(width: int, height: int, seed: int) -> np.ndarray:
    """Soft patches under noise: about as large and as slow to decode as a photograph."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8))
    soft = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return np.clip(soft + rng.integers(-8, 9, (height, width, 3), dtype=np.int16), 0, 255).astype(np.uint8)


def _pose(angle: float) -> pycolmap.Rigid3d:
    """World to camera, 4 from the origin and looking at it."""
    forward = np.array([-np.cos(angle), -np.sin(angle), 0.0])
    right = np.array([-np.sin(angle), np.cos(angle), 0.0])
    rotation = np.stack([right, np.cross(forward, right), forward])
    return pycolmap.Rigid3d(np.column_stack([rotation, [0.0, 0.0, 4.0]]))


# ----------------------------------------------------------------------------------------------------- images alone


def _in_fresh_process(scene: Path, args: argparse.Namespace, name: str, prefetch: bool) -> StoreRow:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        work = pool.submit(time_steps, scene, args.budget_gib, args.step_ms / 1e3, args.steps, prefetch)
        rate, peak = work.result()
    return StoreRow(name, args.budget_gib, args.step_ms, rate, peak)


def time_steps(scene: Path, budget_gib: float, step: float, count: int, prefetch: bool) -> tuple[float, float]:
    """Steps per second, and the peak of resident memory above that before, GiB."""
    views = load_scene(scene, resolution=1, test_every=0).train
    before = _peak_gib()
    budget = int(budget_gib * 2**30)
    store = ImageStore(views, background=(0, 0, 0), device="cpu", budget_bytes=0, host_budget_bytes=budget)
    sampler = ViewSampler(len(views), torch.Generator().manual_seed(0))
    start = time.perf_counter()
    for _ in range(count):
        image = store[sampler.next()]
        if prefetch:
            store.prefetch(sampler.upcoming())
        assert image.dtype == torch.uint8
        time.sleep(step)
    return count / (time.perf_counter() - start), _peak_gib() - before


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --------------------------------------------------------------------------------------------------------- training


def train(scene: Path, run: Path, budget_gib: float, steps: int) -> TrainRow:
    """`train.py` at full resolution on the CPU, no evaluation; the peak is the process's own."""
    program = Path(__file__).parents[1] / "train.py"
    settings = ["log.tensorboard=false", f"data.host_budget_gib={budget_gib}"]
    arguments = [
        "-s",
        scene,
        "-m",
        run / str(budget_gib),
        "--device",
        "cpu",
        "-r",
        1,
        "--no_eval",
        "--iterations",
        steps,
    ]
    command = [sys.executable, program, *arguments, "--set", *settings]
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise OSError(f"train.py ended with code {process.returncode}")
    return TrainRow(budget_gib, steps, time.perf_counter() - start, usage.ru_maxrss / 2**20)


if __name__ == "__main__":
    run_cli(main)
