"""What users of trainers reported, and what attacks found: every case as it was reported, and one table of what comes.

    python tests/stress/user_reports.py CASES
    python tests/stress/user_reports.py CASES --only far_camera bom --work somewhere

CASES holds a folder for each case: `make.py [DEMO] OUT` writes the input, `repro.sh` or `repro.py` shows what once
went wrong. Everything runs on the CPU, in a folder of its own that looks like a checkout with `data/demo`; all cases
take some six minutes of two cores. The code is 0 where every value is right. Cases that need root are left out for
others, and this is said.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 900
TOLERANCE_DB = 0.3
"""Other machines round otherwise."""


class CaseError(Exception):
    """A command that ended otherwise than it should; the message is the last thing it said."""


@dataclass(frozen=True)
class Row:
    """A value of a case: what was printed, what is right, and whether it is that. None: not tried."""

    case: str
    printed: str
    expected: str
    ok: bool | None


@dataclass(frozen=True)
class Run:
    """A training that has ended."""

    folder: Path
    said: str

    @property
    def psnr(self) -> float:
        """Of the held-out views, dB, as measured last."""
        return json.loads((self.folder / "metrics.json").read_text())[-1]["psnr"]

    @property
    def views(self) -> str:
        """How many views it trained on and held out, and its points, as it said."""
        log = (self.folder / "train.log").read_text(encoding="utf-8")
        found = re.search(r"(\d+) training and (\d+) test views \([^)]*\), (\S+) points", log)
        return f"{found[1]} + {found[2]} views, {found[3]} points" if found else "no views"


class Bench:
    """A folder that looks like a checkout with the demo scene, in which commands run as users type them."""

    def __init__(self, cases: Path, work: Path) -> None:
        """Makes the folder `work`, unless it is there."""
        self.cases, self.folder = cases.resolve(), work.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("train.py", "render.py", "scripts", "configs", "datasets", "distwar_gs", "distwar_kernels"):
            if not (self.folder / name).exists():
                (self.folder / name).symlink_to(ROOT / name)
        if not (self.folder / "data/demo").exists():
            self.python("scripts/make_demo_scene.py", "data/demo")

    def python(self, *arguments: object) -> str:
        """What a Python program says, stdout and stderr in one; CaseError if it fails."""
        return self._run([sys.executable, *map(str, arguments)])

    def bash(self, script: Path) -> str:
        """What a shell script says."""
        return self._run(["bash", str(script)])

    def made(self, case: str, *arguments: str) -> Path:
        """The input of a case."""
        place = self.folder / "in" / case
        shutil.rmtree(place, ignore_errors=True)
        self.python(self.cases / case / "make.py", *arguments, place)
        return place

    def train(self, scene: Path | str, *arguments: object) -> Run:
        """Trains at degree 1, in a folder of its own."""
        (self.folder / "out").mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder / "out"))
        flags = ("--device", "cpu", "--quiet", "--sh_degree", 1)
        return Run(folder, self.python("train.py", *flags, "-s", scene, "-m", folder, *arguments))

    def render(self, model: Path, *arguments: object) -> str:
        """What render.py says."""
        return self.python("render.py", model, "--device", "cpu", *arguments)

    def _run(self, command: Sequence[str]) -> str:
        environment = os.environ | {"PY": sys.executable, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(self.folder)}
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            said = process.communicate(timeout=LIMIT_S)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the whole session, which is this command's alone
            raise CaseError(f"no end within {LIMIT_S} s") from None
        if process.returncode:
            raise CaseError(f"code {process.returncode}: {said.strip().rpartition(chr(10))[2]}")
        return said


Trial = Callable[[Bench], Iterator[Row]]
TRIALS: dict[str, Trial] = {}
"""By the name of the case."""


def trial(case: str) -> Callable[[Trial], Trial]:
    """Adds a case, called as its folder."""

    def add(function: Trial) -> Trial:
        TRIALS[case] = function
        return function

    return add


def decibels(case: str, psnr: float, expected: float) -> Row:
    """A row for a quality."""
    return Row(case, f"{psnr:.2f} dB", f"{expected:.1f} dB", abs(psnr - expected) <= TOLERANCE_DB)


def rendered_psnr(said: str) -> float:
    """What render.py measured, dB; 0 if nothing."""
    found = re.search(r"test PSNR ([\d.]+)", said)
    return float(found[1]) if found else 0.0


def equal(case: str, printed: str, expected: str) -> Row:
    """A row for words."""
    return Row(case, printed, expected, printed == expected)


def matching(case: str, said: str, pattern: str, expected: str) -> Row:
    """A row for a line that something must have said; else the last one is shown."""
    lines = [line for line in said.splitlines() if line.strip()] or ["nothing"]
    found = next((line for line in lines if re.search(pattern, line)), None)
    return Row(case, found or lines[-1], expected, found is not None and "Traceback" not in said)


# ------------------------------------------------------------------------------------------------------------ scenes


@trial("yardstick")
def yardstick(bench: Bench) -> Iterator[Row]:
    """The demo scene itself."""
    for steps, expected in ((100, 21.11), (150, 22.77), (600, 28.15)):
        run = bench.train("data/demo", "-r", 80, "--iterations", steps)
        yield decibels(f"yardstick, {steps} steps", run.psnr, expected)


@trial("dots_without_extension")
def dots(bench: Bench) -> Iterator[Row]:
    scene = bench.made("dots_without_extension", "data/demo")
    run = bench.train(scene, "-r", 80, "--iterations", 20)
    cached = [path for path in (scene / ".distwar_cache").rglob("*") if path.is_file()]
    distinct = {hashlib.sha256(path.read_bytes()).digest() for path in cached}
    yield equal("dots_without_extension", f"{len(cached)} photos, {len(distinct)} distinct", "40 photos, 40 distinct")
    yield equal("dots_without_extension, views", run.views.partition(",")[0], "35 + 5 views")


@trial("georeferenced")
def georeferenced(bench: Bench) -> Iterator[Row]:
    run = bench.train(bench.made("georeferenced", "data/demo"), "-r", 80, "--iterations", 600)
    ply = run.folder / "point_cloud/iteration_600/point_cloud.ply"
    header = ply.read_bytes().partition(b"end_header")[0].decode()
    yield decibels("georeferenced", run.psnr, 28.1)
    yield matching("georeferenced, PLY", header, r"^comment SplatOrigin: \S+ \S+ \S+$", "where its origin is")
    yield matching("georeferenced, rendered", bench.render(run.folder), rf"test PSNR {run.psnr:.2f} dB",
                   f"test PSNR {run.psnr:.2f} dB, as trained")  # fmt: skip


@trial("long_path")
def long_path(bench: Bench) -> Iterator[Row]:
    scenes = bench.made("long_path")
    for name, expected in (("pillars", 16.7), ("wall", 14.2)):
        run = bench.train(scenes / name, "--iterations", 300)
        yield decibels(f"long_path, {name}", run.psnr, expected)
        other = bench.folder / f"{name}.ply"
        shutil.copy(run.folder / "point_cloud/iteration_300/point_cloud.ply", other)
        said = bench.render(other, "-s", scenes / name, "--out", bench.folder / "out" / f"{name}-other")
        yield decibels(f"long_path, {name}, other.ply -s", rendered_psnr(said), expected)


@trial("far_camera")
def far_camera(bench: Bench) -> Iterator[Row]:
    run = bench.train(bench.made("far_camera", "data/demo"), "-r", 80, "--iterations", 100)
    yield Row("far_camera", f"{run.psnr:.2f} dB", "20 dB and more", run.psnr >= 20.0)
    yield matching("far_camera, said", run.said, r"far from all other cameras.*: view_\d+", "the camera is named")


@trial("point_colours")
def point_colours(bench: Bench) -> Iterator[Row]:
    scene = bench.made("point_colours", "data/demo")
    code = f"from datasets import load_scene as l; print(*l({str(scene)!r}).points.colors.mean(0).round().astype(int))"
    yield equal("point_colours", bench.python("-c", code).splitlines()[-1], "135 124 110")


@trial("quaternion_not_unit")
def quaternion_not_unit(bench: Bench) -> Iterator[Row]:
    scene = bench.made("quaternion_not_unit", "data/demo")
    code = (
        "from datasets import load_scene; import numpy as np; "
        f"m = load_scene({str(scene)!r}).train[0].viewmat[:3, :3]; print(np.diag(m @ m.T).round(9), np.linalg.det(m))"
    )
    yield matching("quaternion_not_unit", bench.python("-c", code), r"^\[1\. 1\. 1\.\] (1\.0+\d*|0\.9999999\d*)$",
                   "1 on the diagonal, determinant 1")  # fmt: skip


@trial("mirrored_poses")
def mirrored_poses(bench: Bench) -> Iterator[Row]:
    run = bench.train(bench.made("mirrored_poses", "data/demo"), "-r", 80, "--iterations", 2)
    yield matching("mirrored_poses, read", run.said, "all 40 poses are mirrored", "said at reading")
    said = bench.render(run.folder, "--path", "interpolate", "--frames", 3, "--skip_test")
    yield matching("mirrored_poses, video", said, r"^video: .*interpolate\.mp4$", "a video, no traceback")


@trial("alpha_as_mask")
def alpha_as_mask(bench: Bench) -> Iterator[Row]:
    scene = bench.made("alpha_as_mask", "data/demo") / "alpha"
    for name, arguments, expected in (("laid on black", (), 21.2), ("mask", ("--set", "data.alpha=mask"), 22.4)):
        run = bench.train(scene, "-r", 80, "--iterations", 150, *arguments)
        said = bench.render(run.folder, "-s", "data/demo", "-r", 80, "--out", run.folder / "whole")
        yield decibels(f"alpha_as_mask, {name}", rendered_psnr(said), expected)
        if not arguments:
            yield matching("alpha_as_mask, hint", run.said, "use --set data.alpha=mask", "a choice, and a hint")


def views_of(case: str, places: Sequence[str], expected: str, *arguments: object) -> None:
    """A case whose scenes need only be read as they are: what two steps say of their views."""

    def rows(bench: Bench) -> Iterator[Row]:
        scene = bench.made(case, "data/demo")
        for place in places:
            run = bench.train(scene / place, "--iterations", 2, "-r", 80, *arguments)
            printed = run.views if "points" in expected else run.views.partition(",")[0]
            yield equal(case + (f", {place}" if place != "." else ""), printed, expected)

    TRIALS[case] = rows


views_of("one_line_per_image", ["."], "35 + 5 views")
views_of("name_with_a_space", ["."], "35 + 5 views")
views_of("given_split_ignored", ["inria", "scannetpp", "nerfstudio"], "30 + 10 views")
views_of("points3d_beside_blender", ["."], "35 + 5 views, 3,000 points")
views_of("bom", [".", "text_model"], "35 + 5 views")


# ------------------------------------------------------------------------------------------------------------ attacks


@trial("scene-gone")
def scene_gone(bench: Bench) -> Iterator[Row]:
    said = bench.bash(bench.cases / "scene-gone/repro.sh")
    yield matching("scene-gone, to the end", said, r"^end: rc=0 .*step_60\.pt.* ply: iteration_60", "code 0, a model")
    yield matching("scene-gone, SIGTERM", said, r"^term: rc=143 .*step_10\.pt step_\d+\.pt", "code 143, a checkpoint")


@trial("lost-terminal")
def lost_terminal(bench: Bench) -> Iterator[Row]:
    said = bench.python(bench.cases / "lost-terminal/repro.py")
    yield matching("lost-terminal, SIGHUP", said, r"SIGHUP default -> exit 129 .*'step_(?!10\.)\d+\.pt'.*stopped at",
                   "code 129, a checkpoint, the reason in train.log")  # fmt: skip
    yield matching("lost-terminal, nohup", said, r"SIGHUP ignore -> exit 0 .*step_400\.pt.*saved", "trains to the end")
    if not can_mount():
        yield Row("lost-terminal, full log", "needs root, to mount a small disk", "trains to the end", None)
        return
    said = bench.bash(bench.cases / "lost-terminal/full_log.sh")
    lines = ", ".join(line for line in said.splitlines() if line.startswith("rc=") or line == "step_300.pt")
    yield matching("lost-terminal, full log", lines, r"^rc=0 .*step_300\.pt$", "code 0, the last checkpoint")


@trial("torn-kernel")
def torn_kernel(bench: Bench) -> Iterator[Row]:
    said = bench.bash(bench.cases / "torn-kernel/repro.sh")
    codes = re.findall(r"\d+ bytes: rc=(\d+)", said)
    built = len(re.findall("^built the distwar cpu kernels", said, re.MULTILINE))
    yield equal("torn-kernel", f"codes {' '.join(codes)}, built {built} times", "codes 0 0 0 0, built 2 times")
    yield matching("torn-kernel, doctor", said, "^verdict: can train on cpu", "all is well, after that")


@trial("video-full-disk")
def video_full_disk(bench: Bench) -> Iterator[Row]:
    said = bench.bash(bench.cases / "video-full-disk/repro.sh")
    yield matching("video-full-disk", said, r"^error: \S*ellipse\.mp4: could not be written", "an error")
    yield matching("video-full-disk, code", said, r"^rc=1$", "rc=1")
    yield matching("video-full-disk, file", said, r"^ls: .*ellipse\.mp4.*No such file", "no file")


@trial("odd-numbers")
def odd_numbers(bench: Bench) -> Iterator[Row]:
    said = bench.bash(bench.cases / "odd-numbers/repro.sh")
    for name, pattern in {
        "nan": r"^error: --fps is nan: it must be",
        "inf": r"^error: --fps is inf: it must be",
        "not UTF-8": r"^(error: )?\S*not_utf8_\S*: .*UTF-8",
        "a bomb": r"^error: \S*bomb\.spz: .*50,000,000 Gaussians",
    }.items():
        yield matching(f"odd-numbers, {name}", said, pattern, "one line")


@trial("no-home")
def no_home(bench: Bench) -> Iterator[Row]:
    if os.geteuid() != 0:
        yield Row("no-home", "needs root, to be somebody else", "works, or one line", None)
        return
    said = bench.bash(bench.cases / "no-home/repro.sh")
    trained = said.partition("verdict:")[0].strip()  # the last line of a quiet training: none, if nothing is wrong
    wrong = re.search(r"\b\w*(Error|Exception)\b|Traceback", trained)
    yield Row("no-home", trained or "nothing", "works, or one line", not wrong)
    yield matching("no-home, doctor", said, "^verdict: can train", "can train")


def can_mount() -> bool:
    """Whether a small disk can be mounted; if not, a script that fills one would fill the real one."""
    with tempfile.TemporaryDirectory() as place:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
            return False
        return subprocess.run(["umount", place], capture_output=True).returncode == 0


# -------------------------------------------------------------------------------------------------------------- table


def rows_of(bench: Bench, names: Sequence[str]) -> Iterator[Row]:
    """All rows of the cases, as they come; a command that fails is a row."""
    for name in names:
        if name != "yardstick" and not (bench.cases / name).is_dir():
            yield Row(name, f"no such folder in {bench.cases.name}", "", None)
            continue
        try:
            yield from TRIALS[name](bench)
        except (CaseError, OSError, LookupError, ValueError) as error:
            yield Row(name, f"{type(error).__name__}: {error}", "that it runs", False)


def line_of(row: Row, folder: Path) -> str:
    """A row of the table, without the places of this machine."""
    printed = row.printed.replace(f"{folder}/", "").replace("|", "\\|")
    printed = re.sub(r"/\S*/tmp\.?\w{8,}/", "", printed)
    ok = {True: "ok", False: "**wrong**", None: "not tried"}[row.ok]
    return f"| {row.case} | {printed if len(printed) <= 110 else printed[:107] + '...'} | {row.expected} | {ok} |"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    result.add_argument("cases", type=Path, metavar="CASES", help="the folder with a folder for each case")
    result.add_argument("--only", nargs="+", choices=list(TRIALS), metavar="CASE", help="only these (default: all)")
    result.add_argument("--work", type=Path, metavar="DIR", help="a folder to keep (default: a temporary one)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases, prints the table row by row, and returns 0 if no value is wrong, else 1."""
    args = parser().parse_args(argv)
    if not args.cases.is_dir():
        print(f"{args.cases}: no such folder; give the one that holds the cases", file=sys.stderr)
        return 1
    for number in (signal.SIGHUP, signal.SIGINT):  # what is started has them as from a terminal, under nohup, too
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    with tempfile.TemporaryDirectory() as temporary:
        bench, rows = Bench(args.cases, args.work or Path(temporary)), []
        print("| case | printed | expected | |\n|---|---|---|---|", flush=True)
        for row in rows_of(bench, args.only or list(TRIALS)):
            rows.append(row)
            print(line_of(row, bench.folder), flush=True)
    tried = [row for row in rows if row.ok is not None]
    print(f"\n{sum(row.ok for row in tried)} of {len(tried)} values are right, {len(rows) - len(tried)} not tried")
    return int(not all(row.ok for row in tried))


if __name__ == "__main__":
    sys.exit(main())
