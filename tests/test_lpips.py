"""LPIPS: what it is given and what is stored, with stand-ins for the network; skipped in one line without its parts."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from distwar_gs.evaluation import lpips
from distwar_gs.evaluation.metrics import append_metrics, evaluate

CPU = torch.device("cpu")


class Metric(torch.nn.Module):
    """torchmetrics' LearnedPerceptualImagePatchSimilarity as it is called, with the mean difference for distance."""

    def __init__(self, net_type: str, normalize: bool) -> None:
        super().__init__()
        assert (net_type, normalize) == ("vgg", False)
        self.scores: list[Tensor] = []

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        assert image.shape == target.shape and image.shape[:2] == (1, 3)
        assert not self.scores, "an earlier view's value would be averaged in"
        self.scores.append((image - target).abs().mean())
        return self.scores[0]

    def reset(self) -> None:
        self.scores.clear()


@pytest.fixture(autouse=True)
def forgotten(monkeypatch, tmp_path):
    """No weights, no packages, nothing remembered."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("torchmetrics", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    yield
    lpips._loaded.cache_clear()
    lpips._tell.cache_clear()


@pytest.fixture
def parts(monkeypatch):
    """All parts."""
    lpips.weights_file().parent.mkdir(parents=True)
    lpips.weights_file().write_bytes(b"weights")
    for name in ("torchmetrics", "torchmetrics.image", "torchmetrics.image.lpip", "torchvision"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torchmetrics"].image = sys.modules["torchmetrics.image"]
    sys.modules["torchmetrics.image"].lpip = sys.modules["torchmetrics.image.lpip"]
    sys.modules["torchmetrics.image.lpip"].LearnedPerceptualImagePatchSimilarity = Metric


def evaluation(size: int = 20):
    """Three views, each one grey level brighter than the one before."""
    photos = [torch.full((size, size + 4, 3), 100, dtype=torch.uint8) for _ in range(3)]
    views = [SimpleNamespace(name=f"v{i}", index=i) for i in range(3)]
    return evaluate(lambda view: (photos[view.index] + view.index) / 255, photos, views, {})


def test_every_view_is_measured_and_the_protocol_stated(parts, tmp_path):
    result = evaluation()
    assert [view.lpips for view in result.views] == pytest.approx([0, 1 / 255, 2 / 255])
    assert result.lpips == pytest.approx(1 / 255)
    append_metrics(tmp_path / "metrics.json", 1, "test", result)
    record = json.loads((tmp_path / "metrics.json").read_text())[0]
    assert record["lpips"] == result.lpips and record["per_view"][2]["lpips"] == result.views[2].lpips
    assert "VGG-16" in record["protocol"]["lpips"] and "[0, 1]" in record["protocol"]["lpips"]


def test_images_too_small_for_the_network(parts):
    assert evaluation(size=15).lpips is None and evaluation(size=16).lpips is not None


@pytest.mark.parametrize("missing", ["weights", "torchmetrics", "torchvision"])
def test_a_missing_part_is_one_line(parts, monkeypatch, caplog, missing):
    caplog.set_level(logging.INFO)
    if missing == "weights":
        lpips.weights_file().unlink()
    else:
        monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip" if missing == "torchmetrics" else missing, None)
    results = [evaluation(), evaluation()]
    assert [result.lpips for result in results] == [None, None]
    assert results[0].protocol["lpips"] == "not computed"
    assert len(caplog.records) == 1 and caplog.text.count("LPIPS skipped") == 1
    assert ("download.py lpips_vgg" if missing == "weights" else "requirements-optional.txt") in caplog.text


def test_a_torchvision_of_another_torch(parts, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist\nat length")

    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert lpips.missing_part().startswith("operator torchvision::nms does not exist: pip install -r")


def test_without_memory_on_the_gpu_the_cpu_measures(parts, monkeypatch):
    device = torch.device("cpu", 0)
    measure, image = lpips.lpips_vgg(device), torch.zeros(16, 16, 3)
    full = next(cell.cell_contents for cell in measure.__closure__ if isinstance(cell.cell_contents, Metric))
    monkeypatch.setattr(full, "forward", lambda *images: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    assert measure(image + 0.5, image).item() == pytest.approx(0.5)
