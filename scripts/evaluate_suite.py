"""Trains and measures every scene of a family, and prints the table as papers have it.

    python scripts/evaluate_suite.py mipnerf360
    python scripts/evaluate_suite.py nerf_synthetic --scenes lego ship -- --reduction sw_b --iterations 7000

A family is a folder of configs: configs/mipnerf360, tandt, deepblending, nerf_synthetic, or one of your own. Each scene
is trained by train.py and measured by render.py in processes of its own, so that a failure does not stop the others;
finished scenes are not trained again, interrupted ones go on. What follows -- goes to every train.py. The table is
OUT/suite.md, .csv and .tex; what the programs say is OUT/SCENE.log.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_datasets.errors import DataError
from distwar_gs.cli import run_cli, train_config
from distwar_gs.config import LENGTH, Config, ConfigError, as_values, load_config
from distwar_gs.config.schedule import Schedule
from distwar_gs.rendering import near_plane

ROOT = Path(__file__).resolve().parents[1]

SHIPPED = {
    "mipnerf360": "mipnerf360",
    "tandt": "tandt_db",
    "deepblending": "tandt_db",
    "nerf_synthetic": "nerf_synthetic",
}
"""The families of configs/, and the data set of scripts/download.py that each needs."""

_NO_PART_OF_THE_RESULT = (
    "data.source_path", "data.image_budget_gib", "data.loader_threads", "train.result_dir", "train.resume",
    "train.test_iterations", "train.save_iterations", "train.checkpoint_iterations",
    "train.checkpoint_every", "train.keep_checkpoints", "log.",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A line of the table; None: not known, or not measured."""

    scene: str
    psnr: float | None = None
    """dB, mean over the held-out views; of render.py, from the saved PLY."""
    ssim: float | None = None
    lpips: float | None = None
    flip: float | None = None
    gaussians: float | None = None
    minutes: float | None = None
    """The training loop, without evaluating and saving."""
    memory_gib: float | None = None
    """The most that PyTorch held on the GPU; on the CPU the most that the process held."""
    problem: str = ""
    """Why there are no numbers."""


@dataclass(frozen=True)
class Job:
    """A scene, its run folder and the command that trains it."""

    scene: str
    folder: Path
    arguments: tuple[str, ...]
    """Of train.py."""
    config: Config

    @property
    def log(self) -> Path:
        """What the programs say."""
        return self.folder.with_name(self.scene + ".log")


