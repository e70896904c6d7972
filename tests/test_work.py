"""A run's state: what goes on, and what is refused."""

import json

import pycolmap
import pytest

from datasets.errors import DataError
from distwar_gs.capture.work import Settings, Work

SETTINGS = Settings("photos", "exhaustive", "auto", 1600, 8192, 0, 8)


def test_a_run_goes_on_after_the_stages_that_are_done(tmp_path):
    ran, said = [], []
    for expected in (["one", "two"], ["one", "two"]):
        work = Work.begun(tmp_path / "out", SETTINGS, 1, said.append)
        work.once("one", lambda work: ran.append("one"))
        work.once("two", lambda work: work.notes.update(parts=1) or ran.append("two"))
        assert list(work.done) == expected
    assert ran == ["one", "two"] and work.notes == {"parts": 1}
    assert said == ["one ...", "one: 0 s", "two ...", "two: 0 s", f"{tmp_path / 'out'}: going on after one, two"]


def test_a_stage_that_fails_is_not_done(tmp_path):
    work = Work.begun(tmp_path / "out", SETTINGS, 1, lambda line: None)

    def fail(work: Work) -> None:
        raise RuntimeError("Check failed: a\nb")

    with pytest.raises(DataError, match="COLMAP failed while it did features: Check failed: a$"):
        work.once("features", fail)
    assert json.loads((tmp_path / "out/sfm/state.json").read_text())["done"] == {}


@pytest.mark.parametrize("content", ["", "[1]", '{"settings": {}, "done": []}'])
def test_a_damaged_state_is_named(tmp_path, content):
    (tmp_path / "mine/sfm").mkdir(parents=True)
    (tmp_path / "mine/sfm/state.json").write_text(content)
    with pytest.raises(DataError, match=r"mine/sfm/state\.json: is damaged; delete .*mine and begin again"):
        Work.begun(tmp_path / "mine", SETTINGS, 1)


@pytest.mark.parametrize(("word", "other"), [("camera", "OPENCV"), ("max_size", 100), ("number", 9)])
def test_other_settings_are_refused(tmp_path, word, other):
    Work.begun(tmp_path, SETTINGS, 1)
    changed = Settings(**{**vars(SETTINGS), word: other})
    with pytest.raises(DataError, match=f"was begun with {word} {getattr(SETTINGS, word)}, not {other}; repeat it"):
        Work.begun(tmp_path, changed, 1)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and was not begun by this program"):
        Work.begun(tmp_path, SETTINGS, 1)


def test_a_long_call_returns_its_result_and_is_cancelled_by_ctrl_c(tmp_path, monkeypatch):
    work = Work.begun(tmp_path, SETTINGS, 1)

    def long(factor: int, cancellation_token: pycolmap.CancellationToken) -> int:
        return factor * 3

    assert work.call(long, 2, count=lambda: 0, total=1, unit="photo") == 6
    cancelled = []

    def waits(cancellation_token: pycolmap.CancellationToken) -> None:
        while not cancellation_token.is_cancelled:
            pass
        cancelled.append(True)

    def interrupt() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.call(waits, count=interrupt, total=1, unit="photo")
    assert cancelled == [True]
