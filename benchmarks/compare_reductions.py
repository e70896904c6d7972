"""Trains one scene under several reduction strategies and prints a table: speed, blend-backward time, quality.

    python benchmarks/compare_reductions.py -s data/360_v2/bonsai -m output/reductions --iterations 7000

Everything but the strategy is equal: config, seed, view order. Sums in another order differ in the last bits and
training amplifies that, so `--repeat sw_b` runs one strategy twice to show how far equal runs lie apart.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from distwar_gs.cli import run_cli
from distwar_gs.config import Config, load_config, validate, with_values
from distwar_gs.training.trainer import Trainer

COLUMNS = (
    "strategy",
    "threshold",
    "steps/s",
    "blend backward ms",
    "PSNR dB",
    "SSIM",
    "Gaussians",
    "seconds",
    "peak MiB",
)


def main(arguments: Sequence[str]) -> None:
    """Train under each strategy in turn; the table goes to the terminal, reductions.csv and reductions.md."""
    args = _parser().parse_args(arguments)
    folder = Path(args.model_path)
    base = load_config(args.config) if args.config else Config()
    names = args.strategies.split(",") + ([args.repeat] if args.repeat else [])
    rows = []
    for number, name in enumerate(names):
        run_folder = folder / f"{number}_{name}"
        rows.append(_train(_config(base, args, name, run_folder), run_folder))
        _write(rows, folder)
    print(_markdown(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-s", "--source_path", required=True)
    parser.add_argument("-m", "--model_path", default="output/reductions")
    parser.add_argument("--config", help="YAML to start from")
    parser.add_argument("--iterations", type=int, default=7000)
    parser.add_argument(
        "--strategies", default="gsplat,atomic,sw_s,sw_b,sw_t", help="comma-separated (default: %(default)s)"
    )
    parser.add_argument("--balance_threshold", type=int, help="of all of them (default: each one's own)")
    parser.add_argument("--repeat", help="a strategy to train once more, with the same seed")
    return parser


def _config(base: Config, args: argparse.Namespace, strategy: str, folder: Path) -> Config:
    values = {
        "data.source_path": args.source_path,
        "train.result_dir": str(folder),
        "train.iterations": args.iterations,
        "train.checkpoint_every": 0,
        "train.checkpoint_iterations": [],
        "reduction.strategy": strategy,
        "reduction.balance_threshold": args.balance_threshold,
    }
    return validate(with_values(base, values))


def _train(config: Config, folder: Path) -> dict[str, object]:
    """Trains once; returns a row of the table."""
    cuda = torch.cuda.is_available() and config.train.device != "cpu"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    Trainer(config).run()
    record = json.loads((folder / "metrics.json").read_text())[-1]
    values = (
        config.reduction.strategy,
        config.reduction.balance_threshold,
        round(record["step"] / record["train_seconds"], 1),
        round(fmean(_scalars(folder, "time/blend_backward_ms")), 3),
        round(record["psnr"], 3),
        round(record["ssim"], 4),
        record["gaussians"],
        record["train_seconds"],
        torch.cuda.max_memory_allocated() >> 20 if cuda else 0,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _scalars(folder: Path, tag: str) -> list[float]:
    """A TensorBoard curve's values; the first is left out, it includes warming up."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars(tag)][1:]


def _write(rows: Sequence[dict[str, object]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "reductions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "reductions.md").write_text(_markdown(rows) + "\n")


def _markdown(rows: Sequence[dict[str, object]]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    run_cli(main)
