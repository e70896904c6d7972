"""The photos of several ranks: each is decoded where it is at home, and is right where it is shown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from demo_runs import demo_config
from PIL import Image
from rank_processes import on_ranks

from distwar_datasets import Mask, View
from distwar_datasets.pixels import images
from distwar_datasets.pixels.images import ImageStore
from distwar_gs.config import with_values
from distwar_gs.rendering.views import open_scene
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training.shared_photos import SharedPhotos, photos_of

COUNT = 7
BLACK = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def views(tmp_path_factory) -> list[View]:
    """Of several sizes; every second one has a mask, one transparency."""
    folder, g, made = tmp_path_factory.mktemp("photos"), np.random.default_rng(3), []
    for index in range(COUNT):
        width, height, channels = 20 + index, 31 - 2 * index, 4 if index == 4 else 3
        path, mask = folder / f"{index}.png", None
        Image.fromarray(g.integers(0, 256, (height, width, channels), dtype=np.uint8)).save(path)
        if index % 2:
            mask = Mask(folder / f"mask{index}.png")
            Image.fromarray(g.integers(0, 2, (height, width), dtype=np.uint8) * 255).save(mask.path)
        made.append(View(path.name, path, width, height, np.eye(3), np.eye(4), 1, mask=mask))
    return made


def _shown(ranks: Ranks, views: list[View], steps: list[list[int]], host_bytes: int | None) -> tuple[list, list[str]]:
    """What each step shows here, and the names of what was decoded."""
    decoded, real = [], images.decode_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "decode_image", lambda path: decoded.append(Path(path).name) or real(path))
        own = range(ranks.rank, len(views), ranks.count)
        store = ImageStore(views, background=BLACK, device="cpu", budget_bytes=0, host_budget_bytes=host_bytes,
                           often=own)  # fmt: skip
        photos = SharedPhotos(store, views, ranks)
        seen = []
        for step, shown in enumerate(steps):
            told = [index for later in steps[step + 1 :] for index in later]
            photo, mask = photos.of_step(shown, told if step != 1 else told[::-1])  # it comes otherwise
            seen.append((photo.clone(), None if mask is None else mask.clone()))
    return seen, sorted(set(decoded))


@pytest.mark.parametrize("host_bytes", [None, 0], ids=["in memory", "on disk"])
@pytest.mark.parametrize("steps", [[[6, 0, 3], [4, 1, 2], [5, 5, 6]], [[4], [3], [0]]], ids=["views", "tiles"])
def test_what_is_shown_is_what_one_process_shows(tmp_path, views, steps, host_bytes):
    alone = ImageStore(views, background=BLACK, device="cpu", budget_bytes=0)
    results = on_ranks(3, tmp_path, _shown, views, steps, host_bytes)
    for rank, (seen, decoded) in enumerate(results):
        assert {int(name[0]) % 3 for name in decoded} <= {rank}
        for shown, (photo, mask) in zip(steps, seen, strict=True):
            index = shown[rank] if len(shown) == 3 else shown[0]
            assert torch.equal(photo, alone[index])
            assert mask is None if alone.mask(index) is None else torch.equal(mask, alone.mask(index))


def test_a_photo_out_of_turn_needs_nobody(views):
    """For the report, which one rank writes."""
    second = Ranks()
    second.rank, second.count = 1, 3
    store = ImageStore(views, background=BLACK, device="cpu", budget_bytes=0, often=range(1, COUNT, 3))
    whole = ImageStore(views, background=BLACK, device="cpu", budget_bytes=0)
    photo, mask = SharedPhotos(store, views, second).alone(3)
    assert torch.equal(photo, whole[3]) and torch.equal(mask, whole.mask(3)) and store.where == "cpu"
    assert store.nbytes < whole.nbytes / 2


@pytest.mark.parametrize("background", ["black", "random"])
def test_who_has_all_photos(demo_scene, background):
    config = with_values(demo_config(demo_scene, Path("run")), {"data.background": background})
    scene, several = open_scene(config), Ranks()
    several.count = 4
    assert type(photos_of(scene, config, torch.device("cpu"), ALONE)) is ImageStore
    made = photos_of(scene, config, torch.device("cpu"), several)
    assert type(made) is (ImageStore if background == "random" else SharedPhotos)
