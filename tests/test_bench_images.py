"""The benchmark of scenes larger than memory, on one of 30 small images."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from demo_runs import run_program
from scripts_as_modules import imported_script

SMALL = ("--images", 30, "--width", 320, "--height", 240, "--budget_gib", 0.004, "--step_ms", 1, "--steps", 40)


def rates(printed: str) -> dict[str, float]:
    """Steps per second by how the images come."""
    return {name: float(rate) for name, rate in re.findall(r"(\w+) +0\.004 +1\.000 +([\d.]+)", printed)}


@pytest.mark.slow
def test_it_measures_both():
    result = run_program("benchmarks/bench_images.py", *SMALL, "--train_steps", 1, fresh=True)
    assert result.returncode == 0, result.stderr
    assert set(rates(result.stdout)) == {"needed", "prefetched"} and min(rates(result.stdout).values()) > 1.0
    assert re.search(r"images took -?\d+\.\d\d GiB of 0\.004 GiB allowed", result.stdout)


def test_it_measures_images_and_training(capsys, monkeypatch):
    """In this process, but for one training instead of two."""
    with imported_script("bench_images", "benchmarks") as bench:
        monkeypatch.setattr(bench, "ProcessPoolExecutor", lambda count, context: ThreadPoolExecutor(count))
        real, rows = bench.train, []

        def once(scene, run, budget, steps):
            rows[:] = rows or [real(scene, run, budget, steps)]
            return rows[0]

        monkeypatch.setattr(bench, "train", once)
        bench.main([*map(str, SMALL), "--train_steps", "1"])
    printed = capsys.readouterr().out
    assert set(rates(printed)) == {"needed", "prefetched"} and min(rates(printed).values()) > 1.0
    assert rows[0].budget_gib == 0.0 and 0.1 < rows[0].peak_gib < 8.0
    assert "images took 0.00 GiB of 0.004 GiB allowed" in printed
