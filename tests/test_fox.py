"""Real scenes through the readers: instant-ngp's fox, as COLMAP and as instant-ngp know its cameras.

Needs `--scenes DIR` with a folder `fox` in it; skipped otherwise. `pytest tests/test_fox.py --scenes DIR -s` prints the
figures.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from demo_runs import run_program
from plyfile import PlyData, PlyElement

from distwar_datasets import Scene, load_scene
from distwar_datasets.readers.colmap import find_model

TRAINING = (
    "--device", "cpu", "--iterations", 200, "-r", 68, "--quiet", "--set", "optim.means_lr_steps=200",
    "model.sh_degree_interval=200", "log.tensorboard=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def fox(pytestconfig, tmp_path_factory) -> Path:
    """A copy, so that caches have a place."""
    scenes = pytestconfig.getoption("--scenes")
    if not scenes or not (Path(scenes) / "fox").is_dir():
        pytest.skip("the fox scene: name the folder that has it with --scenes")
    folder = tmp_path_factory.mktemp("scenes") / "fox"
    shutil.copytree(Path(scenes) / "fox", folder, copy_function=shutil.copyfile)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    return folder


def test_colmaps_points_reproject_as_colmap_says(fox):
    """Through the photos' own lens."""
    model = pycolmap.Reconstruction(find_model(fox))
    views = {view.name: view for view in load_scene(fox, test_every=0, normalise=False, resolution=1).train}
    errors = {point_id: [] for point_id in model.points3D}
    for image in model.images.values():
        view = views[image.name]
        observed = [point for point in image.points2D if point.has_point3D()]
        world = np.array([model.points3D[point.point3D_id].xyz for point in observed])
        distances = np.linalg.norm(view.look(world)[0] - [point.xy for point in observed], axis=1)
        for point, distance in zip(observed, distances, strict=True):
            errors[point.point3D_id].append(distance)
    ours = np.mean([np.mean(distances) for distances in errors.values()])  # as COLMAP: a mean for each point first
    theirs = model.compute_mean_reprojection_error()
    print(f"\n{len(errors)} points, {sum(map(len, errors.values()))} observations: COLMAP's mean reprojection error is "
          f"{theirs:.4f} px, here it is {ours:.4f} px")  # fmt: skip
    assert ours == pytest.approx(theirs, abs=0.05)


def test_both_formats_train_alike(fox, tmp_path):
    """Two calibrations of one capture, from the same points: held-out quality within 0.5 dB."""
    give_points(fox)
    psnrs = {}
    for name, source in (("COLMAP", fox), ("instant-ngp", fox / "transforms.json")):
        result = run_program("train.py", "-s", source, "-m", tmp_path / name, *TRAINING, timeout=900)
        assert result.returncode == 0, result.stderr
        psnrs[name] = json.loads((tmp_path / name / "metrics.json").read_text())[-1]["psnr"]
    print(f"\n200 steps at 68 px: {psnrs}")
    assert psnrs["COLMAP"] > 18.0
    assert psnrs["instant-ngp"] == pytest.approx(psnrs["COLMAP"], abs=0.5)


def give_points(fox: Path) -> None:
    """COLMAP's points, moved into the frame of transforms.json, as its `ply_file_path`."""
    colmap, ngp = (load_scene(s, test_every=0, normalise=False, resolution=68) for s in (fox, fox / "transforms.json"))
    centers = [{Path(view.name).stem: view.center for view in scene.train} for scene in (colmap, ngp)]
    names = sorted(centers[0].keys() & centers[1].keys())
    assert len(names) == 50
    source, target = (np.array([part[name] for name in names]) for part in centers)
    moved = similarity(source, target)
    residual = np.linalg.norm(moved(source) - target, axis=1)
    assert np.median(residual) < 0.02 * ngp.extent  # two calibrations of the same photographs
    write_ply(fox / "points.ply", moved(colmap.points.positions), colmap)
    meta = json.loads((fox / "transforms.json").read_text())
    (fox / "transforms.json").write_text(json.dumps(meta | {"ply_file_path": "points.ply"}))


def similarity(source: np.ndarray, target: np.ndarray):
    """The map of points that best moves `source` [N, 3] onto `target` (Umeyama 1991)."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    U, spread, Vt = np.linalg.svd((target - goal).T @ (source - middle))
    signs = np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    scale = np.trace(np.diag(spread) @ signs) / ((source - middle) ** 2).sum()
    return lambda points: scale * (points - middle) @ (U @ signs @ Vt).T + goal


def write_ply(path: Path, positions: np.ndarray, scene: Scene) -> None:
    vertices = np.zeros(len(positions), [(a, "f4") for a in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")])
    for i, axis in enumerate("xyz"):
        vertices[axis] = positions[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        vertices[name] = scene.points.colors[:, i]
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(path))
