"""Trainings by several ranks: the files of a run, going on with another number, and ranks that die."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_runs import ROOT, demo_config
from rank_processes import RankProcesses, on_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._pytree import tree_leaves

from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.config import ConfigError, with_values
from distwar_gs.formats.export import load_ply
from distwar_gs.gaussians.model import PARAMETER_NAMES
from distwar_gs.programs import _equipped
from distwar_gs.rendering import renderer
from distwar_gs.rendering.views import open_scene
from distwar_gs.system import peers
from distwar_gs.system.command_line import run_cli
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training import split
from distwar_gs.training.split import showing, with_split
from distwar_gs.training.state import PARTS
from distwar_gs.training.together import REFUSED, own_config
from distwar_gs.training.trainer import Trainer
from distwar_gs.viewing.live.shared import SharedViewer
from distwar_gs.viewing.timelapse import Timelapse
from distwar_kernels.fused import fused

pytestmark = pytest.mark.usefixtures("in_process")

STEPS, HALF, CAP = 48, 24, 3000
CHANGES = {
    "train.iterations": STEPS, "train.checkpoint_iterations": (HALF,), "densification.cap_max": CAP,
    "densification.start": 12, "densification.every": 12, "densification.stop": 42, "model.sh_degree_interval": 12,
    "densification.order_every": 24, "model.sh_degree": 2, "log.every": 10,
}  # fmt: skip
"""Refinements, spatial order and all degrees of harmonics within a few seconds."""


def _train(ranks: Ranks, scene: Path, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    run = Trainer(demo_config(scene, folder, CHANGES | changes))
    code = run.run()
    return {"code": code, "count": len(run.state.params["means"]), "step": run.state.step, "last": run.monitor.last}


def _model(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_ply(folder / "point_cloud" / f"iteration_{step}" / "point_cloud.ply")


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in PARAMETER_NAMES)


@pytest.fixture(scope="module")
def runs(demo_scene, tmp_path_factory) -> dict[int, tuple[Path, list[dict[str, Any]]]]:
    """The run by one process, by two and by three ranks: its folder, and what each rank says."""
    folder, made = tmp_path_factory.mktemp("ranks"), {}
    for count in (1, 2, 3):
        where, changes = folder / str(count), {"log.tensorboard": True, "densification.cap_max": CAP}
        said = (
            on_ranks(count, folder / f"said{count}", _train, demo_scene, where, changes)
            if count > 1
            else [_train(ALONE, demo_scene, where, changes)]
        )
        made[count] = where, said
    return made


@pytest.mark.parametrize("count", [2, 3])
def test_a_run_is_that_of_one_process(runs, count):
    (alone, _), (folder, said) = runs[1], runs[count]
    assert sum(one["count"] for one in said) == CAP and max(one["count"] for one in said) < 1.06 * CAP / count
    assert len(_model(folder, STEPS)["means"]) == CAP == len(_model(alone, STEPS)["means"])
    metrics = [json.loads((one / "metrics.json").read_text()) for one in (alone, folder)]
    numbers = [one["evaluations"][-1] if "evaluations" in one else one for one in metrics]
    psnr = [_find(one, "psnr") for one in numbers]
    assert psnr[1] == pytest.approx(psnr[0], abs=1.0) and _find(numbers[1], "gaussians") == CAP
    assert len({one["last"]["train/loss"] for one in said}) == 1  # the mean over the ranks
    assert len(list((folder / "tensorboard").iterdir())) == 1
    histograms = EventAccumulator(str(folder / "tensorboard"), size_guidance={"histograms": 0}).Reload()
    assert histograms.Histograms("gaussians/opacity")[-1].histogram_value.num == CAP
    lines = [line for line in (folder / "train.log").read_text().splitlines() if " ranks train " in line]
    assert len(lines) == 1 and f"{count} ranks" in lines[0]
    talked = [line for line in (folder / "train.log").read_text().splitlines() if "communication" in line]
    assert len(talked) == 1 and talked[0].count("%") == count and " 0.0 %" not in talked[0]


def _find(value: Any, key: str) -> Any:
    """The last value of a key, however deep."""
    found = None
    if isinstance(value, dict):
        found = value.get(key)
        children = value.values()
    else:
        children = value if isinstance(value, list) else ()
    for child in children if not isinstance(found, int | float) else ():
        below = _find(child, key)
        found = below if below is not None else found
    return found


def test_it_goes_on_to_the_same_bits(runs, demo_scene, tmp_path):
    """With as many ranks."""
    folder, _ = runs[2]
    saved = str(folder / "checkpoints" / f"step_{HALF}.pt")
    on_ranks(2, tmp_path / "said", _train, demo_scene, tmp_path / "run", {"train.resume": saved})
    assert _same(_model(tmp_path / "run", STEPS), _model(folder, STEPS))


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_it_goes_on_with_another_number_of_ranks(runs, demo_scene, tmp_path, before, after):
    folder, _ = runs[before]
    saved, work = folder / "checkpoints" / f"step_{HALF}.pt", {"train.resume": "set below"}
    work["train.resume"] = str(saved)
    if after == 1:
        _train(ALONE, demo_scene, tmp_path / "run", work)
    else:
        on_ranks(after, tmp_path / "said", _train, demo_scene, tmp_path / "run", work)
    models = [_model(one, STEPS) for one in (tmp_path / "run", folder)]
    assert len(models[0]["means"]) == len(models[1]["means"]) == CAP
    scores = [_find(json.loads((one / "metrics.json").read_text()), "psnr") for one in (tmp_path / "run", folder)]
    assert scores[0] == pytest.approx(scores[1], abs=1.0)


def test_every_number_of_ranks_reads_all_gaussians(runs):
    path = runs[3][0] / "checkpoints" / f"step_{HALF}.pt"
    whole = load_checkpoint(path, "cpu", PARTS)
    for count in (2, 3, 5):
        read = [load_checkpoint(path, "cpu", PARTS, _rank(rank, count)) for rank in range(count)]
        for name in ("means", "shN"):
            rows = torch.cat([one.params[name] for one in read]).flatten(1)
            assert torch.equal(rows.sort(dim=0).values, whole.params[name].flatten(1).sort(dim=0).values)
        scores = torch.cat([one.parts["densification"]["score"] for one in read])
        assert torch.equal(scores.sort().values, whole.parts["densification"]["score"].sort().values)


def _rank(rank: int, count: int) -> Ranks:
    ranks = Ranks()
    ranks.rank, ranks.count = rank, count
    return ranks


def test_a_damaged_shard_is_told_apart(runs, tmp_path):
    from distwar_gs.checkpoints.checkpoint import DamagedCheckpointError

    for file in (runs[3][0] / "checkpoints").glob(f"step_{HALF}*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / f"step_{HALF}.shard_1_of_3.pt"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(DamagedCheckpointError, match=r"shard_1_of_3.pt is cut off"):
        load_checkpoint(tmp_path / f"step_{HALF}.pt", "cpu", PARTS)
    shard.unlink()
    with pytest.raises(DamagedCheckpointError, match="shard_1_of_3"):
        load_checkpoint(tmp_path / f"step_{HALF}.pt", "cpu", PARTS)


def test_a_run_of_so_many_seconds_ends_at_one_step(demo_scene, tmp_path):
    """Whatever the clocks of the others say."""
    changes = SHORT | {"train.seconds": 0.5, "train.iterations": 1000, "train.checkpoint_iterations": ()}
    one, other = on_ranks(2, tmp_path / "said", _train, demo_scene, tmp_path / "run", changes)
    assert one["step"] == other["step"] > 2 and other["code"] == 0
    assert len(_model(tmp_path / "run", one["step"])["means"]) == one["count"] + other["count"]


# ------------------------------------------------------------------------------------------------ beside Gaussians


SHORT = {
    "train.iterations": 12, "train.checkpoint_iterations": (6,), "model.sh_degree_interval": 4, "data.resolution": 2,
    "data.eval": False,
}  # fmt: skip


def _learned(ranks: Ranks, scene: Path, folder: Path, changes: dict[str, Any]) -> list[torch.Tensor]:
    """What a run has learned beside the Gaussians, and the views that it showed last."""
    run = Trainer(demo_config(scene, folder, CHANGES | SHORT | changes))
    assert run.run() == 0
    return tree_leaves([one.state_dict() for one in run.state.adjustments])


ADJUSTED = {
    "exposure, poses": {
        "appearance.model": "exposure", "poses.refine": True, "poses.warm_up": 0.0, "depth.weight": 0.1,
    },
    "bilateral": {"appearance.model": "bilateral"},
    "exposure, poses, tiles": {
        "appearance.model": "exposure", "poses.refine": True, "poses.warm_up": 0.0, "depth.weight": 0.1,
        "train.split": "tiles",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["exposure, poses", *(pytest.param(one, marks=pytest.mark.slow) for one in [*ADJUSTED][1:])]
)
def test_all_ranks_learn_the_same_beside_the_gaussians(demo_scene, tmp_path, name):
    """And go on with it: with as many ranks to the same bits."""
    changes = ADJUSTED[name]
    whole = on_ranks(2, tmp_path / "a", _learned, demo_scene, tmp_path / "run", changes)
    assert all(map(torch.equal, *whole)) and any(one.abs().max() > 1e-4 for one in whole[0])
    assert (tmp_path / "run" / "refined").is_dir() == ("poses" in name)
    saved = tmp_path / "run" / "checkpoints" / "step_6.pt"
    on = changes | {"train.resume": str(saved)}
    again = on_ranks(2, tmp_path / "b", _learned, demo_scene, tmp_path / "again", on)
    assert all(map(torch.equal, again[0], whole[0])) and _same(*(_model(tmp_path / n, 12) for n in ("run", "again")))
    other = on_ranks(3, tmp_path / "c", _learned, demo_scene, tmp_path / "other", on)
    assert all(map(torch.equal, other[0], other[2]))
    for one, two in zip(other[0], whole[0], strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=0.3 * float(two.abs().max()) + 1e-6)


# ------------------------------------------------------------------------------------------------ one view


def test_a_run_that_shares_out_tiles_is_that_of_one_process(demo_scene, tmp_path):
    """Until Gaussians are drawn anew: as many steps, under the same numbers, with the same losses."""
    changes = SHORT | {"train.split": "tiles", "log.every": 1, "appearance.model": "exposure", "depth.weight": 0.1}
    one, other = on_ranks(2, tmp_path / "said", _train, demo_scene, tmp_path / "run", changes)
    alone = _train(ALONE, demo_scene, tmp_path / "alone", changes)
    assert one["step"] == other["step"] == alone["step"] == 12
    for name in ("train/loss", "train/ssim", "train/psnr"):
        assert one["last"][name] == pytest.approx(alone["last"][name], rel=1e-3), name
    log = (tmp_path / "run" / "train.log").read_text()
    assert "each step shows one view, of which each has some rows" in log
    models = [_model(tmp_path / folder, 12) for folder in ("run", "alone")]
    colors = [torch.cat([model["means"], model["sh0"].flatten(1)], dim=1) for model in models]
    nearest = torch.cdist(*colors).min(dim=1).values  # they are in another order
    assert len(colors[0]) == len(colors[1]) and float(nearest.median()) < 1e-4 and float(nearest.mean()) < 1e-2


def test_tiles_are_shared_out_where_photos_are_large_or_ranks_many(demo_scene, monkeypatch):
    config = demo_config(demo_scene, Path("run"))
    scene = open_scene(config)
    assert with_split(config, scene, ALONE) is config
    assert with_split(config, scene, _rank(0, 4)).train.split == "views"
    assert with_split(config, scene, _rank(0, 17)).train.split == "tiles"
    monkeypatch.setattr(split, "LARGE", scene.train[0].width * scene.train[0].height - 1)
    assert with_split(config, scene, _rank(0, 2)).train.split == "tiles"
    chosen = with_values(config, {"train.split": "views"})
    assert with_split(chosen, scene, _rank(0, 2)) is chosen
    assert showing(chosen, _rank(0, 2)).count == 2 and showing(chosen, ALONE) is ALONE


# ------------------------------------------------------------------------------------------------ watched


def _watched(ranks: Ranks, scene: Path, folder: Path, changes: dict[str, Any], with_page: bool) -> int:
    """A run with a timelapse; its first rank says where its page is, and begins when one is there."""
    config = demo_config(scene, folder, CHANGES | SHORT | {"log.viewer": 0, "log.viewer_fps": 60.0} | changes)
    viewer = SharedViewer(config, ranks)
    run = _equipped(Trainer(config, [viewer]), Timelapse(config))
    viewer.watch(run)
    if ranks.leads and with_page:
        (folder / "address").write_text(viewer.server.address)
        while not viewer.server.has_pages:
            time.sleep(0.02)
    try:
        assert run.run() == 0
    finally:
        viewer.close("over")
    return run.state.step


def test_a_run_that_is_watched_is_the_same_run(demo_scene, tmp_path):
    """In modes that need all Gaussians in one place; paused, stepped, saved, exported; with a film."""
    from live_pages import Page, look  # which skips where there are no websockets

    changes, folder = {"train.iterations": 40, "log.timelapse": 5}, tmp_path / "seen"
    on_ranks(2, tmp_path / "a", _watched, demo_scene, tmp_path / "unseen", changes, False)
    run = RankProcesses(2, tmp_path / "b", _watched, demo_scene, folder, changes, True)
    while not (address := folder / "address").exists() or not address.read_text():
        assert all(process.is_alive() for process in run.processes), run.said()
        time.sleep(0.05)
    page = Page(address.read_text())
    page.send({"do": "pause"})
    page.until(lambda page: page.status.get("paused"))
    page.send({"do": "step"})
    step = page.status["step"] + 2
    page.until(lambda page: page.status["step"] == step)
    for mode in ("normals", "contribution", "depth", "ellipsoids"):
        page.send(look(mode=mode))
        header, _ = page.picture()
        assert header["mode"] == mode and header["step"] == step and header["count"] > 1000, page.notices
    for order, file in (("export", f"point_cloud/iteration_{step}/point_cloud.ply"), ("checkpoint", f"step_{step}.pt")):
        page.send({"do": order})
        page.until(lambda page, file=file: any(file in words for words in page.notices))
    assert len(_model(folder, step)["means"]) == header["count"] and step < 40
    page.send({"do": "go"})
    assert run.ended() == [0, 0], run.said()
    page.close()
    assert _same(_model(folder, 40), _model(tmp_path / "unseen", 40))
    assert all((one / "timelapse.mp4").stat().st_size > 1000 for one in (folder, tmp_path / "unseen"))


# ------------------------------------------------------------------------------------------------ ends


def _as_program(ranks: Ranks, scene: Path, folder: Path, changes: dict[str, Any]) -> None:
    """As train.py does it: with its exit code."""
    run_cli(lambda _: Trainer(demo_config(scene, folder, CHANGES | {"train.iterations": 10**6} | changes)).run(), [])


def _started(count: int, scene: Path, folder: Path, changes: dict[str, Any] | None = None) -> RankProcesses:
    """A long training that has written its first checkpoint."""
    work = {"train.checkpoint_iterations": (6,), "densification.start": 10**5, "densification.stop": 10**5}
    started = RankProcesses(count, folder / "said", _as_program, scene, folder / "run", work | (changes or {}))
    deadline = time.monotonic() + 100
    while not (folder / "run" / "checkpoints" / "latest").exists():
        assert time.monotonic() < deadline, started.said()
        time.sleep(0.05)
    time.sleep(0.5)  # all know of it
    return started


@pytest.mark.parametrize("dies", [0, 2])
def test_where_a_rank_is_killed_the_others_end_and_one_says_so(demo_scene, tmp_path, dies):
    run = _started(3, demo_scene, tmp_path)
    os.kill(run.processes[dies].pid, signal.SIGKILL)
    begin = time.monotonic()
    codes = run.ended(timeout=20)
    assert time.monotonic() - begin < 20 and codes == [-9 if rank == dies else 1 for rank in range(3)]
    said = [line for text in run.said() for line in text.splitlines() if "error:" in line]
    last = tmp_path / "run" / "checkpoints" / "step_6.pt"
    # The first keeps the store here: without it the others look for each other's processes, and one may have ended.
    who = rf"rank {dies} of 3 is|rank 0, \d of 3 are"
    why = re.escape(f"gone (killed, or out of the host's memory); the last checkpoint is {last}. ")
    assert len(said) == 1 and re.fullmatch(rf"error: ({who}) {why}Start all again with --resume auto", said[0])
    assert load_checkpoint(last, "cpu", PARTS).step == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_rank_ends_all_after_the_same_step(demo_scene, tmp_path, number):
    run = _started(2, demo_scene, tmp_path)
    os.kill(run.processes[1].pid, number)
    assert run.ended(timeout=20) == [128 + number] * 2
    newest = (tmp_path / "run" / "checkpoints" / "latest").read_text().strip()
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / newest, "cpu", PARTS)
    assert saved.step > 6 and len(saved.params["means"]) == sum(
        len(load_checkpoint(tmp_path / "run" / "checkpoints" / newest, "cpu", PARTS, _rank(rank, 2)).params["means"])
        for rank in range(2)
    )


def _without_memory(ranks: Ranks, scene: Path, folder: Path, changes: dict[str, Any]) -> None:
    """One of them has none left at a step."""

    def train(_: list[str]) -> int:
        run = Trainer(demo_config(scene, folder, CHANGES | changes))
        forward = run.state.engine.forward

        def fails(step: int, *arguments: Any, **options: Any) -> Any:
            if step > 12 and ranks.rank == 1:
                raise torch.OutOfMemoryError("no more")
            return forward(step, *arguments, **options)

        run.state.engine.forward = fails
        return run.run()

    run_cli(train, [])


def test_out_of_memory_on_one_rank_ends_all(demo_scene, tmp_path):
    changes = {"train.checkpoint_iterations": (6,)}
    run = RankProcesses(2, tmp_path / "said", _without_memory, demo_scene, tmp_path / "run", changes)
    assert run.ended(timeout=60) == [1, 1]
    said = [line for text in run.said() for line in text.splitlines() if "error:" in line]
    assert len(said) == 1 and said[0].startswith("error: out of GPU memory on rank 1 of 2 after step 12 ")
    assert f"; the last checkpoint is {tmp_path / 'run' / 'checkpoints' / 'step_6.pt'}. Continue with" in said[0]


def test_a_photo_that_one_rank_cannot_read_ends_all(demo_scene, tmp_path):
    """Only the rank where it is at home decodes it."""
    shutil.copytree(demo_scene, scene := tmp_path / "scene")
    second = open_scene(demo_config(scene, tmp_path / "run")).train[1].image_path
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    run = RankProcesses(2, tmp_path / "said", _as_program, scene, tmp_path / "run", {})
    assert run.ended(timeout=60) == [1, 1]
    said = [line for text in run.said() for line in text.splitlines() if "error:" in line]
    assert len(said) == 1 and str(second) in said[0], said


def test_a_signal_before_the_ranks_have_met_is_said_by_the_first(monkeypatch):
    monkeypatch.setattr(peers, "SPEAK_S", 0.0)
    monkeypatch.setattr(peers, "_peers", [])
    assert peers.may_speak() and peers.may_speak(of_signal=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not peers.may_speak(of_signal=True) and peers.may_speak()
    monkeypatch.setenv("RANK", "0")
    assert peers.may_speak() and peers.may_speak(of_signal=True)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [("optim.adam", "visible"), ("appearance.model", "other")],
)  # fmt: skip
def test_what_ranks_do_not_have_is_refused_by_name(key, value, tmp_path):
    changes = {} if value == "other" else {key: value}  # a model that is still to be made
    config = demo_config(tmp_path, tmp_path, {"densification.strategy": "adc"} | changes)
    config = config if changes else replace(config, appearance=replace(config.appearance, model=value))
    with pytest.raises(ConfigError, match=rf"^{key} is {value}, which 2 ranks do not have; "):
        own_config(config, _rank(0, 2))
    assert own_config(config, ALONE) is config
    assert key in REFUSED


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    from distwar_gs.system import parallel

    monkeypatch.setattr(parallel, "_joined", [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="3 ranks on a host with 2 GPUs: start torchrun with --nproc_per_node 2"):
        parallel.join("cuda")
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(ConfigError, match="WORLD_SIZE is set and MASTER_PORT not"):
        parallel.join("cpu")


# ------------------------------------------------------------------------------------------------ the fused rasteriser


def _train_fused(ranks: Ranks, scene: Path, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """With its kernels on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_require_cuda", lambda means: None)
        patch.setattr(renderer, "_rasterizer", lambda config, device: "fused")
        return _train(ranks, scene, folder, changes)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["views", "tiles"])
