"""What a user can get wrong: one line that names it and what to do, and no traceback.

Rows of the tables in docs/bad_inputs.md, which `pytest tests/test_bad_input.py --write-bad-inputs` writes; a test fails
when the tables say anything that did not happen here. Scenes have a table of their own (tests/test_inputs.py).
"""

import contextlib
import io
import re
import resource
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
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
        self.afterwards = contextlib.ExitStack()

    def copy(self) -> Path:
        return Path(shutil.copytree(self.scene, self.folder / "scene", ignore=shutil.ignore_patterns(".distwar_cache")))

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
        torch.save({**content, **parts}, self.folder / "step_60.pt")
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


@bad(TRAINING, "camera 1 (THIN_PRISM_FISHEYE) sees too wide an angle", "or crop them")
def unsupported_camera(bench):
    params = [12.0, 12.0, 32.0, 20.0, *[0.0] * 8]
    return ["-s", write_colmap(bench.folder / "scene", model="THIN_PRISM_FISHEYE", params=params)]


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


@bad(TRAINING, "step_60.pt: checkpoint format 99, this program reads 1", "use the version of distwar-gs")
def checkpoint_of_a_newer_version(bench):
    return bench.changed_checkpoint(format_version=99)


@bad(TRAINING, "step_60.pt: rng is damaged, or does not fit the rest of the file", "start without --resume")
def checkpoint_with_a_damaged_part(bench):
    return bench.changed_checkpoint(rng=None)


@bad(TRAINING, "step_60.pt: densification is damaged, or does not fit", "start without --resume")
def checkpoint_of_parts_that_do_not_fit(bench):
    return bench.changed_checkpoint(densification={"grad2d": torch.zeros(3), "count": torch.zeros(3)})


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
