"""Checkpoints: complete, plain, atomic, found again; and the files that are none."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from distwar_gs.checkpoints import checkpoint as cp
from distwar_gs.checkpoints import fingerprint, randomness
from distwar_gs.config import Config, OptimConfig, as_values
from distwar_gs.gaussians.model import initialize
from distwar_gs.gaussians.optimizer import load_state_dicts, make_optimizers, state_dicts, step_all
from distwar_gs.strategies.adaptive import new_state
from distwar_gs.training.state import PARTS


def views(moved: float = 0.0, photo: str = __file__):
    poses = [np.eye(4) + 0.1 * i for i in range(5)]
    poses[3][0, 3] += moved
    common = {"width": 40, "height": 30, "image_path": Path(photo), "K": np.diag([50.0, 50.0, 1.0]), "lens": None}
    return [SimpleNamespace(name=f"{i}.png", viewmat=pose, **common) for i, pose in enumerate(poses)]


def scene(moved: float = 0.0, photo: str = __file__, **changes):
    seen = views(moved, photo)
    values = {
        "source": "demo",
        "kind": "colmap",
        "train": tuple(seen[1:]),
        "test": tuple(seen[:1]),
        "split_rule": "every 8th",
        "image_source": "images",
        "normalisation": SimpleNamespace(shift=np.array([1.0, 2.0, 1 / 3]), scale=np.float64(0.5)),
    }
    return SimpleNamespace(**values | changes)


def trained(count: int = 6):
    """A small model after a step."""
    rng = np.random.default_rng(0)
    points, colors = rng.normal(size=(count, 3)), rng.random((count, 3))
    params = initialize(points, colors, Config().model, "cpu")
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    for param in params.values():
        param.grad = torch.ones_like(param)
    step_all(optimizers)
    return params, optimizers


def checkpoint(step: int = 7, generator: torch.Generator | None = None) -> cp.Checkpoint:
    params, optimizers = trained()
    parts = {
        "params": params,
        "optimizers": state_dicts(optimizers),
        "densification": new_state(6, "cpu"),
        "rng": randomness.capture_rng({"train": generator or torch.Generator()}),
        "sampler": {"order": [2, 0, 1], "position": 1},
        "clock": {"elapsed_seconds": 12.5},
    }
    return cp.Checkpoint(step, as_values(Config()), fingerprint.scene_fingerprint(scene()), parts)


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
    load_state_dicts(optimizers, loaded.parts["optimizers"])
    assert same(state_dicts(optimizers), saved.parts["optimizers"])
    assert not any(isinstance(param, Parameter) for param in loaded.params.values())


def test_it_is_a_plain_dict(tmp_path):
    content = torch.load(cp.save_checkpoint(tmp_path, checkpoint()), weights_only=True)
    assert content["format_version"] == 2 and content["config"]["optim.means_lr"] == 1.6e-4


def test_random_numbers_continue(tmp_path):
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    torch.manual_seed(8)
    path = cp.save_checkpoint(tmp_path, checkpoint(generator=generator))
    expected = torch.rand(4, generator=generator), torch.rand(4)
    other = torch.Generator().manual_seed(99)
    randomness.restore_rng(cp.load_checkpoint(path, "cpu").parts["rng"], {"train": other})
    assert torch.equal(torch.rand(4, generator=other), expected[0]) and torch.equal(torch.rand(4), expected[1])


def test_random_numbers_of_another_device_start_anew(caplog):
    generator = torch.Generator().manual_seed(3)
    rng = randomness.capture_rng({"train": generator})
    rng["generators"]["train"] = {"device": "cuda", "state": torch.zeros(16, dtype=torch.uint8)}
    before = generator.get_state()
    randomness.restore_rng(rng, {"train": generator, "other": torch.Generator()})
    assert torch.equal(generator.get_state(), before)
    assert "'train'" in caplog.text and "'other'" in caplog.text


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


def test_a_flipped_bit(tmp_path):
    """torch.load does not look at the checksums it writes."""
    path = cp.save_checkpoint(tmp_path, checkpoint())
    content, means = bytearray(path.read_bytes()), checkpoint().params["means"].detach().numpy().tobytes()
    content[content.index(means) + 5] ^= 1
    path.write_bytes(content)
    assert not torch.equal(
        torch.load(path, weights_only=True)["parts"]["params"]["means"], checkpoint().params["means"]
    )
    with pytest.raises(cp.DamagedCheckpointError, match="step_7.pt: cut off, or no .*has changed since it was written"):
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
    for name in content["parts"]:
        others = {other: part for other, part in content["parts"].items() if other != name}
        torch.save(content | {"parts": others}, path)
        with pytest.raises(cp.DamagedCheckpointError, match=f"lacks {name}"):
            cp.load_checkpoint(path, "cpu", PARTS)
    torch.save(content | {"parts": content["parts"] | {"sampler": [1, 2]}}, path)
    with pytest.raises(cp.DamagedCheckpointError, match="sampler is damaged"):
        cp.load_checkpoint(path, "cpu", PARTS)


def test_a_part_that_nobody_knows_is_handed_on_if_it_is_plain(tmp_path):
    path = cp.save_checkpoint(tmp_path, checkpoint())
    content = torch.load(path, weights_only=True)
    for value in ({"gains": torch.ones(3)}, [1, "a"], None):
        torch.save(content | {"parts": content["parts"] | {"adjust.new": value}}, path)
        assert same(cp.load_checkpoint(path, "cpu", PARTS).parts["adjust.new"], value)
    torch.save(content | {"parts": content["parts"] | {"adjust.new": {"a": torch.zeros(1).expand(2**40)}}}, path)
    with pytest.raises(cp.DamagedCheckpointError, match=r"adjust\.new is damaged"):
        cp.load_checkpoint(path, "cpu", PARTS)


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


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, file_limit):
    """A limit on the size of files is met as a full disk is: by a write that the system refuses."""
    path = cp.save_checkpoint(tmp_path, checkpoint())
    before = path.read_bytes()
    file_limit(2000)
    with pytest.raises(
        cp.CheckpointError, match="step_8.pt: could not be written .File too large.; check free"
    ) as error:
        cp.save_checkpoint(tmp_path, checkpoint(8))
    assert "\n" not in str(error.value)
    file_limit(None)
    assert path.read_bytes() == before and sorted(os.listdir(path.parent)) == ["latest", "step_7.pt"]
    assert (path.parent / "latest").read_text() == "step_7.pt\n"


def test_an_interrupt_while_writing_is_one(tmp_path, monkeypatch):
    """torch.save closes its file, which raises an error of its own."""
    real = torch.save

    def interrupted(content, file):
        class File:
            def write(self, data):
                raise KeyboardInterrupt

            flush = close = lambda self: None

        real(content, File())

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cp.save_checkpoint(tmp_path, checkpoint())
    assert os.listdir(tmp_path / "checkpoints") == []


@pytest.mark.parametrize(
    ("keep", "named", "left"),
    [
        (2, (), [30, 40, 900]),
        (1, (), [40, 900]),
        (3, (), [20, 30, 40, 900]),
        (0, (), [10, 20, 30, 40, 900]),
        (2, (10, 30), [10, 20, 30, 40, 900]),
        (1, (40,), [30, 40, 900]),
    ],
)
def test_the_newest_are_kept(tmp_path, keep, named, left):
    for step in (900, 10, 20, 30, 40):  # 900 is an earlier run's
        cp.save_checkpoint(tmp_path, checkpoint(step))
    cp.remove_old(tmp_path, 40, keep, named)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == sorted(["latest", *(f"step_{step}.pt" for step in left)])


def check_scene(path, saved, now) -> None:
    fingerprint.check_scene(path, saved, fingerprint.scene_fingerprint(now), now.source)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"split_rule": "none"}, "split rule"),
        ({"image_source": "images_4"}, "image source"),
        ({"train": scene().train[::-1]}, "names and sizes"),
        ({"test": ()}, "test views"),
        ({"moved": 1e-3}, "the poses and intrinsics of the views differ"),
        ({"normalisation": SimpleNamespace(shift=np.zeros(3), scale=1.0)}, "training frame"),
    ],
)
def test_another_scene_is_refused(tmp_path, changes, word):
    saved = cp.load_checkpoint(cp.save_checkpoint(tmp_path, checkpoint()), "cpu")
    check_scene(tmp_path, saved, scene())
    check_scene(tmp_path, saved, scene(moved=1e-8))  # another machine's rounding
    with pytest.raises(cp.CheckpointError, match=word):
        check_scene(tmp_path, saved, scene(**changes))


FAR_FRAME = SimpleNamespace(shift=np.array([452310.123, 5411954.9999, 263.4]), scale=np.float64(0.25))


@pytest.mark.parametrize(("moved", "same"), [(0.0, True), (1e-6, True), (0.01, False), (3.0, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_frame_of_a_far_scene_is_compared_in_its_extents(tmp_path, axis, moved, same):
    """Six digits of a northing are 10 units; a run that went on elsewhere would export its model there."""
    saved = SimpleNamespace(scene=fingerprint.scene_fingerprint(scene(normalisation=FAR_FRAME)))
    shift = FAR_FRAME.shift + moved * np.eye(3)[axis]
    now = scene(normalisation=SimpleNamespace(shift=shift, scale=FAR_FRAME.scale))
    if same:
        check_scene(tmp_path, saved, now)
    else:
        with pytest.raises(cp.CheckpointError, match="training frame"):
            check_scene(tmp_path, saved, now)


def test_the_frames_of_older_checkpoints_have_six_digits(tmp_path):
    saved = SimpleNamespace(
        scene=fingerprint.scene_fingerprint(scene()) | {fingerprint.FRAME: [1.0, 2.0, 0.333333, 0.5]}
    )
    check_scene(tmp_path, saved, scene())
    for other in (None, "frame", [1.0, 2.0], [1.0, 2.0, 0.333333, "0.5"], [1.0, 2.0, 0.333333, float("nan")]):
        saved.scene[fingerprint.FRAME] = other
        with pytest.raises(cp.CheckpointError, match="training frame"):
            check_scene(tmp_path, saved, scene())


def test_other_image_files_are_warned_of(tmp_path, caplog):
    saved = cp.load_checkpoint(cp.save_checkpoint(tmp_path, checkpoint()), "cpu")
    check_scene(tmp_path, saved, scene())
    assert not caplog.text
    (tmp_path / "retouched.png").write_bytes(b"12")
    check_scene(tmp_path, saved, scene(photo=str(tmp_path / "retouched.png")))
    assert "have 10: are they the same photos?" in caplog.text
