"""benchmarks/atomic_traffic.py on the demo run."""

import re

import pytest
from demo_runs import run_program


@pytest.fixture(scope="module")
def printed(demo_run) -> str:
    finished = run_program("benchmarks/atomic_traffic.py", demo_run.folder, "--views", 3, "--device", "cpu")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_groups_of_lanes_make_all_visits(printed):
    shares = [float(share) for share in re.findall(r"active lanes:\s+([\d.]+) %", printed)]
    assert len(shares) == 5 and sum(shares) == pytest.approx(100.0, abs=0.3)


def test_a_higher_threshold_leaves_more_atomics(printed):
    atomics = [int(n.replace(",", "")) for n in re.findall(r"sw_t at \d+\s+([\d,]+)", printed)]
    (plain,) = (int(n.replace(",", "")) for n in re.findall(r"^\s+atomic\s+([\d,]+)", printed, re.MULTILINE))
    assert atomics == sorted(atomics) and 0 < atomics[0] < atomics[-1] < plain
