"""What a user can get wrong: one line that names it and what to do, and no traceback.

Rows of the tables in docs/bad_inputs.md, which `pytest tests/test_bad_input.py --write-bad-inputs` writes; a test fails
when the tables say anything that did not happen here. Scenes have a table of their own (tests/test_inputs.py).
"""

import contextlib
import gzip
import io
import json
import os
import re
import resource
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from demo_runs import FinishedRun, run_program
from foreign_models import FOLDER
from scene_files import write_colmap

import render
import train
from distwar_datasets.pixels.cache import FOLDER_NAME
from distwar_gs.cli import run_cli
from distwar_gs.training.run_folder import RunFolder
from distwar_kernels import loader

pytestmark = pytest.mark.usefixtures("in_process")


class Bench:
    """A folder to break things in, and the sound ones to break copies of."""

    def __init__(self, folder: Path, run: FinishedRun) -> None:
        self.folder, self.run, self.scene = folder, run, run.scene
        self.afterwards = contextlib.ExitStack()

    def copy(self) -> Path:
        """The scene, without the caches that other tests have left in it."""
        return Path(shutil.copytree(self.scene, self.folder / "scene", ignore=shutil.ignore_patterns(FOLDER_NAME)))

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def full_disk(self, size: int) -> None:
        """From now on no file can grow beyond `size` bytes."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        self.afterwards.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)

    @property
    def ply(self) -> bytes:
        return (self.run.folder / "point_cloud/iteration_60/point_cloud.ply").read_bytes()

    def changed_ply(self, old: bytes, new: bytes) -> list:
        assert old in self.ply
        return [self.file("model.ply", self.ply.replace(old, new)), "-s", self.scene]

    def changed_checkpoint(self, **parts: object) -> list:
        """Of this very scene, with other parts."""
        content = torch.load(self.run.folder / "checkpoints/step_60.pt", weights_only=True)
        held = {name: parts.pop(name, part) for name, part in content["parts"].items()}
        torch.save({**content, "parts": held, **parts}, self.folder / "step_60.pt")
        return ["-s", self.scene, "--sh_degree", 2, "--resume", self.folder / "step_60.pt"]

    def with_photo(self, content: bytes) -> list:
        (self.copy() / "images/view_003.png").write_bytes(content)
        return ["-s", self.folder / "scene"]


@pytest.fixture
def bench(tmp_path, demo_run, monkeypatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    bench = Bench(tmp_path, demo_run)
    with bench.afterwards:
        yield bench


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


# Each maker breaks something and returns the arguments; then: what the message must name, and the remedy.
TRAINING: dict[str, tuple[Callable[[Bench], list], str, str]] = {}
RENDERING: dict[str, tuple[Callable[[Bench], list], str, str]] = {}
SECTIONS: dict[str, str] = {}
"""Heading of each row."""
MESSAGES: dict[str, str] = {}
"""What was said, by row, as it happens."""
DOCS = Path(__file__).parents[1] / "docs/bad_inputs.md"
SCENES = "Scenes"  # docs/inputs.md has them


def bad(table: dict, names: str, remedy: str) -> Callable:
    def register(maker: Callable[[Bench], list]) -> Callable:
        table[maker.__name__] = (maker, names, remedy)
        SECTIONS[maker.__name__] = section
        return maker

    return register


def typed(table: dict, name: str, arguments: list, names: str, remedy: str) -> None:
    """A row for arguments that need nothing made; the scene, or the run, goes before them."""
    first = (lambda bench: ["-s", bench.scene]) if table is TRAINING else (lambda bench: [bench.run.folder])
    table[name] = (lambda bench: [*first(bench), *arguments], names, remedy)
    SECTIONS[name] = section


# -------------------------------------------------------------------------------------------------------- the scene

section = SCENES


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


@bad(TRAINING, "mine.txt: no such list of test images", "correct data.test_list")
def missing_list_of_test_images(bench):
    return ["-s", bench.scene, "--test_list", bench.folder / "mine.txt"]


@bad(TRAINING, "mine.txt: none of its names is for testing and an image of", "such as view_000.png")
def list_of_other_images(bench):
    return ["-s", bench.scene, "--test_list", bench.file("mine.txt", "a.png\nb.png\n")]


@bad(TRAINING, "camera 1 (THIN_PRISM_FISHEYE) sees too wide an angle", "set data.undistort=auto")
def too_wide_for_a_pinhole(bench):
    params = [12.0, 12.0, 32.0, 20.0, *[0.0] * 8]
    scene = write_colmap(bench.folder / "scene", model="THIN_PRISM_FISHEYE", params=params)
    return ["-s", scene, "--set", "data.undistort=always"]


@bad(TRAINING, "camera 1 (RAD_TAN_THIN_PRISM_FISHEYE) sees too wide an angle", "crop its photos")
def unsupported_camera(bench):
    params = [12.0, 12.0, 32.0, 20.0, *[0.0] * 12]
    return ["-s", write_colmap(bench.folder / "scene", model="RAD_TAN_THIN_PRISM_FISHEYE", params=params)]


# ------------------------------------------------------------------------------------------------------ the settings

section = "Settings"


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


for name, assignment, names, remedy in (
    ("set without a value", "train.seed", "--set train.seed", "expected section.key=value"),
    ("a number for a switch", "data.eval=1", "data.eval is 1", "expected true or false"),
    ("a word for a number", "optim.means_lr=fast", "optim.means_lr is 'fast'", "expected a finite number"),
    ("a number that is none", "optim.means_lr=.nan", "optim.means_lr is nan", "expected a finite number"),
    ("a fraction for an integer", "train.iterations=2.5", "train.iterations is 2.5", "expected an integer"),
    ("a number of 70 bits", f"train.seed={2**70}", "train.seed is 1180591620717411303424", "must be between 0 and"),
    ("a number for a list", "train.test_iterations=7", "train.test_iterations is 7", "a list of integers such as"),
    ("a list without its end", "train.test_iterations=[1", "not readable as YAML at line 1", "correct it there"),
    ("a date that is none", "train.seed=2001-99-99", "'2001-99-99' is no timestamp", "correct it there"),
    ("a key of another section", "train.sh_degree=2", "unknown key train.sh_degree", "did you mean model.sh_degree"),
    ("a degree too high", "model.sh_degree=4", "model.sh_degree is 4", "must be between 0 and 3"),
    ("planes the wrong way round", "model.near_plane=1e11", "model.near_plane is 100000000000.0", "below model.far_pl"),
    ("a resolution of 0", "data.resolution=0", "data.resolution is 0", "must be -1 or a positive number"),
    ("images in a folder that is not there", "data.images=photos", "photos: no such image folder", "-i/--images"),
    ("masks in a folder that is not there", "data.masks=nowhere", "nowhere: no such mask folder", "set data.masks"),
    ("a start from more points than memory holds", "model.init_points=2000000000000", "model.init_points is 2000000000",
        "must be between"),
):  # fmt: skip
    random = ["model.init=random"] if "init_points" in assignment else []
    typed(TRAINING, name, ["--set", assignment, *random], names, remedy)


@bad(TRAINING, "nowhere.yaml: cannot read the configuration", "No such file")
def config_that_is_not_there(bench):
    return ["--config", bench.folder / "nowhere.yaml"]


@bad(TRAINING, "c.yaml: the base keys form a cycle", "c.yaml -> ")
def configs_based_on_each_other(bench):
    return ["--config", bench.file("c.yaml", "base: c.yaml")]


@bad(TRAINING, "c.yaml: not readable as YAML at line 2: seed is given twice", "correct it there")
def key_given_twice(bench):
    return ["--config", bench.file("c.yaml", "train:\n  {seed: 1, seed: 2}")]


@bad(TRAINING, "c.yaml: not readable as YAML", "correct it there")
def picture_for_a_config(bench):
    return ["--config", bench.file("c.yaml", b"\x89PNG\r\n\x1a\n")]


@bad(TRAINING, "c.yaml: not readable as YAML at line 1: nested too deeply", "correct it there")
def config_of_3000_brackets(bench):
    return ["--config", bench.file("c.yaml", "[" * 3000)]


@bad(TRAINING, "c.yaml: cannot read the configuration: a FIFO", "not a file")
def config_that_is_a_fifo(bench):
    return ["--config", fifo(bench.folder / "c.yaml")]


@bad(TRAINING, "zero: cannot read the configuration (the base of", "a device, not a file")
def config_based_on_a_device(bench):
    return ["--config", bench.file("c.yaml", "base: /dev/zero")]


@bad(TRAINING, "large.yaml: cannot read the configuration (the base of", "larger than 1,048,576 bytes")
def config_based_on_a_large_file(bench):
    bench.file("large.yaml", b" " * 2**21)
    return ["--config", bench.file("c.yaml", "base: large.yaml")]


# --------------------------------------------------------------------------------------------------------- arguments

section = "Arguments"  # a mistake in them ends a program with code 2

typed(TRAINING, "a mistyped flag", ["--iteration", "5"], "unknown argument --iteration", "did you mean --iterations?")
typed(TRAINING, "a word for a count", ["--iterations", "many"], "--iterations/--max_steps: invalid int", "'many'")
typed(TRAINING, "a strategy there is not", ["--reduction", "sw-b"], "invalid choice: 'sw-b'", "choose from ")
typed(TRAINING, "a flag without its value", ["--iterations"], "--iterations/--max_steps", "expected one argument")
typed(TRAINING, "contradicting flags", ["--eval", "--no_eval"], "--no_eval: not allowed with", "--eval")
typed(RENDERING, "two models", ["-m", "output/other"], "give one model to render", "a run folder or a ")
typed(RENDERING, "a path there is not", ["--path", "spiral"], "invalid choice: 'spiral'", "choose from ")
typed(RENDERING, "a video without frames", ["--frames", "0"], "--frames and --fps must be", "positive")
typed(RENDERING, "a video for years", ["--frames", "10000000000"], "--frames is 10000000000", "between 1 and 1000000")
typed(RENDERING, "a speed that is no number", ["--fps", "nan"], "--fps is nan", "must be between 0.01 and 1000.0")
typed(RENDERING, "a video without time", ["--fps", "inf"], "--fps is inf", "must be between 0.01 and 1000.0")
typed(
    RENDERING, "a path that is not there", ["--path", "poses.json"], "poses.json: no such file", "--path takes ellipse"
)
typed(
    TRAINING, "an origin there is not", ["--export_origin", "near"], "--export_origin: invalid choice", "choose from "
)


# -------------------------------------------------------------------------------------------------------------- disk

section = "Disk and permissions"


@bad(TRAINING, "file: cannot be the run folder (File exists)", "choose another with -m")
def run_folder_is_a_file(bench):
    return ["-s", bench.scene, "-m", bench.file("file", "")]


@bad(TRAINING, "neither can be written", "make one of the folders writable")
def no_folder_for_resized_images(bench):
    (bench.copy() / ".distwar_cache").touch()
    (bench.folder / "home").touch()
    return ["-s", bench.folder / "scene", "-r", 2]


@bad(TRAINING, "scene/.distwar_cache/images-2-", "free some disk space")
def disk_full_while_images_are_resized(bench):
    bench.copy()
    bench.full_disk(500)
    return ["-s", bench.folder / "scene", "-r", 2]


@bad(TRAINING, "out/checkpoints/step_2.pt: could not be written", "check free space and permissions")
def disk_full_while_a_checkpoint_is_written(bench):
    bench.full_disk(100_000)
    return ["-s", bench.scene, "--set", "log.tensorboard=false"]


@bad(RENDERING, "ellipse.mp4: could not be written (ffmpeg: ended by SIGXFSZ)", "check free space and permissions")
def disk_full_while_a_video_is_written(bench):
    bench.full_disk(5000)
    return [bench.run.folder, "--skip_test", "--path", "ellipse", "--frames", 30, "--out", bench.folder / "out"]


@bad(RENDERING, "renders/view_000.png: could not be written (File too large)", "check free space and permissions")
def disk_full_while_pictures_are_written(bench):
    bench.full_disk(1000)
    return [bench.run.folder, "--out", bench.folder / "out"]


@bad(TRAINING, "out: process ", "wait for its end, or choose another folder with -m")
def run_folder_of_another_training(bench):
    bench.afterwards.enter_context(RunFolder(bench.folder / "out"))
    return ["-s", bench.scene]


@bad(TRAINING, "out/training.lock: not a file", "remove it, or choose another folder with -m")
def lock_of_a_run_folder_that_is_a_fifo(bench):
    (bench.folder / "out").mkdir()
    fifo(bench.folder / "out/training.lock")
    return ["-s", bench.scene]


@bad(TRAINING, "kernels: others can write to it, and what lies there is run; chmod go-w", "set TORCH_EXTENSIONS_DIR to")
def kernels_where_others_can_write(bench):
    (bench.folder / "kernels").mkdir()
    (bench.folder / "kernels").chmod(0o777)
    with contextlib.ExitStack() as stack:
        environment = pytest.MonkeyPatch()
        stack.callback(environment.undo)
        environment.setenv("TORCH_EXTENSIONS_DIR", str(bench.folder / "kernels"))
        bench.afterwards.push(stack.pop_all())
    loader.load_once.cache_clear()  # as at the start of a process
    return ["-s", bench.scene]


# ------------------------------------------------------------------------------------------------------------ images

section = "Images"
NOT_AN_IMAGE = "view_003.png: cannot be read as an image"


@bad(TRAINING, NOT_AN_IMAGE, "replace the file")
def photo_of_no_bytes(bench):
    return bench.with_photo(b"")


@bad(TRAINING, NOT_AN_IMAGE, "replace the file")
def text_for_a_photo(bench):
    return bench.with_photo(b"404: not found")


@bad(TRAINING, NOT_AN_IMAGE, "replace the file")
def program_for_a_photo(bench):
    """Pillow would hand it to Ghostscript."""
    return bench.with_photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 60\n")


@bad(TRAINING, f"{NOT_AN_IMAGE} (Image size (2147450880 pixels) exceeds", "replace the file")
def photo_that_unpacks_to_gigabytes(bench):
    return bench.with_photo(png(65_535, 32_767 + 1))


@bad(TRAINING, f"{NOT_AN_IMAGE} (image file is truncated", "replace the file")
def photo_with_less_than_it_claims(bench):
    return bench.with_photo(png(80, 60))


def png(width: int, height: int) -> bytes:
    """The header, and a few pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(500))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


