"""How OpenMP's threads wait, where other programs want the same processor cores."""

import os
import sys

_SET_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def share_cores() -> bool:
    """Lets OpenMP's threads sleep at barriers instead of spinning (OMP_WAIT_POLICY=PASSIVE); call it before torch is
    imported. Returns whether both torch's threads and the kernels' own will do so.

    A thread that spins takes its core from the thread it waits for as soon as there are more threads than cores: two
    trainings on two cores are then many times as slow as one after the other (docs/performance.md). train.py, render.py
    and the other command lines call it; a program that uses the library calls it at its very start. If a variable that
    says how OpenMP waits (OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME, KMP_LIBRARY) is set already, it stays as it
    is. OpenMP reads it once, when it is loaded: torch's with torch, the kernels' with the first of their ops.
    """
    if not any(name in os.environ for name in _SET_BY_USER):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return "torch" not in sys.modules and os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
