"""FLIP: what the package is given and what is stored; skipped in one line where it is missing."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from demo_runs import demo_config, run_program

from distwar_gs.evaluation import flip
from distwar_gs.evaluation.metrics import append_metrics, evaluate
from distwar_gs.training.trainer import Trainer

HALF = torch.arange(24).expand(20, 24) < 12
"""The left half of the images."""


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing remembered of a missing package."""
    flip._tell.cache_clear()


@pytest.fixture
def package(monkeypatch):
    """Stands for flip_evaluator: the same call, the mean difference of the channels for an error."""
    calls = []

    def evaluate(
        reference, test, dynamicRangeString, inputsRGB=True, applyMagma=True, computeMeanError=True, parameters=None
    ):
        assert dynamicRangeString == "LDR" and inputsRGB and not applyMagma and computeMeanError
        for pixels in (reference, test):
            assert pixels.dtype == np.float32 and pixels.flags.c_contiguous and 0 <= pixels.min() <= pixels.max() <= 1
        calls.append((reference, test, parameters))
        errors = np.abs(reference - test).mean(axis=-1, keepdims=True)
        return errors, float(errors.mean()), parameters

    module = ModuleType("flip_evaluator")
    module.evaluate = evaluate
    monkeypatch.setitem(sys.modules, "flip_evaluator", module)
    return calls


def evaluation(with_flip: bool = True, kept: torch.Tensor | None = None, outside: float = 0.0):
    """Three views, each one grey level brighter than the one before; `outside` added where nothing is kept."""
    photos = [torch.full((20, 24, 3), 100, dtype=torch.uint8) for _ in range(3)]
    views = [SimpleNamespace(name=f"v{i}", index=i) for i in range(3)]
    ignored = 0.0 if kept is None else outside * ~kept[..., None]

    def render(view):
        return (photos[view.index] + view.index) / 255 + ignored

    return evaluate(render, photos, views, {}, mask_of=lambda index: kept, with_flip=with_flip)


def test_every_view_is_measured_and_the_protocol_stated(package, tmp_path):
    result = evaluation()
    assert [view.flip for view in result.views] == pytest.approx([0, 1 / 255, 2 / 255])
    assert result.flip == pytest.approx(1 / 255)
    reference, test, parameters = package[2]
    assert reference[0, 0, 0] == np.float32(100 / 255) and test[0, 0, 0] == np.float32(102 / 255), "photo, then render"
    assert parameters == {"ppd": pytest.approx(67.0206, abs=1e-4)}
    append_metrics(tmp_path / "metrics.json", 1, "test", result)
    record = json.loads((tmp_path / "metrics.json").read_text())[0]
    assert record["flip"] == result.flip and record["per_view"][2]["flip"] == result.views[2].flip
    assert "LDR-FLIP" in record["protocol"]["flip"] and "67.02 pixels per degree" in record["protocol"]["flip"]


def test_ignored_pixels_do_not_count(package):
    plain, spoiled = evaluation(kept=HALF), evaluation(kept=HALF, outside=0.5)
    assert plain.views == spoiled.views and plain.flip == pytest.approx(1 / 255)
    assert "FLIP" in plain.protocol["masks"] and not package[0][1][:, 12:].any(), "black in both"


def test_unless_asked_for_it_is_not_measured_and_nothing_said(package, caplog):
    result = evaluation(with_flip=False)
    assert result.flip is None and result.protocol["flip"] == "not computed" and not package and not caplog.records


@pytest.mark.parametrize("what", [None, "broken"])
def test_without_the_package_one_line_says_so(monkeypatch, caplog, what):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "flip_evaluator":
                raise ImportError("nbflip.so: no version information available\nat length")

    if what:
        monkeypatch.delitem(sys.modules, "flip_evaluator", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    caplog.set_level(logging.INFO, "distwar_gs.evaluation.flip")
    results = [evaluation(), evaluation()]
    assert [result.flip for result in results] == [None, None] and results[0].psnr > 40
    assert results[0].protocol["flip"] == "not computed"
    (line,) = (record.getMessage() for record in caplog.records if record.name == "distwar_gs.evaluation.flip")
    assert line.startswith("FLIP skipped, ") and "pip install -r requirements-optional.txt" in line and "\n" not in line


# --------------------------------------------------------------------------------------------------- the package itself


def test_the_package_measures_what_its_authors_published():
    """Black beside white, and the default viewing distance of the package."""
    package = pytest.importorskip("flip_evaluator")
    black = torch.zeros(20, 24, 3)
    measure = flip.flip_measure()
    assert measure(black, black, None) == 0
    assert measure(black + 1, black, None).item() == pytest.approx(0.9674, abs=1e-3)
    noisy = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(0))
    _, mean, parameters = package.evaluate(black.numpy() + np.float32(0.5), noisy.numpy(), "LDR")
    assert measure(noisy, black + 0.5, None).item() == pytest.approx(mean, rel=1e-6)
    assert parameters["ppd"] == pytest.approx(flip.PIXELS_PER_DEGREE, rel=1e-6)


def test_the_package_and_masks():
    pytest.importorskip("flip_evaluator")
    plain, spoiled = evaluation(kept=HALF), evaluation(kept=HALF, outside=0.5)
    assert plain.views == spoiled.views and plain.views[0].flip == 0 < plain.views[1].flip < plain.views[2].flip


def test_render_measures_it_where_it_is_asked_for(demo_run, tmp_path):
    pytest.importorskip("flip_evaluator")
    finished = run_program("render.py", demo_run.folder, "--flip", "--out", tmp_path, "--device", "cpu")
    assert finished.returncode == 0, finished.stderr
    (file,) = tmp_path.rglob("metrics.json")
    record = json.loads(file.read_text())[-1]
    assert 0.01 < record["flip"] < 0.9 and f"FLIP {record['flip']:.4f} (2 views)" in finished.stderr


def test_training_measures_it_where_it_is_asked_for(demo_scene, tmp_path, package, in_process):
    Trainer(demo_config(demo_scene, tmp_path, {"train.iterations": 2, "log.flip": True})).run()
    record = json.loads((tmp_path / "metrics.json").read_text())[-1]
    assert record["flip"] == pytest.approx(sum(view["flip"] for view in record["per_view"]) / 2) and len(package) == 2
