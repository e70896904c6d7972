"""Threads that leave the cores to others while they wait."""

import os
import subprocess
import sys

import pytest
from demo_runs import ENVIRONMENT, ROOT

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "OMP_NUM_THREADS")


def asked(code: str, **variables: str) -> str:
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in SETTINGS} | variables
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


POLICY = """
import os
from distwar_gs.cores import share_cores
print(share_cores(), os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "True PASSIVE"),
        ({"OMP_WAIT_POLICY": "passive"}, "True passive"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "False ACTIVE"),
        ({"GOMP_SPINCOUNT": "1000"}, "False None"),
        ({"KMP_BLOCKTIME": "0"}, "False None"),
    ],
)
def test_what_the_user_has_set_stays(variables, said):
    assert asked(POLICY, **variables) == said


def test_torch_that_is_loaded_already_cannot_be_told():
    assert asked("import torch\n" + POLICY) == "False PASSIVE"


def test_importing_the_library_sets_nothing():
    code = "import os, datasets, distwar_kernels, distwar_gs.trainer; print(os.environ.get('OMP_WAIT_POLICY'))"
    assert asked(code) == "None"


SPINS = """
import os, sys, time
from distwar_gs.cli import run_cli

def main(arguments):
    import torch
    torch.set_num_threads(2)
    x = torch.rand(200_000)
    for _ in range(3):
        x.exp()  # on all threads, of which one waits from then on
    all_threads, this_thread = time.process_time(), time.thread_time()
    while time.thread_time() - this_thread < 0.2:
        x.exp()
        pause = time.thread_time() + 0.002
        while time.thread_time() < pause:  # only this thread has work
            pass
    this_thread = time.thread_time() - this_thread
    print((time.process_time() - all_threads) / this_thread - 1)

run_cli(main, [])
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_threads_that_wait_take_no_time():
    """Where the second thread has next to no work. One that spins takes as much time as the first."""
    waiting, spinning = (float(asked(SPINS, **variables)) for variables in ({}, {"GOMP_SPINCOUNT": "100000000"}))
    assert waiting < 0.3, (waiting, spinning)
