"""Checkpoints: complete, plain, atomic, found again; and the files that are none."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from distwar_gs import checkpoint as cp
from distwar_gs.config import Config, OptimConfig, as_values
from distwar_gs.densification import new_state
from distwar_gs.model import initialise
from distwar_gs.optimizer import load_state_dicts, make_optimizers, state_dicts, step_all


def scene(**changes):
    views = [SimpleNamespace(name=f"{i}.png", width=40, height=30) for i in range(5)]
    values = {
        "source": "demo",
        "kind": "colmap",
        "train": tuple(views[1:]),
        "test": tuple(views[:1]),
        "split_rule": "every 8th",
        "image_source": "images",
        "normalisation": SimpleNamespace(shift=np.array([1.0, 2.0, 1 / 3]), scale=np.float64(0.5)),
    }
    return SimpleNamespace(**values | changes)


def trained(count: int = 6):
    """A small model after a step."""
    rng = np.random.default_rng(0)
    points, colors = rng.normal(size=(count, 3)), rng.random((count, 3))
    params = initialise(points, colors, Config().model, "cpu")
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    for param in params.values():
        param.grad = torch.ones_like(param)
    step_all(optimizers)
    return params, optimizers


def checkpoint(step: int = 7, generator: torch.Generator | None = None) -> cp.Checkpoint:
    params, optimizers = trained()
    return cp.Checkpoint(
        step=step,
        params=params,
        optimizers=state_dicts(optimizers),
        densification=new_state(6, "cpu"),
        rng=cp.capture_rng({"train": generator or torch.Generator()}),
        sampler={"order": [2, 0, 1], "position": 1},
        config=as_values(Config()),
        scene=cp.scene_fingerprint(scene()),
        elapsed_seconds=12.5,
    )


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_everything_comes_back(tmp_path):
    saved = checkpoint()
    path = cp.save_checkpoint(tmp_path, saved)
    assert path == tmp_path / "checkpoints" / "step_7.pt"
    assert sorted(os.listdir(path.parent)) == ["latest", "step_7.pt"]
    loaded = cp.load_checkpoint(path, "cpu")
    for name in cp.FIELDS:
        assert same(getattr(saved, name), getattr(loaded, name)), name
    params, optimizers = trained()
    load_state_dicts(optimizers, loaded.optimizers)
    assert same(state_dicts(optimizers), saved.optimizers)
    assert not any(isinstance(param, Parameter) for param in loaded.params.values())


def test_it_is_a_plain_dict(tmp_path):
    content = torch.load(cp.save_checkpoint(tmp_path, checkpoint()), weights_only=True)
    assert content["format_version"] == 1 and content["config"]["optim.means_lr"] == 1.6e-4


def test_random_numbers_continue(tmp_path):
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    torch.manual_seed(8)
    path = cp.save_checkpoint(tmp_path, checkpoint(generator=generator))
    expected = torch.rand(4, generator=generator), torch.rand(4)
    other = torch.Generator().manual_seed(99)
    cp.restore_rng(cp.load_checkpoint(path, "cpu").rng, {"train": other})
    assert torch.equal(torch.rand(4, generator=other), expected[0]) and torch.equal(torch.rand(4), expected[1])


def test_random_numbers_of_another_device_start_anew(caplog):
    generator = torch.Generator().manual_seed(3)
    rng = cp.capture_rng({"train": generator})
    rng["generators"]["train"] = {"device": "cuda", "state": torch.zeros(16, dtype=torch.uint8)}
    before = generator.get_state()
    cp.restore_rng(rng, {"train": generator, "other": torch.Generator()})
    assert torch.equal(generator.get_state(), before)
    assert "'train'" in caplog.text and "'other'" in caplog.text


def test_auto_finds_the_latest(tmp_path):
    assert cp.find_checkpoint(tmp_path, "auto") is None
    for step in (900, 7000, 1000):  # the last one written is the latest, whatever its number
        cp.save_checkpoint(tmp_path, checkpoint(step))
    folder = tmp_path / "checkpoints"
    assert cp.find_checkpoint(tmp_path, "auto") == folder / "step_1000.pt"
    (folder / "step_1000.pt").unlink()
    assert cp.find_checkpoint(tmp_path, "auto") == folder / "step_7000.pt"
    (folder / "latest").write_bytes(b"\xff\xfe")
    assert cp.find_checkpoint(tmp_path, "auto") == folder / "step_7000.pt"


def test_a_path_may_be_file_run_or_folder(tmp_path):
    path = cp.save_checkpoint(tmp_path / "run", checkpoint())
    for given in (path, str(path), path.parent, path.parent.parent):
        assert cp.find_checkpoint(tmp_path / "new", given) == path
    with pytest.raises(cp.CheckpointError, match="nothing_here: no checkpoint there; .*--resume"):
        cp.find_checkpoint(tmp_path / "run", tmp_path / "nothing_here")


def test_missing_file_names_the_others(tmp_path):
    path = cp.save_checkpoint(tmp_path, checkpoint())
    with pytest.raises(cp.CheckpointError, match=r"step_8.pt: no such checkpoint; .*--resume .*step_7.pt"):
        cp.load_checkpoint(path.with_name("step_8.pt"), "cpu")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_cut_off_file(tmp_path, share):
    path = cp.save_checkpoint(tmp_path, checkpoint())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(cp.CheckpointError, match="step_7.pt: cut off"):
        cp.load_checkpoint(path, "cpu")


def test_foreign_files(tmp_path):
    path = tmp_path / "chkpnt30000.pth"
    torch.save(({"means": torch.zeros(3)}, 30_000), path)
    with pytest.raises(cp.CheckpointError, match="not a checkpoint of distwar-gs"):
        cp.load_checkpoint(path, "cpu")
    path.write_text("hello")
    with pytest.raises(cp.CheckpointError, match="no checkpoint at all"):
        cp.load_checkpoint(path, "cpu")


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    torch.save({"format": cp.FORMAT, "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(cp.CheckpointError):
        cp.load_checkpoint(tmp_path / "evil.pt", "cpu")
    assert not (tmp_path / "harmed").exists()


def test_other_versions_and_missing_parts(tmp_path):
    path = cp.save_checkpoint(tmp_path, checkpoint())
    content = torch.load(path, weights_only=True)
    torch.save(content | {"format_version": 99}, path)
    with pytest.raises(cp.CheckpointError, match="format 99, this program reads 1"):
        cp.load_checkpoint(path, "cpu")
    del content["sampler"]
    torch.save(content, path)
    with pytest.raises(cp.CheckpointError, match="lacks sampler"):
        cp.load_checkpoint(path, "cpu")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = cp.save_checkpoint(tmp_path, checkpoint())
    before = path.read_bytes()

    def fails_midway(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fails_midway)
    with pytest.raises(cp.CheckpointError, match="step_7.pt: could not be written .No space left"):
        cp.save_checkpoint(tmp_path, checkpoint())
    assert path.read_bytes() == before and sorted(os.listdir(path.parent)) == ["latest", "step_7.pt"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"split_rule": "none"}, "split rule"),
        ({"image_source": "images_4"}, "image source"),
        ({"train": scene().train[::-1]}, "names and sizes"),
        ({"test": ()}, "test views"),
        ({"normalisation": SimpleNamespace(shift=np.zeros(3), scale=1.0)}, "training frame"),
    ],
)
def test_another_scene_is_refused(tmp_path, changes, word):
    saved = cp.load_checkpoint(cp.save_checkpoint(tmp_path, checkpoint()), "cpu")
    cp.check_scene(tmp_path, saved, scene())
    with pytest.raises(cp.CheckpointError, match=word):
        cp.check_scene(tmp_path, saved, scene(**changes))
