"""scripts/clean.py from the command line: what it writes, measures and says, and what it refuses."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from demo_runs import run_program
from PIL import Image
from scripts_as_modules import imported_script

from distwar_gs.cleaning.page import write_page
from distwar_gs.formats.export import find_ply, load_model, read_origin, save_model

CPU = ("--device", "cpu")


def clean(*arguments, fresh=False):
    return run_program("scripts/clean.py", *arguments, fresh=fresh)


@pytest.fixture(scope="module")
def run(demo_run, tmp_path_factory):
    """A copy of the demo run's folder, so that files can lie beside its model."""
    folder = tmp_path_factory.mktemp("runs") / "demo <b>"
    shutil.copytree(demo_run.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "renders"))
    return folder


@pytest.fixture(scope="module")
def cleaned(run):
    """The run's model cleaned, with a page, a threshold that takes something; and what was said."""
    page = run.parent / "page.html"
    result = clean(run, "--page", page, "--contribution", 0.2, *CPU)
    assert result.returncode == 0, result.stderr
    return run / "point_cloud/iteration_60/point_cloud_cleaned.ply", page, result


def counts(text: str) -> dict[str, int]:
    """Of every line `rule: N Gaussians`."""
    return {rule: int(n.replace(",", "")) for rule, n in re.findall(r"^(\w+): ([\d,]+) Gaussians \(", text, re.M)}


def test_every_rule_and_the_sum_are_told(cleaned):
    file, page, result = cleaned
    taken = counts(result.stdout)
    assert list(taken) == ["unseen", "haze", "islands", "contribution"] and taken["contribution"] > 0
    gone, count, left = (
        int(re.search(pattern, result.stdout).group(1).replace(",", ""))
        for pattern in (r"removed: ([\d,]+) of", r"of ([\d,]+) Gaussians", r"cleaned.ply: ([\d,]+) Gaussians")
    )
    assert sum(taken.values()) == gone and count == 3008 and left == count - gone == len(load_model(file)["means"])
    assert f"{page}: before and after" in result.stdout


def test_rows_that_stay_are_the_same_to_the_last_bit(cleaned, run):
    old, new = load_model(find_ply(run)), load_model(cleaned[0])
    rows = {
        row.tobytes() for row in torch.cat([old[name].flatten(1) for name in old if old[name].dim() > 1], 1).numpy()
    }
    kept = torch.cat([new[name].flatten(1) for name in new if new[name].dim() > 1], 1).numpy()
    assert all(row.tobytes() in rows for row in kept) and len(kept) < len(rows)


def test_the_numbers_are_those_of_render(cleaned, run, tmp_path):
    """Before and after, by the same protocol; the cleaned file is still one of the run."""
    found = re.search(r"test PSNR ([\d.]+) -> ([\d.]+) dB .*SSIM ([\d.]+) -> ([\d.]+) \(2 views\)", cleaned[2].stdout)
    for model, psnr, ssim in ((run, found[1], found[3]), (cleaned[0], found[2], found[4])):
        out = tmp_path / model.name
        result = run_program("render.py", model, "--out", out, *CPU)
        assert result.returncode == 0, result.stderr
        record = json.loads((out / "iteration_60/metrics.json").read_text())[-1]
        assert (f"{record['psnr']:.2f}", f"{record['ssim']:.4f}") == (psnr, ssim)


