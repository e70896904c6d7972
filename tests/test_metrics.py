"""PSNR and SSIM of 8-bit renders, and that no number is stored without its protocol."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from distwar_gs.evaluation.losses import ssim
from distwar_gs.evaluation.metrics import (
    Evaluation,
    ViewMetrics,
    append_metrics,
    data_protocol,
    evaluate,
    psnr,
    to_8bit,
)

PROTOCOL = {"image_source": "images_4", "split_rule": "every 8th image"}


def photos(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (12, 14, 3), generator=generator).to(torch.uint8) for _ in range(count)]


def views(count: int = 2) -> list[SimpleNamespace]:
    return [SimpleNamespace(name=f"v{i}.png", index=i) for i in range(count)]


def test_psnr():
    target = torch.full((4, 5, 3), 0.5)
    assert psnr(target + 0.1, target).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(target, target).item() == pytest.approx(100.0)


def test_8_bits_as_a_png_holds_them():
    values = torch.tensor([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.0, 7.0, math.nan, math.inf])
    assert to_8bit(values).tolist() == [0, 0, 0, 1, 255, 255, 255, 0, 255]


def test_evaluate_measures_the_rounded_image():
    """Less than half a grey level off is no error at all; one whole level off everywhere is 20 log10(255) dB."""
    images = photos()

    def render(view):
        image = images[view.index].clamp(0, 254).float() / 255
        return image + (0.4 / 255 if view.index == 0 else 1.0 / 255)

    targets = [image.clamp(0, 254) for image in images]
    result = evaluate(render, targets, views(), PROTOCOL)
    assert result.views[0] == ViewMetrics("v0.png", pytest.approx(100.0), pytest.approx(1.0))
    assert result.views[1].psnr == pytest.approx(20 * math.log10(255), abs=1e-3)
    assert result.psnr == pytest.approx((100 + 20 * math.log10(255)) / 2, abs=1e-3)
    expected = ssim((targets[1] + 1).float() / 255, targets[1].float() / 255).item()
    assert result.views[1].ssim == pytest.approx(expected) and result.ssim == pytest.approx((1 + expected) / 2)


def test_masked_pixels_are_not_measured():
    photo, kept = photos(1)[0].clamp(1, 254), torch.ones(12, 14, dtype=torch.bool)
    kept[:, 7:] = False
    render = (photo.float() + kept[..., None]) / 255  # one level off where it counts
    spoiled = torch.where(kept[..., None], render, 1.0 - render)
    measured = [evaluate(lambda view, image=image: image, [photo], views(1), {}, mask_of=lambda index: kept)
                for image in (render, spoiled)]  # fmt: skip
    assert measured[0].views == measured[1].views
    assert measured[0].psnr == pytest.approx(20 * math.log10(255), abs=1e-3)
    assert measured[0].protocol["masks"].startswith("50.00 % of the pixels are ignored")
    assert evaluate(lambda view: render, [photo], views(1), {}).protocol["masks"] == "none"


def test_the_protocol_says_how_it_was_measured():
    scene = SimpleNamespace(image_source="images_4", split_rule="every 8th image")
    images = photos(1)
    protocol = evaluate(lambda view: images[0] / 255, images, views(1), data_protocol(scene, "white")).protocol
    assert protocol["background"].startswith("white ") and data_protocol(scene, "random")["background"][:6] == "black "
    assert protocol["image_source"] == "images_4" and protocol["split_rule"] == "every 8th image"
    assert "8 bits" in protocol["rounding"] and "11x11" in protocol["ssim"] and protocol["lpips"] == "not computed"


def test_observer_sees_every_view():
    seen, images = [], photos()
    evaluate(
        lambda view: images[view.index] / 255,
        images,
        views(),
        PROTOCOL,
        lambda view, render, photo: seen.append((view.name, render.dtype, torch.equal(render, photo))),
    )
    assert seen == [("v0.png", torch.uint8, True), ("v1.png", torch.uint8, True)]


def test_bad_evaluations():
    with pytest.raises(ValueError, match="0 views"):
        evaluate(lambda view: None, [], [], PROTOCOL)
    with pytest.raises(ValueError, match="2 views and 1 images"):
        evaluate(lambda view: None, photos(1), views(2), PROTOCOL)
    with pytest.raises(ValueError, match=r"v0.png: rendered as \[3, 4, 3\]"):
        evaluate(lambda view: torch.zeros(3, 4, 3), photos(1), views(1), PROTOCOL)


def evaluation(value: float, **protocol) -> Evaluation:
    return Evaluation((ViewMetrics("a", value, 0.5), ViewMetrics("b", value + 2, 0.7)), PROTOCOL | protocol)


def test_metrics_file_lists_records(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    append_metrics(path, 7000, "test", evaluation(20.0), {"gaussians": 9})
    append_metrics(path, 30_000, "test", evaluation(24.0))
    first, second = json.loads(path.read_text())
    assert (first["step"], first["split"], first["psnr"], first["gaussians"]) == (7000, "test", 21.0, 9)
    assert first["ssim"] == pytest.approx(0.6) and first["protocol"] == PROTOCOL and first["lpips"] is None
    assert first["per_view"][1] == {"name": "b", "psnr": 22.0, "ssim": 0.7}
    assert second["psnr"] == 25.0
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


def test_the_same_evaluation_replaces_its_record(tmp_path):
    path = tmp_path / "metrics.json"
    append_metrics(path, 7000, "test", evaluation(20.0))
    append_metrics(path, 7000, "train", evaluation(20.0))
    append_metrics(path, 7000, "test", evaluation(20.0, image_source="images_2"))
    append_metrics(path, 7000, "test", evaluation(22.0))
    records = json.loads(path.read_text())
    assert [(record["split"], record["psnr"]) for record in records] == [
        ("train", 21.0),
        ("test", 21.0),
        ("test", 23.0),
    ]


@pytest.mark.parametrize("content", [b"{half", b'{"psnr": 1}', b"\xff\xfe\x00"])
def test_a_damaged_file_is_set_aside(tmp_path, caplog, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    append_metrics(path, 1, "test", evaluation(20.0))
    assert len(json.loads(path.read_text())) == 1
    assert (tmp_path / "metrics.json.damaged").read_bytes() == content and "metrics.json.damaged" in caplog.text
