"""The benchmark of scenes larger than memory, on one of 30 small images."""

import re

from demo_runs import run_program


def test_it_measures_both():
    small = ("--images", 30, "--width", 320, "--height", 240, "--budget_gib", 0.004, "--step_ms", 1, "--steps", 40)
    result = run_program("scripts/bench_images.py", *small, "--train_steps", 1)
    assert result.returncode == 0, result.stderr
    rates = {name: float(rate) for name, rate in re.findall(r"(\w+) +0\.004 +1\.000 +([\d.]+)", result.stdout)}
    assert set(rates) == {"needed", "prefetched"} and min(rates.values()) > 1.0
    assert re.search(r"images took -?\d+\.\d\d GiB of 0\.004 GiB allowed", result.stdout)