def main(arguments: Sequence[str]) -> int:
    """Train and measure what is not yet; exit code 1 if a scene has failed."""
    own, for_train = _split(list(arguments))
    args = _parser().parse_args(own)
    files = config_files(args.family, args.scenes)
    out = args.out or Path("output") / args.family.rstrip("/").rpartition("/")[2]
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for number, file in enumerate(files, start=1):
        print(f"[{number}/{len(files)}] {file.stem}", end=": ", flush=True)
        results.append(evaluate_scene(file, args.data, out, for_train))
        print(results[-1].problem or one_line(results[-1]), flush=True)
        for suffix, form in FORMS.items():
            (out / f"suite{suffix}").write_text(form(results), encoding="utf-8")
    print("\n" + "\n".join(f"{'-' * 8} suite{suffix}\n{form(results)}" for suffix, form in FORMS.items()))
    hint = SHIPPED.get(args.family)
    if hint and any("no such folder" in result.problem for result in results):
        print(f"data that are missing come with: python scripts/download.py {hint} --out {args.data}")
    return 1 if any(result.problem for result in results) else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is before -- and what is after it."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="What follows -- goes to every train.py."
    )
    parser.add_argument("family", help=f"{', '.join(SHIPPED)}, or a folder of YAML files")
    parser.add_argument("--scenes", nargs="+", metavar="SCENE", help="some of the family (default: all)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    parser.add_argument("--out", type=Path, help="folder of the runs and the table (default: output/FAMILY)")
    return parser


def config_files(family: str, scenes: Sequence[str] | None) -> list[Path]:
    """The configs of a family, by name. ConfigError for a family or a scene that there is not."""
    folder = ROOT / "configs" / family if family in SHIPPED else Path(family)
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if not files:
        raise ConfigError(f"{folder}: no configs there; give {', '.join(SHIPPED)}, or a folder of YAML files")
    if unknown := [scene for scene in scenes or () if scene not in files]:
        raise ConfigError(f"{unknown[0]}: no scene of {folder}, which has {', '.join(files)}")
    return [files[scene] for scene in scenes or files]


# ---------------------------------------------------------------------------------------------------------- one scene


def evaluate_scene(file: Path, data: Path, out: Path, for_train: Sequence[str]) -> Result:
    """Train and measure a scene as far as that is not done; a failure is part of the result."""
    try:
        job = job_of(file, data, out, for_train)
        if not Path(job.config.data.source_path or "").is_dir():
            raise DataError(f"{job.config.data.source_path}: no such folder")
        _check_same(job)
        if not _is_trained(job):
            _run(job, "train.py", *job.arguments)
        if not _measured(job).is_file():
            _run(job, "render.py", str(job.folder), "--device", job.config.train.device)
        return _result(job)
    except (DataError, ConfigError) as error:
        return Result(file.stem, problem=f"failed: {error}")


def job_of(file: Path, data: Path, out: Path, for_train: Sequence[str]) -> Job:
    """What to do for a config: its data are looked for under `data` where it says data/. ConfigError as train.py's."""
    folder = out / file.stem
    source = Path(load_config(file).data.source_path or "")
    if source.parts[:1] == ("data",):
        source = data.joinpath(*source.parts[1:])
    arguments = ("--config", str(file), "-s", str(source), "-m", str(folder), "--resume", "auto", *for_train)
    return Job(file.stem, folder, arguments, train_config(arguments))


def _check_same(job: Job) -> None:
    """ConfigError if the run folder holds a run whose numbers would be of something else."""
    if not (job.folder / "config.yaml").is_file():
        return
    was, now = as_values(load_config(job.folder / "config.yaml")), as_values(job.config)
    if now[near_plane.KEY] is None:
        was[near_plane.KEY] = None  # the run has the number that it has derived from the scene
    for key in (*LENGTH, *now):  # others follow the length
        if was[key] != now[key] and not key.startswith(_NO_PART_OF_THE_RESULT):
            raise ConfigError(f"{job.folder} was trained with {key} {was[key]}, not {now[key]}; choose another --out")


def _run(job: Job, program: str, *arguments: str) -> None:
    """A program in a process of its own, its output in the job's log. DataError with its last words if it fails."""
    print(f"{program} ", end="", flush=True)
    with job.log.open("a", encoding="utf-8") as log:
        process = subprocess.Popen([*_command(program), *arguments], stdout=log, stderr=log)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # of Ctrl-C it has heard too, and is saving a checkpoint; of SIGTERM it has not
            process.terminate()
            process.wait()
            raise
    if code == 0:
        return
    if code in (130, 143):
        raise KeyboardInterrupt
    lines = [line for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    raise DataError(f"{program} ended with {code}: {lines[-1] if lines else 'no message'} (see {job.log})")


def _command(program: str) -> list[str]:
    """train.py or render.py, as it lies beside this folder or, where that is installed, in the package."""
    file = ROOT / program
    return [sys.executable, *([str(file)] if file.is_file() else ["-m", "distwar_gs.programs", program])]


def _is_trained(job: Job) -> bool:
    """Whether the run has come to its end, in steps or in seconds."""
    if not (job.folder / "metrics.json").is_file():
        return False
    last = _last_record(job)
    return Schedule(job.config.train.iterations, job.config.train.seconds).is_over(
        last.get("step", 0), last.get("train_seconds", 0.0)
    )


def _last_record(job: Job) -> dict:
    return max(read_records(job.folder / "metrics.json"), default={}, key=lambda record: record["step"])


def _measured(job: Job) -> Path:
    """render.py's numbers of the last model."""
    return job.folder / "renders" / f"iteration_{_last_record(job).get('step', 0)}" / "metrics.json"


def read_records(file: Path) -> list[dict]:
    """The list that train.py or render.py wrote. DataError for anything else."""
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        sound = all(isinstance(record["step"], int) and isinstance(record["split"], str) for record in records)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{file}: is not a list of metrics; delete its folder, and start this again")
    return records


def _result(job: Job) -> Result:
    step = _last_record(job).get("step", 0)
    measured = [record for record in read_records(_measured(job)) if record["split"] == "test"]
    trained = [record for record in read_records(job.folder / "metrics.json") if record["step"] == step]
    if not measured or not trained:
        raise DataError(f"{job.folder}: no held-out views were measured at step {step}; train without --no_eval")
    try:
        numbers = {name: measured[-1][name] for name in ("psnr", "ssim", "lpips")}
        numbers["flip"] = measured[-1].get("flip")  # an older run has none
        minutes, count = trained[-1]["train_seconds"] / 60, trained[-1]["gaussians"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{job.folder}: its metrics.json are damaged ({error}); delete it, and start again") from error
    return Result(job.scene, **numbers, gaussians=count, minutes=minutes, memory_gib=_memory(job))


def _memory(job: Job) -> float | None:
    """The highest point of the run's memory curve in TensorBoard; None if it wrote none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = job.folder / "tensorboard"
    if not folder.is_dir():
        return None
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves = [tag for tag in ("memory/reserved_mib", "memory/resident_mib") if tag in events.Tags()["scalars"]]
    return max(event.value for event in events.Scalars(curves[0])) / 1024 if curves else None


# -------------------------------------------------------------------------------------------------------------- tables

COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "psnr": ("PSNR", "{:.2f}".format),
    "ssim": ("SSIM", "{:.3f}".format),
    "lpips": ("LPIPS", "{:.3f}".format),
    "flip": ("FLIP", "{:.3f}".format),
    "gaussians": ("Gaussians", "{:,.0f}".format),
    "minutes": ("minutes", "{:.1f}".format),
    "memory_gib": ("GiB", "{:.2f}".format),
}


def one_line(result: Result) -> str:
    """PSNR 27.30, SSIM 0.862, ..."""
    values = ((title, getattr(result, name), form) for name, (title, form) in COLUMNS.items())
    return ", ".join(f"{title} {form(value)}" for title, value, form in values if value is not None)


def mean(results: Sequence[Result]) -> Result:
    """Over the scenes that have numbers; a column that one of them lacks has no mean."""
    whole = [result for result in results if not result.problem]
    columns = {name: [getattr(result, name) for result in whole] for name in COLUMNS}
    means: dict[str, Any] = {name: fmean(values) for name, values in columns.items() if values and None not in values}
    return Result("mean" if len(whole) == len(results) else f"mean of {len(whole)}", **means)


def _cells(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows as text, without the columns that nobody has."""
    rows = [*results, mean(results)]
    names = [name for name in COLUMNS if any(getattr(row, name) is not None for row in rows)]
    texts = [
        [row.scene, *("" if getattr(row, name) is None else COLUMNS[name][1](getattr(row, name)) for name in names)]
        for row in rows
    ]
    return ["scene", *(COLUMNS[name][0] for name in names)], texts


def markdown(results: Sequence[Result]) -> str:
    """A table, and a line for each failure."""
    titles, rows = _cells(results)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return table + "".join(f"\n{result.scene} {result.problem}\n" for result in results if result.problem)


def latex(results: Sequence[Result]) -> str:
    """The same for \\input, with booktabs' rules."""
    titles, rows = _cells(results)
    lines = [" & ".join(line).replace("_", "\\_") + " \\\\" for line in (titles, *rows)]
    body = [lines[0], "\\midrule", *lines[1:-1], "\\midrule", lines[-1]]
    columns = "l" + "r" * (len(titles) - 1)
    return "\n".join([f"\\begin{{tabular}}{{{columns}}}", "\\toprule", *body, "\\bottomrule", "\\end{tabular}", ""])


def comma_separated(results: Sequence[Result]) -> str:
    """All digits, all columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in (*results, mean(results)))
    return text.getvalue()


FORMS: dict[str, Callable[[Sequence[Result]], str]] = {".md": markdown, ".csv": comma_separated, ".tex": latex}


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
