"""The table of tests/stress/user_reports.py: what is wrong is called wrong, and what was not tried is said."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "stress/user_reports.py"


@pytest.fixture(scope="module")
def reports():
    spec = importlib.util.spec_from_file_location("user_reports", SCRIPT)
    module = sys.modules["user_reports"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["user_reports"]


@pytest.fixture
def table(reports, tmp_path, capsys):
    """table({case: {file: content}}): what is printed, without the heading, and the exit code."""
    (tmp_path / "work/data/demo").mkdir(parents=True)

    def run(cases: dict[str, dict[str, str]], only: str) -> tuple[list[str], int]:
        (tmp_path / "cases").mkdir()
        for case, files in cases.items():
            (tmp_path / "cases" / case).mkdir()
            for name, content in files.items():
                (tmp_path / "cases" / case / name).write_text(content)
        code = reports.main([str(tmp_path / "cases"), "--only", only, "--work", str(tmp_path / "work")])
        return capsys.readouterr().out.splitlines()[2:], code

    return run


ENDS = """echo "end: rc={code} checkpoints: step_10.pt step_60.pt  ply: iteration_60"
echo "term: rc=143 checkpoints: step_10.pt step_{step}.pt  ply:"
"""


@pytest.mark.parametrize(
    ("code", "step", "right"), [(0, 51, (True, True)), (1, 51, (False, True)), (0, "", (True, False))]
)
def test_what_a_script_prints_is_right_or_wrong(table, code, step, right):
    lines, exit_code = table({"scene-gone": {"repro.sh": ENDS.format(code=code, step=step)}}, "scene-gone")
    assert [line.endswith("| ok |") for line in lines[:2]] == list(right)
    assert lines[-1] == f"{sum(right)} of 2 values are right, 0 not tried"
    assert exit_code == (not all(right))


def test_a_command_that_fails_is_a_wrong_value(table):
    lines, code = table({"bom": {"make.py": "raise SystemExit('no | such scene')"}}, "bom")
    assert lines[0] == "| bom | CaseError: code 1: no \\| such scene | that it runs | **wrong** |" and code == 1


def test_a_traceback_is_wrong_whatever_else_is_said(table):
    script = "echo 'Traceback (most recent call last):'; echo '0 bytes: rc=0'; echo 'verdict: can train on cpu'"
    lines, code = table({"torn-kernel": {"repro.sh": script}}, "torn-kernel")
    assert [line.endswith("| **wrong** |") for line in lines[:2]] == [True, True] and code == 1


def test_a_case_that_is_not_there_is_not_tried(table):
    lines, code = table({}, "far_camera")
    assert lines[0] == "| far_camera | no such folder in cases |  | not tried |"
    assert lines[-1] == "0 of 0 values are right, 1 not tried" and code == 0


def test_a_folder_that_is_not_there(reports, tmp_path, capsys):
    assert reports.main([str(tmp_path / "nothing")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_every_case_has_a_trial(reports):
    assert len(reports.TRIALS) == 20 and reports.parser().parse_args(["cases", "--only", *reports.TRIALS])
