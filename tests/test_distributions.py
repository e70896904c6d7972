"""Histograms and traffic that a run tells now and then: right numbers, and nothing of the run is changed."""

import numpy as np
import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from distwar_gs.training import distributions
from distwar_gs.training.curve_file import read_rows
from distwar_gs.training.distributions import histogram, merged
from distwar_gs.training.hparams import METRICS
from distwar_gs.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("in_process")
NAMES = {"gaussians/opacity", "gaussians/log10_size", "gaussians/log10_position_gradient"}


def test_a_histogram_counts_every_value():
    values = torch.tensor([-5.0, 0.01, 0.01, 0.5, 0.999, 7.0])
    found = histogram(values, 0.0, 1.0)
    assert (found.min, found.max, found.num) == (0.0, 1.0, 6)
    kept = values.clamp(0, 1).double()
    assert found.sum == pytest.approx(float(kept.sum())) and found.sum_squares == pytest.approx(
        float(kept.square().sum())
    )
    expected, edges = np.histogram(kept.numpy(), bins=64, range=(0, 1))
    assert found.bucket_counts == expected.tolist() and found.bucket_limits == pytest.approx(edges[1:].tolist())


def test_histograms_of_parts_are_that_of_the_whole():
    values = torch.randn(50, generator=torch.Generator().manual_seed(1))
    whole, parts = histogram(values, -1.0, 1.0), [histogram(one, -1.0, 1.0) for one in values.split([10, 40, 0])]
    found = merged(parts)
    assert (found.min, found.max, found.num) == (whole.min, whole.max, 50)
    assert found.bucket_counts == whole.bucket_counts and found.bucket_limits == whole.bucket_limits
    assert found.sum == pytest.approx(whole.sum) and found.sum_squares == pytest.approx(whole.sum_squares)


@pytest.fixture(scope="module")
def runs(demo_scene, tmp_path_factory):
    """Two runs with growth and resets, of which one tells a distribution every 10 steps."""
    folder, changes = tmp_path_factory.mktemp("runs"), {**DENSE_SCHEDULE, "train.iterations": 40, "log.every": 1}
    telling = {"log.tensorboard": True, "log.report": True}
    plain, told = (
        Trainer(demo_config(demo_scene, folder / name, changes | more))
        for name, more in (("plain", {}), ("told", telling))
    )
    assert plain.run() == told.run() == 0
    return plain, told


def test_telling_changes_no_bit_of_the_run(runs):
    plain, told = runs
    ply = "point_cloud/iteration_40/point_cloud.ply"
    assert (plain.folder / ply).read_bytes() == (told.folder / ply).read_bytes()
    assert not (plain.folder / "curves.jsonl").exists()


def test_tensorboard_has_the_histograms(runs):
    seen = EventAccumulator(str(runs[1].folder / "tensorboard"), size_guidance={"histograms": 0}).Reload()
    assert set(seen.Tags()["histograms"]) == NAMES
    counts = {event.step: event.value for event in seen.Scalars("gaussians/count")}
    for name in NAMES:
        events = seen.Histograms(name)
        assert [event.step for event in events] == [10, 20, 30, 40]
        for event in events:  # the first hook sees the Gaussians as the curves do
            assert event.histogram_value.num == counts[event.step] == sum(event.histogram_value.bucket)
    opacity = torch.sigmoid(runs[1].state.params["opacities"].detach())
    last = seen.Histograms("gaussians/opacity")[-1].histogram_value
    assert last.sum == pytest.approx(float(opacity.double().sum()), rel=1e-6)


def test_traffic_is_told_as_time_goes(runs):
    rows = [row for row in read_rows(runs[1].folder) if "reduction/mean_lanes" in row]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    for row in rows:
        atomic, used = row["reduction/atomics/atomic"], row["reduction/atomics/sw_t"]
        assert 0 < used < row["reduction/atomics/sw_b"] <= row["reduction/atomics/sw_s"] < atomic
        assert 1 < row["reduction/mean_lanes"] <= 32


def test_a_run_whose_memory_is_full_goes_on(demo_scene, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(distributions, "view_traffic", full)
    run = Trainer(demo_config(demo_scene, tmp_path / "run", {"log.report": True}))
    assert run.run() == 0
    assert "step 10: no histograms" in (run.folder / "train.log").read_text()


def test_runs_are_compared_by_their_settings(runs):
    seen = EventAccumulator(str(runs[1].folder / "tensorboard")).Reload()
    content = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(seen.SummaryMetadata(tag).plugin_data.content)
        for tag in ("_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info")
    }
    shown = {info.name.tag for info in content["_hparams_/experiment"].experiment.metric_infos}
    assert shown == set(METRICS) and {"eval/psnr", "gaussians/count"} <= shown & set(seen.Tags()["scalars"])
    values = content["_hparams_/session_start_info"].session_start_info.hparams
    assert values["densification.strategy"].string_value == "adc" and values["train.iterations"].number_value == 40
    assert values["scene"].string_value == "demo" and "log.every" not in values
    assert content["_hparams_/session_end_info"].session_end_info.status == api_pb2.Status.Value("STATUS_SUCCESS")
