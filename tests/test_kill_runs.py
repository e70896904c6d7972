"""The script that kills trainings, with two kills."""

import re

from demo_runs import run_program


def test_two_kills():
    result = run_program("tests/stress/kill_runs.py", "--kills", 2, "--steps", 30, "--seed", 1)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^\| all \| 2 \| \d+\.\d \| [0-7] \|$", result.stdout, re.MULTILINE)
    assert "is as the uninterrupted one, after 2 kills" in result.stdout
