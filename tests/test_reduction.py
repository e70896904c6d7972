"""Reduction's arguments, and on the GPU the warp-level policies by themselves: sums and numbers of atomic adds."""

import shutil
import subprocess
from pathlib import Path

import pytest

from distwar_kernels import STRATEGIES, Reduction

ROOT = Path(__file__).resolve().parents[1]


def test_defaults():
    assert Reduction() == Reduction("sw_t", 1)
    assert (Reduction("sw_s"), Reduction("sw_b")) == (Reduction("sw_s", 8), Reduction("sw_b", 8))
    assert STRATEGIES == ("gsplat", "atomic", "sw_s", "sw_b", "sw_t", "auto")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("threshold", [0, 32])
def test_valid(strategy, threshold):
    assert Reduction(strategy, threshold).balance_threshold == threshold


def test_as_text_the_threshold_stands_where_it_matters():
    texts = [str(Reduction(strategy, 16)) for strategy in STRATEGIES]
    assert texts == ["gsplat", "atomic", "sw_s@16", "sw_b@16", "sw_t@16", "auto"]


@pytest.mark.parametrize("strategy", ["SW_B", "", "butterfly"])
def test_an_unknown_strategy_lists_the_known_ones(strategy):
    with pytest.raises(ValueError, match="gsplat, atomic, sw_s, sw_b, sw_t, auto"):
        Reduction(strategy)


@pytest.mark.parametrize("threshold", [-1, 33])
def test_a_threshold_is_a_number_of_lanes(threshold):
    with pytest.raises(ValueError, match=rf"{threshold} is outside 0\.\.32"):
        Reduction("sw_b", threshold)


@pytest.mark.gpu
def test_warp_policies_sum_and_save_atomics_as_described(tmp_path):
    """Compiles warp_reduce_check.cu, which compares every policy and threshold with sums made on the host."""
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc on the PATH")
    program = tmp_path / "warp_reduce_check"
    source = ROOT / "tests" / "warp_reduce_check.cu"
    subprocess.run(
        ["nvcc", "-arch=native", "-std=c++17", "-I", ROOT / "distwar_kernels", source, "-o", program], check=True
    )
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
