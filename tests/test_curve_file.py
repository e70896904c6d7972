"""curves.jsonl: the curves of a run over its sessions, whatever happens to the file."""

import math
import shutil

import pytest

from distwar_gs.training.curve_file import NAME, CurveFile, read_rows


@pytest.fixture
def curves(tmp_path):
    curves = CurveFile(tmp_path, 1)
    for step in (10, 20, 30):
        curves.add(step, {"train/loss": 1.0 / step})
    return curves


def steps(rows):
    return [row["step"] for row in rows]


def test_rows_are_read_as_they_were_written(tmp_path, curves):
    curves.add(40, {"train/loss": math.nan, "lr/means": 1.6e-4})
    rows = read_rows(tmp_path)
    assert steps(rows) == [10, 20, 30, 40] and rows[0] == {"step": 10, "train/loss": 0.1}
    assert math.isnan(rows[3]["train/loss"]) and rows[3]["lr/means"] == 1.6e-4


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path, curves):
    again = CurveFile(tmp_path, 25)
    again.add(30, {"train/loss": 5.0})
    assert steps(again.rows) == [10, 20, 30] and read_rows(tmp_path)[-1]["train/loss"] == 5.0


def test_a_run_that_begins_has_none_of_another(tmp_path, curves):
    CurveFile(tmp_path, 1)
    assert read_rows(tmp_path) == []


def test_a_run_that_is_sent_back_forgets(tmp_path, curves):
    curves.rewind(20)
    assert steps(read_rows(tmp_path)) == [10, 20]


def test_a_folder_that_was_deleted_gets_all_rows_again(tmp_path, curves, caplog):
    (tmp_path / "run").mkdir()
    curves.move(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    curves.add(40, {"train/loss": 0.0})
    curves.add(50, {"train/loss": 0.0})
    assert [record.message.count("cannot be written") for record in caplog.records] == [1]
    curves.move(tmp_path / "run")
    assert steps(read_rows(tmp_path / "run")) == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": "a"}', '{"train/loss": 1}', '{"step": 40, "a": null}', "\xff"])
def test_what_is_no_row_is_left_out(tmp_path, curves, line):
    (tmp_path / NAME).write_text((tmp_path / NAME).read_text() + line + '\n{"step": 50}\n{"step": 6')
    assert steps(read_rows(tmp_path)) == [10, 20, 30, 50]


def test_no_file_is_no_rows(tmp_path):
    (tmp_path / NAME).mkdir()
    assert read_rows(tmp_path) == read_rows(tmp_path / "nowhere") == []
