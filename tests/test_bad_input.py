"""What a user can get wrong: one line that names it and what to do, and no traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from demo_runs import FinishedRun, run_program
from scene_files import write_colmap

import render
import train
from distwar_gs.cli import run_cli

pytestmark = pytest.mark.usefixtures("in_process")


class Bench:
    """A folder to break things in, and the sound ones to break copies of."""

    def __init__(self, folder: Path, run: FinishedRun) -> None:
        self.folder, self.run, self.scene = folder, run, run.scene

    def copy(self) -> Path:
        return Path(shutil.copytree(self.scene, self.folder / "scene"))

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    @property
    def ply(self) -> bytes:
        return (self.run.folder / "point_cloud/iteration_60/point_cloud.ply").read_bytes()


@pytest.fixture
def bench(tmp_path, demo_run) -> Bench:
    return Bench(tmp_path, demo_run)


# Each maker breaks something and returns the arguments; then: what the message must name, and the remedy.
TRAINING: dict[str, tuple[Callable[[Bench], list], str, str]] = {}
RENDERING: dict[str, tuple[Callable[[Bench], list], str, str]] = {}


def bad(table: dict, names: str, remedy: str) -> Callable:
    def register(maker: Callable[[Bench], list]) -> Callable:
        table[maker.__name__] = (maker, names, remedy)
        return maker

    return register


# -------------------------------------------------------------------------------------------------------- the scene


@bad(TRAINING, "nowhere: no such folder", "give the folder that holds the dataset with -s")
def missing_folder(bench):
    return ["-s", bench.folder / "nowhere"]


@bad(TRAINING, "no scene to train on", "with -s DIR")
def no_scene(bench):
    return []


@bad(TRAINING, "no dataset found; looked for transforms_train.json", "the folder holds images")
def folder_without_a_dataset(bench):
    (bench.folder / "scene/images").mkdir(parents=True)
    return ["-s", bench.folder / "scene"]


@bad(TRAINING, "scene/images: no such image folder", "choose one with -i/--images")
def no_image_folder(bench):
    shutil.rmtree(bench.copy() / "images")
    return ["-s", bench.folder / "scene"]


@bad(TRAINING, "16 of 16 images are missing: view_000.png", "copy them there")
def folder_without_images(bench):
    for image in (bench.copy() / "images").iterdir():
        image.unlink()
    return ["-s", bench.folder / "scene"]


@bad(TRAINING, "1 of 16 images are missing: view_003.png", "copy them there, or choose the folder that has them")
def absent_image(bench):
    (bench.copy() / "images/view_003.png").unlink()
    return ["-s", bench.folder / "scene"]


def broken_image(bench: Bench, name: str) -> list:
    image = bench.copy() / "images" / name
    image.write_bytes(image.read_bytes()[:1000])
    return ["-s", bench.folder / "scene"]


@bad(TRAINING, "view_003.png: cannot be read as an image", "replace the file")
def broken_training_image(bench):
    return broken_image(bench, "view_003.png")


@bad(TRAINING, "view_008.png: cannot be read as an image", "replace the file")
def broken_test_image_is_found_before_the_training(bench):
    return broken_image(bench, "view_008.png")


@bad(TRAINING, "scene/sparse/0", "from COLMAP again")
def truncated_model(bench):
    file = bench.copy() / "sparse/0/images.bin"
    file.write_bytes(file.read_bytes()[:100])
    return ["-s", bench.folder / "scene"]


@bad(TRAINING, "camera 1 (THIN_PRISM_FISHEYE) sees too wide an angle", "or crop them")
def unsupported_camera(bench):
    params = [12.0, 12.0, 32.0, 20.0, *[0.0] * 8]
    return ["-s", write_colmap(bench.folder / "scene", model="THIN_PRISM_FISHEYE", params=params)]


# ------------------------------------------------------------------------------------------------------ the settings


@bad(TRAINING, "bad.yaml: unknown key train.iteration", "did you mean train.iterations")
def unknown_key_in_a_file(bench):
    return ["--config", bench.file("bad.yaml", "train:\n  iteration: 5\n"), "-s", bench.scene]


@bad(TRAINING, "bad.yaml: not readable as YAML at line 3", "correct it there")
def unreadable_yaml(bench):
    return ["--config", bench.file("bad.yaml", "train:\n  iterations: [1\nlog: {}\n"), "-s", bench.scene]


@bad(TRAINING, "unknown key densification.evry", "did you mean densification.every")
def unknown_key_in_set(bench):
    return ["-s", bench.scene, "--set", "densification.evry=5"]


@bad(TRAINING, "reduction.balance_threshold is 33", "must be between 0 and 32")
def threshold_of_33(bench):
    return ["-s", bench.scene, "--balance_threshold", 33]


@bad(TRAINING, "reduction.strategy is gsplat", "use sw_b")
def gsplat_on_the_cpu(bench):
    return ["-s", bench.scene, "--reduction", "gsplat"]


@bad(TRAINING, "file: cannot be the run folder (File exists)", "choose another with -m")
def run_folder_is_a_file(bench):
    return ["-s", bench.scene, "-m", bench.file("file", "")]


# ------------------------------------------------------------------------------------------------------- checkpoints


@bad(TRAINING, "notes.pt: cut off, or no checkpoint at all", "start without --resume")
def not_a_checkpoint(bench):
    return ["-s", bench.scene, "--resume", bench.file("notes.pt", "hello")]


@bad(TRAINING, "nowhere: no checkpoint there", "start without --resume")
def missing_checkpoint(bench):
    return ["-s", bench.scene, "--resume", bench.folder / "nowhere"]


@bad(TRAINING, "step_60.pt: made on another scene: training views was 14 and is 12", "or start without --resume")
def checkpoint_of_another_scene(bench):
    return ["-s", bench.scene, "--test_every", 4, "--sh_degree", 2, "--resume", bench.run.folder]


@bad(TRAINING, "step_60.pt: its harmonics are of degree 2, model.sh_degree is 3", "resume with --sh_degree 2")
def checkpoint_of_another_degree(bench):
    return ["-s", bench.scene, "--resume", bench.run.folder]


# --------------------------------------------------------------------------------------------------------- rendering


@bad(RENDERING, "cut.ply: not a readable PLY file", "export or copy it again")
def truncated_ply(bench):
    return [bench.file("cut.ply", bench.ply[: len(bench.ply) // 2]), "-s", bench.scene]


@bad(RENDERING, "huge.ply: not a readable PLY file (its header promises 1000000000000 rows", "export or copy it again")
def ply_of_a_million_million_gaussians(bench):
    content = bench.ply.replace(b"element vertex 3008", b"element vertex 1000000000000")
    return [bench.file("huge.ply", content), "-s", bench.scene]


@bad(RENDERING, "mesh.ply: not a readable PLY file (`property list uchar int vertex_ind", "export or copy it again")
def ply_of_a_mesh(bench):
    faces = b"element face 1\nproperty list uchar int vertex_indices\nend_header"
    return [bench.file("mesh.ply", bench.ply.replace(b"end_header", faces)), "-s", bench.scene]


@bad(RENDERING, "nan.ply: none of its 3008 Gaussians has sound means", "export it again")
def ply_of_nan(bench):
    header, end, body = bench.ply.partition(b"end_header\n")
    return [bench.file("nan.ply", header + end + b"\xff" * len(body)), "-s", bench.scene]


@bad(RENDERING, "empty.ply: its `vertex` element has no rows", "give another file")
def ply_without_gaussians(bench):
    header, end, _ = bench.ply.partition(b"end_header\n")
    return [bench.file("empty.ply", header.replace(b"vertex 3008", b"vertex 0") + end), "-s", bench.scene]


@bad(RENDERING, "new.spz: SPZ of version 4 is not read", "save it as version 3, or give the model as PLY")
def spz_of_a_later_version(bench):
    return [bench.file("new.spz", b"NGSP" + bytes(40)), "-s", bench.scene]


@bad(RENDERING, "cut.splat: not a readable .splat file (31 bytes", "export or copy it again")
def truncated_splat(bench):
    return [bench.file("cut.splat", bytes(31)), "-s", bench.scene]


@bad(RENDERING, "none.ply: no such file", "give a run folder of train.py or a .ply file")
def missing_ply(bench):
    return [bench.folder / "none.ply", "-s", bench.scene]


@bad(RENDERING, "data.source_path is not set", "with -s DIR")
def ply_without_a_scene(bench):
    return [bench.file("model.ply", bench.ply)]


@bad(RENDERING, "run: no point_cloud/iteration_N/point_cloud.ply", "let train.py save one first")
def run_without_models(bench):
    (bench.folder / "run").mkdir()
    return [Path(shutil.copy(bench.run.folder / "config.yaml", bench.folder / "run")).parent]


@bad(RENDERING, "no point_cloud/iteration_N/point_cloud.ply with iteration 7", "there are: iterations 60")
def iteration_that_was_not_saved(bench):
    return [bench.run.folder, "--iteration", 7]


@bad(RENDERING, "no config.yaml in it", "give a run folder of train.py, a .ply file, or --config")
def folder_that_is_no_run(bench):
    return [bench.folder]


# ------------------------------------------------------------------------------------------------------------- tests


def check(code: int, stderr: str, names: str, remedy: str) -> None:
    """The last line is the only error, complete; progress may come before it."""
    lines = stderr.splitlines()
    assert code == 1
    assert [line for line in lines if "error" in line.lower()] == [lines[-1]] and lines[-1].startswith("error: ")
    assert names in lines[-1] and remedy in lines[-1]
    assert "Traceback" not in stderr


def train_arguments(bench: Bench, maker: Callable[[Bench], list]) -> list[str]:
    return ["-m", str(bench.folder / "out"), "--device", "cpu", "--iterations", "2", *map(str, maker(bench))]


@pytest.mark.parametrize(("maker", "names", "remedy"), TRAINING.values(), ids=TRAINING)
def test_training(bench, capsys, maker, names, remedy):
    with pytest.raises(SystemExit) as stopped:
        run_cli(train.main, train_arguments(bench, maker))
    check(stopped.value.code, capsys.readouterr().err, names, remedy)


@pytest.mark.parametrize(("maker", "names", "remedy"), RENDERING.values(), ids=RENDERING)
def test_rendering(bench, capsys, maker, names, remedy):
    with pytest.raises(SystemExit) as stopped:
        run_cli(render.main, ["--device", "cpu", *map(str, maker(bench))])
    check(stopped.value.code, capsys.readouterr().err, names, remedy)


@pytest.mark.parametrize("name", ["unreadable_yaml", "missing_folder", "checkpoint_of_another_scene"])
def test_training_from_a_shell(bench, name):
    maker, names, remedy = TRAINING[name]
    result = run_program("train.py", *train_arguments(bench, maker))
    assert result.stdout == ""
    check(result.returncode, result.stderr, names, remedy)


@pytest.mark.parametrize("name", ["truncated_ply"])
def test_rendering_from_a_shell(bench, name):
    maker, names, remedy = RENDERING[name]
    result = run_program("render.py", *maker(bench))
    assert result.stdout == ""
    check(result.returncode, result.stderr, names, remedy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_gpu(bench, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_cli(train.main, ["-s", str(bench.scene), "-m", str(bench.folder / "out"), "--device", "cuda"])
    check(stopped.value.code, capsys.readouterr().err, "device cuda was asked for", "--device cpu")