@pytest.mark.parametrize("strategy", ["guided", "adc", "mcmc"])
def test_a_run_by_the_fused_rasteriser(demo_scene, tmp_path, strategy, split, emulated_fused_ops):
    if torch.cuda.is_available():
        pytest.skip("its kernels run on a CPU here")
    changes = {"train.iterations": 24, "densification.strategy": strategy, "train.coarse_until": 0.5}
    changes |= {"train.split": split, "train.deterministic": strategy == "guided"}
    said = on_ranks(2, tmp_path / "said", _train_fused, demo_scene, tmp_path / "run", changes)
    assert sum(one["count"] for one in said) == len(_model(tmp_path / "run", 24)["means"])


def _by_torchrun(count: int, scene: Path, folder: Path, *options: object) -> str:
    """Trains on so many GPUs; what it says."""
    start = ["-m", "torch.distributed.run", "--nproc_per_node", count] if count > 1 else []
    command = [sys.executable, *start, "train.py", "-s", scene, "-m", folder, "--no_report", *options]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["guided", "adc", "mcmc"])
def test_two_gpus_train_the_model_of_one(demo_scene, tmp_path, strategy):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"torch.cuda.device_count() is {torch.cuda.device_count()}: this test needs two GPUs")
    numbers = {}
    for count in (1, 2):
        options = ("--iterations", 600, "--strategy", strategy, "--cap_max", 5000)
        _by_torchrun(count, demo_scene, tmp_path / str(count), *options)
        numbers[count] = json.loads((tmp_path / str(count) / "metrics.json").read_text())
    psnr, counts = ([_find(numbers[count], key) for count in (1, 2)] for key in ("psnr", "gaussians"))
    assert psnr[1] == pytest.approx(psnr[0], abs=0.7) and counts[1] == pytest.approx(counts[0], rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("split", ["views", "tiles"])
def test_two_gpus_repeat_a_run_bit_for_bit(demo_scene, tmp_path, split):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"torch.cuda.device_count() is {torch.cuda.device_count()}: this test needs two GPUs")
    options = ("--iterations", 400, "--cap_max", 5000, "--deterministic", "--split", split)
    for folder in ("one", "other"):
        _by_torchrun(2, demo_scene, tmp_path / folder, *options)
    assert _same(_model(tmp_path / "one", 400), _model(tmp_path / "other", 400))