class Page(HTMLParser):
    """What a page loads, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.cells, self._tag, self.tags = [], [], "", set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self._tag == "td":
            self.cells.append(data)


def test_the_page_needs_nothing_else(cleaned):
    text = cleaned[1].read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.sources) == 8 and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "b"} & page.tags and "demo &lt;b&gt;, cleaned" in text
    assert "url(" not in text and "@import" not in text


def test_the_page_has_the_counts_the_numbers_and_the_views(cleaned):
    text, said = cleaned[1].read_text(encoding="utf-8"), cleaned[2].stdout
    cells = Page(text).cells
    for rule, taken in counts(said).items():
        if rule != "removed":
            assert cells[cells.index(rule) + 2] == f"{taken:,}"
    psnr = re.search(r"test PSNR ([\d.]+) -> ([\d.]+)", said)
    assert [f"{float(cell):.2f}" for cell in cells[cells.index("PSNR") + 1 :][:2]] == [psnr[1], psnr[2]]
    changes = [float(number) for number in re.findall(r"<h3>view_\d+.png: ([\d.]+) of 255", text)]
    assert len(changes) == 2 and changes == sorted(changes, reverse=True) and changes[0] > 0
    before, after, difference, _ = (
        np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))), dtype=float)
        for source in Page(text).sources[:4]
    )
    assert before.shape == (60, 80, 3)
    assert difference.mean() == pytest.approx(8 * np.abs(after - before).mean(), rel=0.5)


def test_nothing_is_overwritten_unless_asked(cleaned, run, tmp_path):
    file, page, _ = cleaned
    old = file.read_bytes()
    refused = clean(run, *CPU)
    assert refused.returncode == 1 and "point_cloud_cleaned.ply: is there already; choose" in refused.stderr
    assert clean(run, "-o", find_ply(run), *CPU).returncode == 1
    assert clean(run, "-o", tmp_path / "a.ply", "--page", page, *CPU).returncode == 1
    assert file.read_bytes() == old and not (tmp_path / "a.ply").exists()
    shutil.copy(file, tmp_path / "b.ply")
    asked = clean(tmp_path / "b.ply", "-o", tmp_path / "b.ply", "--overwrite", "--islands", 0.01)
    assert asked.returncode == 0 and len(load_model(tmp_path / "b.ply")["means"]) <= len(load_model(file)["means"])


@pytest.mark.parametrize("name", ["a.compressed.ply", "a.splat", "a.spz", "a.sog"])
def test_any_format_is_read_and_written(run, tmp_path, name):
    """Without a scene: only islands, and no number. By default the same format, beside the model."""
    params = load_model(find_ply(run))
    far = {**params, "means": torch.cat([params["means"], torch.tensor([[9.0, 9.0, 9.0]])])}
    far = {key: torch.cat([tensor, tensor[:1]]) if key != "means" else tensor for key, tensor in far.items()}
    origin = np.array([400.0, -200.0, 50.0])
    save_model(tmp_path / name, far, origin=origin)
    result = clean(tmp_path / name)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("no scene (-s DIR): unseen, haze and contribution are left out")
    out = tmp_path / name.replace("a.", "a_cleaned.")
    left = load_model(out)["means"]
    assert counts(result.stdout)["islands"] >= 1 and len(left) == 3009 - counts(result.stdout)["islands"]
    assert left.max() < 8.0 and (read_origin(out) == origin).all()


def test_the_crop_box_and_bounds_of_the_command_line(run, tmp_path):
    box = {"center": [0, 0, 0], "size": [1, 99, 99], "axes": np.eye(3).tolist()}
    (tmp_path / "viewer_crop.json").write_text(json.dumps(box))
    shutil.copy(find_ply(run), tmp_path / "a.ply")
    arguments = ("--crop", tmp_path / "viewer_crop.json", "--bounds", "-99", "-0.25", "-99", "99", "99", "99")
    assert clean(tmp_path / "a.ply", *arguments, "--islands", 0).returncode == 0
    means = load_model(tmp_path / "a.ply")["means"]
    inside = (means[:, 0].abs() <= 0.5) & (means[:, 1] >= -0.25)
    assert torch.equal(load_model(tmp_path / "a_cleaned.ply")["means"], means[inside])


def test_names_beside_a_model(tmp_path):
    (tmp_path / "room").mkdir()
    with imported_script("clean") as module:
        assert module._beside(tmp_path / "capture.sog") == tmp_path / "capture_cleaned.sog"
        assert module._beside(tmp_path / "room/meta.json") == tmp_path / "room_cleaned.ply"
        assert module._beside(tmp_path / "a.compressed.ply") == tmp_path / "a_cleaned.compressed.ply"


def test_a_page_without_a_scene(tmp_path):
    write_page(tmp_path / "a.html", "a & b", {"islands": 3}, 12, None)
    text = (tmp_path / "a.html").read_text()
    assert "a &amp; b" in text and "25.00 %" in text and "nothing could be measured" in text and "<img" not in text


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["none.ply"], "none.ply: no such file; give a run folder of train.py or a .ply file", 1),
        (
            ["a.ply", "-o", "b.usdz"],
            "b.usdz: no format to write; let the name end in .ply, .compressed.ply, .splat, .spz, .sog",
            1,
        ),
        (["a.ply", "--page", "b.txt"], "b.txt: --page writes HTML; let the name end in .html", 1),
        (["a.ply", "--haze", "0.2"], "a.ply: --haze asks what the cameras see; give the scene with -s DIR", 1),
        (["a.ply", "-o", "b.html", "--page", "b.html"], "b.html: both the model (-o) and --page would be written", 1),
        (["a.ply", "--haze", "2"], "argument --haze: 2: it must be a number from 0 to 1", 2),
        (["a.ply", "--islands", "few"], "argument --islands: few: it must be a number from 0 to 1", 2),
        (["a.ply", "--iteration", "7"], "--iteration picks a model of a run folder", 2),
        (["a.ply", "--bounds", "0", "0", "0", "1", "1", "0"], "--bounds 0 0 0 1 1 0: no box; give X0 Y0 Z0", 1),
        (["a.ply", "--bounds", "7", "7", "7", "8", "8", "8"], "bounds: none of the 3,008 Gaussians would be left", 1),
        (["a.ply", "--crop", "a.ply"], "larger than 10,000 bytes", 1),
        (["a.ply", "--crop", "none.json"], "none.json: not there; the live viewer saves a crop box as", 1),
        (["a.ply", "-s", "nowhere"], "nowhere", 1),
        (["a.ply", "--contributions", "0.1"], "unknown argument --contributions; did you mean --contribution?", 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(run, tmp_path, arguments, message, code):
    shutil.copy(find_ply(run), tmp_path / "a.ply")
    result = run_program("scripts/clean.py", *arguments, cwd=tmp_path)
    *_, last = result.stderr.splitlines()
    assert result.returncode == code and last.startswith("error: ") and message in last and "Traceback" not in last
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]