# ------------------------------------------------------------------------------------------------------- checkpoints

section = "Checkpoints"


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


@bad(TRAINING, "step_60.pt: cut off, or no checkpoint at all", "resume from another one: --resume ")
def checkpoint_cut_short(bench):
    whole = (bench.run.folder / "checkpoints/step_60.pt").read_bytes()
    shutil.copy(bench.run.folder / "checkpoints/step_60.pt", bench.folder / "step_50.pt")
    return ["-s", bench.scene, "--resume", bench.file("step_60.pt", whole[: len(whole) // 2])]


@bad(TRAINING, "chkpnt30000.pth: not a checkpoint of distwar-gs", "start without --resume")
def checkpoint_of_another_program(bench):
    torch.save(({"means": torch.zeros(3)}, 30_000), bench.folder / "chkpnt30000.pth")
    return ["-s", bench.scene, "--resume", bench.folder / "chkpnt30000.pth"]


@bad(TRAINING, "step_60.pt: cut off, or no checkpoint at all (UnpicklingError", "start without --resume")
def checkpoint_with_a_program_in_it(bench):
    return bench.changed_checkpoint(config=io.StringIO)


def packed_anew(bench: Bench, change: Callable[[str, bytes], bytes], compression: int) -> list:
    """The checkpoint of this scene with each part of its archive changed."""
    target = bench.folder / "step_60.pt"
    with (
        zipfile.ZipFile(bench.run.folder / "checkpoints/step_60.pt") as source,
        zipfile.ZipFile(target, "w", compression) as archive,
    ):
        for part in source.infolist():
            archive.writestr(part.filename, change(part.filename, source.read(part)))
    return ["-s", bench.scene, "--sh_degree", 2, "--resume", target]


@bad(TRAINING, "step_60.pt: cut off, or no checkpoint at all (ValueError its parts are compressed", "start without")
def checkpoint_that_unpacks_to_gigabytes(bench):
    return packed_anew(bench, lambda name, content: content + bytes(2**24) * name.endswith("/0"), zipfile.ZIP_DEFLATED)


@bad(TRAINING, "data/0 is declared as ", "start without --resume")
def checkpoint_whose_tensors_claim_more_than_it_has(bench):
    return packed_anew(bench, lambda name, content: b"" if name.endswith("/data/0") else content, zipfile.ZIP_STORED)


@bad(TRAINING, "step_60.pt: checkpoint format 99, this program reads 1 to 3", "use the version of distwar-gs")
def checkpoint_of_a_newer_version(bench):
    return bench.changed_checkpoint(format_version=99)


@bad(TRAINING, "step_60.pt: rng is damaged, or does not fit the rest of the file", "start without --resume")
def checkpoint_with_a_damaged_part(bench):
    return bench.changed_checkpoint(rng=None)


@bad(TRAINING, "step_60.pt: densification is damaged, or does not fit", "start without --resume")
def checkpoint_of_parts_that_do_not_fit(bench):
    return bench.changed_checkpoint(densification={"grad2d": torch.zeros(3), "count": torch.zeros(3)})


@bad(TRAINING, "point_cloud.ply: is a model, not a checkpoint", "start from it with --init_ply ")
def model_for_a_checkpoint(bench):
    return ["-s", bench.scene, "--resume", bench.run.folder / "point_cloud/iteration_60/point_cloud.ply"]


# ------------------------------------------------------------------------------------------------------ first points

section = "First points and Gaussians"


@bad(TRAINING, "none.ply: no such file", "give a point cloud (.ply) or a file of Gaussians with --init_ply")
def start_that_is_not_there(bench):
    return ["-s", bench.scene, "--init_ply", bench.folder / "none.ply"]


@bad(TRAINING, "scan.las: is no run folder, and of files .ply, .splat, .spz, .sog and .glb are", "convert it")
def start_from_a_file_of_another_kind(bench):
    return ["-s", bench.scene, "--init_ply", bench.file("scan.las", "LASF")]


@bad(TRAINING, "scan.ply: not a readable PLY file (its header promises 9 rows", "export or copy it again")
def start_from_a_cloud_cut_short(bench):
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty float x\nend_header\n"
    return ["-s", bench.scene, "--init_ply", bench.file("scan.ply", head)]


@bad(TRAINING, "step_60.pt: is a checkpoint", "continue it with --resume ")
def start_from_a_checkpoint(bench):
    return ["-s", bench.scene, "--init_ply", bench.run.folder / "checkpoints/step_60.pt"]


@bad(TRAINING, "model.init is random", "leave it auto with model.init_ply")
def two_starts(bench):
    return ["-s", bench.scene, "--init_ply", bench.run.folder, "--set", "model.init=random"]


# --------------------------------------------------------------------------------------------------------- rendering

section = "Models to render"


@bad(RENDERING, "model.ply: not a readable PLY file", "export or copy it again")
def text_for_a_ply(bench):
    return [bench.file("model.ply", "404: not found"), "-s", bench.scene]


@bad(RENDERING, "model.ply: column rot_3 is missing", "expected the PLY of a 3D Gaussian Splatting trainer")
def ply_without_rotations(bench):
    return bench.changed_ply(b"float rot_3", b"float rot_4")


@bad(RENDERING, "model.ply: not a readable PLY file (column x comes twice)", "export or copy it again")
def ply_with_a_column_twice(bench):
    return bench.changed_ply(b"float y", b"float x")


@bad(RENDERING, "model.ply: not a readable PLY file (its header promises 4000000000 rows", "export or copy it again")
def ply_that_claims_too_many_rows(bench):
    rows = bench.ply.partition(b"element vertex ")[2].partition(b"\n")[0]
    return bench.changed_ply(b"vertex " + rows, b"vertex 4000000000")


@bad(RENDERING, "model.ply: not a readable PLY file (element vertex has no columns)", "export or copy it again")
def ply_without_columns(bench):
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 4\nend_header\n1234"
    return [bench.file("model.ply", head), "-s", bench.scene]


@bad(RENDERING, "cut.ply: not a readable PLY file", "export or copy it again")
def truncated_ply(bench):
    return [bench.file("cut.ply", bench.ply[: len(bench.ply) // 2]), "-s", bench.scene]


@bad(RENDERING, "huge.ply: not a readable PLY file (its header promises 1000000000000 rows", "export or copy it again")
def ply_of_a_million_million_gaussians(bench):
    content = bench.ply.replace(b"element vertex 3008", b"element vertex 1000000000000")
    return [bench.file("huge.ply", content), "-s", bench.scene]


@bad(RENDERING, "mesh.ply: column rot_0 is missing", "not a point cloud or a mesh")
def ply_of_a_mesh(bench):
    head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    faces = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    return [bench.file("mesh.ply", head + faces + "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"), "-s", bench.scene]


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


@bad(RENDERING, "bomb.spz: not a readable SPZ file (70,000 bytes", "that promise 1,000,000 Gaussians")
def spz_that_unpacks_to_gigabytes(bench):
    content = struct.pack("<4sIIBBBx", b"NGSP", 3, 1_000_000, 3, 12, 0) + bytes(65_000_000)
    return [bench.file("bomb.spz", gzip.compress(content, 6).ljust(70_000, b"\0")), "-s", bench.scene]


@bad(RENDERING, "cut.sog: not a readable SOG file (File is not a zip file)", "export or copy it again")
def truncated_sog(bench):
    whole = (FOLDER / "waves.sog").read_bytes()
    return [bench.file("cut.sog", whole[: len(whole) // 2]), "-s", bench.scene]


@bad(RENDERING, "model.ksplat: .ksplat is not read, .ply, .splat, .spz, .sog and .glb are", "splat-transform")
def ksplat(bench):
    return [bench.file("model.ksplat", bytes(100)), "-s", bench.scene]


@bad(RENDERING, "lod-meta.json: streamed SOG is not read", "splat-transform")
def sog_of_many_levels(bench):
    return [bench.file("lod-meta.json", "{}"), "-s", bench.scene]


@bad(RENDERING, "model.usdz: is no run folder, and of files .ply, .splat, .spz, .sog and .glb are", "convert it")
def file_of_an_unknown_kind(bench):
    return [bench.file("model.usdz", "glTF"), "-s", bench.scene]


@bad(RENDERING, "cut.splat: not a readable .splat file (31 bytes", "export or copy it again")
def truncated_splat(bench):
    return [bench.file("cut.splat", bytes(31)), "-s", bench.scene]


@bad(RENDERING, "model.ply: cannot be read (a FIFO, not a file)", "give another file")
def fifo_for_a_ply(bench):
    return [fifo(bench.folder / "model.ply"), "-s", bench.scene]


@bad(RENDERING, "model.splat: cannot be read (a device, not a file)", "give another file")
def device_for_a_splat(bench):
    (bench.folder / "model.splat").symlink_to("/dev/zero")
    return [bench.folder / "model.splat", "-s", bench.scene]


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


@bad(RENDERING, "model.ply: comment SplatOrigin: here does not give three finite numbers x, y, z", "correct it")
def ply_with_an_origin_of_words(bench):
    return bench.changed_ply(b"end_header\n", b"comment SplatOrigin: here\nend_header\n")


@bad(RENDERING, "model.ply.origin.json: `origin` does not give three finite numbers x, y, z", "correct it")
def model_beside_an_origin_of_two_numbers(bench):
    bench.file("model.ply.origin.json", '{"origin": [452310, 5411950]}')
    return [bench.file("model.ply", bench.ply), "-s", bench.scene]


# ------------------------------------------------------------------------------------------------------ camera paths

section = "Camera paths"
FORMATS = "docs/formats.md lists what a camera path may be"


def along(bench: Bench, name: str, content: bytes | str | object) -> list:
    """A path of these bytes, or of this JSON."""
    content = content if isinstance(content, bytes | str) else json.dumps(content)
    return [bench.run.folder, "--skip_test", "--path", bench.file(name, content)]


@bad(RENDERING, "path.json: not readable as JSON", FORMATS)
def text_for_a_path(bench):
    return along(bench, "path.json", "404: not found")


@bad(RENDERING, "path.json: neither a list of cameras or poses, nor an object with `camera_path` or `frames`", FORMATS)
def path_of_another_program(bench):
    return along(bench, "path.json", {"path": [{"R": [0, 0, 0, 1], "T": [0, 0, 0]}]})


@bad(RENDERING, "path.json: holds no poses", FORMATS)
def path_without_poses(bench):
    return along(bench, "path.json", [])


@bad(RENDERING, "path.json: pose 0 is not a 4x4 or 3x4 matrix of finite numbers", FORMATS)
def path_of_3x3_matrices(bench):
    return along(bench, "path.json", [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]])


@bad(RENDERING, "path.json: pose 1: no camera-to-world pose: its axes are stretched or sheared by", FORMATS)
def path_with_a_sheared_pose(bench):
    return along(bench, "path.json", [[[1, k, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]] for k in (0, 1)])


@bad(RENDERING, "path.json: pose 0: its axes are left-handed (mirrored)", "flip one of them")
def path_with_mirrored_poses(bench):
    return along(bench, "path.json", [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]])


@bad(RENDERING, "path.json: camera 0: `rotation` is not 3 x 3 finite numbers", "see docs/formats.md")
def cameras_json_without_rotations(bench):
    return along(bench, "path.json", [{"position": [0, 0, 0]}])


@bad(RENDERING, "path.json: `camera_type` is 'equirectangular'; only perspective", "with --lens")
def nerfstudio_path_of_a_panorama(bench):
    return along(bench, "path.json", {"camera_type": "equirectangular", "camera_path": []})


@bad(RENDERING, "path.json: 1e+09 frames per second", "it must be between 0.01 and 1000.0")
def nerfstudio_path_without_time(bench):
    pose = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    return along(bench, "path.json", {"seconds": 1e-9, "camera_path": [{"camera_to_world": pose, "fov": 50}]})


@bad(RENDERING, "path.npy: not an array of plain numbers as numpy.save writes it", FORMATS)
def text_for_an_array(bench):
    return along(bench, "path.npy", "404: not found")


@bad(RENDERING, "path.txt: 1 rows of 7 numbers", "a pose has 12 or 16")
def path_of_quaternions(bench):
    return along(bench, "path.txt", "0 0 0 1 0 0 0\n")


# ------------------------------------------------------------------------------------------------------------- tests


def check(code: int, stderr: str, names: str, remedy: str) -> str:
    """The last line is the only error, complete; progress may come before it. Returns what it says."""
    lines = stderr.splitlines()
    assert code == (2 if "--help lists the arguments" in lines[-1] else 1)
    assert [line for line in lines if "error" in line.lower()] == [lines[-1]] and lines[-1].startswith("error: ")
    assert names in lines[-1] and remedy in lines[-1]
    assert "Traceback" not in stderr
    return lines[-1].removeprefix("error: ")


def note(bench: Bench, table: dict, maker: Callable, message: str) -> None:
    """For the table, without what another run would say differently."""
    name = next(name for name, row in table.items() if row[0] is maker)
    for folder in (bench.folder, bench.run.folder.parent, bench.scene.parent):
        message = message.replace(f"{folder}/", "")
    message = message.replace(str(bench.folder), "folder").replace(".distwar_cache, ", "")  # of another test
    message = re.sub(r"-[0-9a-f]{12}\b", "-...", message)
    message = re.sub(r"declared as [\d,]+ bytes", "declared as ... bytes", message)  # of whichever tensor comes first
    message = re.sub(
        r"process \d+ on \S+ trains there since [\d: -]+;", "process ... on ... trains there since ...;", message
    )
    message = re.sub(r"\[enforce fail at .*?(?=\); )", "...", message)  # torch's words, with places in its sources
    if "invalid choice" in message:
        message = message.replace("'", "")  # newer Pythons quote them otherwise
    MESSAGES[name] = message.replace("|", "\\|")


def train_arguments(bench: Bench, maker: Callable[[Bench], list]) -> list[str]:
    return ["-m", str(bench.folder / "out"), "--device", "cpu", "--iterations", "2", *map(str, maker(bench))]


@pytest.mark.parametrize(("maker", "names", "remedy"), TRAINING.values(), ids=TRAINING)
def test_training(bench, capsys, maker, names, remedy):
    with pytest.raises(SystemExit) as stopped:
        run_cli(train.main, train_arguments(bench, maker))
    note(bench, TRAINING, maker, check(stopped.value.code, capsys.readouterr().err, names, remedy))


@pytest.mark.parametrize(("maker", "names", "remedy"), RENDERING.values(), ids=RENDERING)
def test_rendering(bench, capsys, maker, names, remedy):
    with pytest.raises(SystemExit) as stopped:
        run_cli(render.main, ["--device", "cpu", *map(str, maker(bench))])
    note(bench, RENDERING, maker, check(stopped.value.code, capsys.readouterr().err, names, remedy))


@pytest.mark.parametrize("name", ["unreadable_yaml", "missing_folder", "checkpoint_of_another_scene"])
def test_training_from_a_shell(bench, name):
    maker, names, remedy = TRAINING[name]
    result = run_program("train.py", *train_arguments(bench, maker), fresh=name == "unreadable_yaml")
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


def test_the_tables_in_the_docs_are_what_happened(pytestconfig):
    """Last in this file: all rows have run."""
    shown = [(name, table) for table in (TRAINING, RENDERING) for name in table if SECTIONS[name] != SCENES]
    lines = {name: f"| {name.replace('_', ' ')} | {MESSAGES[name]} |" for name, _ in shown if name in MESSAGES}
    if pytestconfig.getoption("--write-bad-inputs"):
        assert len(lines) == len(shown), "only a whole run writes the tables: no -k"
        sections = {SECTIONS[name]: [] for name, _ in shown}
        for name, _ in shown:
            sections[SECTIONS[name]].append(lines[name])
        tables = [f"## {title}\n\n{COLUMNS}" + "\n".join(rows) for title, rows in sections.items()]
        rest = DOCS.read_text(encoding="utf-8").partition(FUZZING)[2] if DOCS.exists() else "\n"
        DOCS.write_text(HEADER + "\n\n".join(tables) + f"\n\n{FUZZING}{rest}", encoding="utf-8")
    there = DOCS.read_text(encoding="utf-8").partition(FUZZING)[0].splitlines()
    assert [line for line in lines.values() if line not in there] == []
    headings = len(set(SECTIONS.values()) - {SCENES})
    assert sum(line.startswith("| ") for line in there) == len(shown) + headings


COLUMNS = "| what is wrong | message |\n|---|---|\n"
FUZZING = "## Fuzzing"
HEADER = """# Bad inputs

What a user can get wrong besides the scene (those are in [inputs.md](inputs.md)), and the one line that `train.py` or
`render.py` ends with: no traceback, code 1, or 2 where an argument is mistyped. Written by
`pytest tests/test_bad_input.py --write-bad-inputs`; the same tests fail when these tables no longer say what happens.
`tests/test_environment.py` shows the same for folders that cannot be written, full disks, odd paths and killed builders
with real processes.

"""