OPTIONS = {
    "beside": ("--appearance", "exposure", "--refine_poses", "--depth_weight", 0.1),
    "beside, tiles": ("--appearance", "exposure", "--refine_poses", "--depth_weight", 0.1, "--split", "tiles"),
    "bilateral": ("--appearance", "bilateral"),
    "tiles": ("--split", "tiles"),
    "auto": ("--reduction", "auto"),
    "seen": ("--timelapse", 12, *(("--viewer", 0) if find_spec("websockets") else ())),
    "gsplat": ("--set", "train.rasterizer=gsplat"),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIONS)
def test_two_gpus_have_the_options_of_one(demo_scene, tmp_path, name):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"torch.cuda.device_count() is {torch.cuda.device_count()}: this test needs two GPUs")
    psnr = {}
    for count in (1, 2):
        options = ("--iterations", 600, "--cap_max", 5000, *OPTIONS[name])
        said = _by_torchrun(count, demo_scene, tmp_path / str(count), *options)
        psnr[count] = _find(json.loads((tmp_path / str(count) / "metrics.json").read_text()), "psnr")
        assert (tmp_path / str(count) / "timelapse.mp4").exists() == ("--timelapse" in options)
    assert psnr[2] == pytest.approx(psnr[1], abs=1.0)
    assert ("rows" if "tiles" in name else "counts as so many") in said and "communication" in said


@pytest.mark.gpu
def test_two_gpus_train_for_so_many_seconds(demo_scene, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"torch.cuda.device_count() is {torch.cuda.device_count()}: this test needs two GPUs")
    _by_torchrun(2, demo_scene, tmp_path / "run", "--seconds", 5, "--cap_max", 5000)
    seconds = _find(json.loads((tmp_path / "run" / "metrics.json").read_text()), "train_seconds")
    assert seconds == pytest.approx(5.0, abs=0.7)
