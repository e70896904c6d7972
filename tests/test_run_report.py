"""report.html at the end of a run: what is in it, and that it never costs the run."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from browser import PROGRAM, Browser
from demo_runs import demo_config, run_program
from test_html_page import SHOWN

from distwar_gs.evaluation.metrics import Evaluation, ViewMetrics
from distwar_gs.training.trainer import Trainer
from distwar_gs.viewing.report import gathered, hook
from distwar_gs.viewing.report.gathered import warnings_in
from distwar_gs.viewing.report.hook import NAME, Report
from distwar_gs.viewing.report.pictures import chosen, hot
from distwar_gs.viewing.report.sections import SECTIONS

in_process = pytest.mark.usefixtures("in_process")


class Balance(HTMLParser):
    """Counts the elements, and finds those that are not closed where they should be."""

    VOID = {"meta", "img", "br", "line", "rect"}

    def __init__(self, text):
        super().__init__()
        self.open, self.count, self.headings = [], 0, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.count += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


@pytest.fixture
def make(demo_scene, tmp_path):
    """Makes a run of 10 steps that reports."""

    def make(**changes):
        run = Trainer(demo_config(demo_scene, tmp_path / "run", {"log.every": 2, "log.report": True, **changes}))
        run.extra_hooks.append(Report(run))
        return run

    return make


@pytest.fixture(scope="module")
def text(demo_run):
    return (demo_run.folder / NAME).read_text(encoding="utf-8")


def test_the_demo_run_has_a_report_and_says_where(demo_run, text):
    assert f"report: {demo_run.folder / NAME} (" in demo_run.stderr
    assert Balance(text).headings == list(SECTIONS)
    assert "@@" not in text


def test_the_numbers_are_those_of_the_run(demo_run, text):
    psnr, views = re.search(r"test PSNR (\S+) dB, SSIM \S+ \((\d+) views\)", demo_run.stderr).groups()
    assert f"<b>{psnr} dB</b>PSNR" in text and "<b>3,008</b>Gaussians" in text and "<b>60</b>steps" in text
    assert text.count('alt="render"') == int(views)  # all are among the worst five
    assert "one mean squared error over all pixels" in text, "the protocol"


def test_curves_times_and_traffic_are_there(text):
    for name in ("train/loss", "eval/psnr", "gaussians/count", "lr/means", "memory/resident_mib"):
        assert f">{name}<" in text
    for part in ("forward", "backward", "optimizer", "of backward: the blend"):
        assert re.search(rf"<td>{part}</td><td>\d+\.\d+</td><td>\d+\.\d %</td>", text)
    counts = dict(re.findall(r"<td>(atomic|sw_\w)(?:@\d+)?(?:, used)?</td><td>\S+(?: [kM])?</td><td>(\d+\.\d+)x", text))
    assert counts.keys() == {"atomic", "sw_s", "sw_b", "sw_t"} and counts["atomic"] == "1.00"
    assert float(counts["sw_t"]) > 2


def test_chosen_settings_come_first(text):
    shown, _, folded = text.partition("All settings")
    assert "<td>densification.strategy</td><td>adc</td>" in shown
    assert "<td>optim.lambda_dssim</td>" not in shown and "<td>optim.lambda_dssim</td>" in folded


def test_nothing_in_the_page_leads_elsewhere(text):
    assert not re.search(r"""<(?:link|iframe)\b|<script[^>]*\bsrc=|@import|url\(["']?(?!data:|#)""", text)
    assert {source.partition(":")[0] for source in re.findall(r'<img src="([^"]{,5})', text)} == {"data"}


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here (apt-get install chromium)")
def test_a_browser_starts_the_model_where_one_clicks(demo_run):
    with Browser(1000, 800) as browser:
        browser.open(demo_run.folder / NAME)
        browser.wait_for('document.querySelector("#model button") != null', 30)
        assert browser.value('typeof document.querySelector("#model").viewer') == "undefined"
        browser.value('document.querySelector("#model button").click()')
        browser.wait_for(SHOWN, 60)
        box = browser.value(
            '(b => [b.x, b.y, b.width, b.height])(document.querySelector("#model").getBoundingClientRect())'
        )
        x, y, width, height = map(round, box)
        model = browser.picture()[y : y + height, x : x + width]
        requests, messages = browser.requests(), browser.messages()
    assert model.std() > 20, "something is seen"
    assert {url.partition(":")[0] for url in requests} <= {"file", "blob", "data"}
    assert not [message for message in messages if '"error"' in message], messages


def test_a_run_can_do_without(demo_scene, tmp_path):
    arguments = ("--iterations", 2, "--device", "cpu", "-r", 2, "--set", "log.every=1")
    result = run_program("train.py", "-s", demo_scene, "-m", tmp_path / "run", "--no_report", *arguments)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "run" / NAME).exists() and not (tmp_path / "run/curves.jsonl").exists()


@in_process
def test_a_report_that_fails_costs_one_line(make, monkeypatch, capsys):
    def broken(run):
        raise RuntimeError("out of luck\nin two lines")

    monkeypatch.setattr(hook, "gather", broken)
    run = make()
    assert run.run() == 0 and (run.folder / "metrics.json").exists()
    assert [line for line in capsys.readouterr().err.splitlines() if NAME in line] == [
        f"no {NAME} (RuntimeError: out of luck)"
    ]
    assert not (run.folder / NAME).exists()


@in_process
def test_large_models_are_left_out_with_a_line(make, monkeypatch):
    monkeypatch.setattr(gathered, "LARGEST_MODEL", 3007)
    run = make()
    assert run.run() == 0
    text = (run.folder / NAME).read_text()
    assert "With 3,008 Gaussians the model is too large" in text and 'id="model' not in text
    assert (run.folder / NAME).stat().st_size < 2**20


@in_process
def test_without_test_views_training_views_are_shown(make):
    run = make(**{"data.eval": False})
    assert run.run() == 0
    text = (run.folder / NAME).read_text()
    Balance(text)
    assert text.count('alt="render"') == 5 and "A sample of the training views (no view is held out)" in text
    assert "<b>3,008</b>Gaussians" in text and "dB</b>PSNR" not in text


@in_process
@pytest.mark.parametrize("changes", [{"log.every": 100}, {"data.background": "random"}, {"model.sh_degree": 0}])
def test_other_runs(make, changes):
    run = make(**changes)
    assert run.run() == 0
    Balance((run.folder / NAME).read_text())


@in_process
def test_names_of_the_user_are_no_html(make, monkeypatch):
    run = make()
    assert run.run() == 0
    name = "<script>alert(1)</script>@@PARTS@@ ünï.png"
    views = tuple(ViewMetrics(name, 20.0, 0.5) for _ in run.scene.test)
    found = gathered.gather(run)
    changed = type(found)(**{**vars(found), "evaluation": Evaluation(views), "warnings": [name], "scene": f"/x/{name}"})
    text = hook.report(changed)
    Balance(text)
    assert "alert(1)</script>" not in text and "&lt;script&gt;alert(1)" in text


def test_the_worst_come_first_and_the_sample_is_of_the_others():
    views = tuple(ViewMetrics(f"{index}", float((7 * index) % 40), 0.5) for index in range(40))
    worst, sample = chosen(3, Evaluation(views))
    assert [views[index].psnr for index in worst] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(sample) == 5 and not set(sample) & set(worst) and sample == sorted(sample)
    assert chosen(3, Evaluation(views[:4])) == ([0, 1, 2, 3], [])
    assert chosen(3, None) == ([], [0, 1, 2])


def test_errors_are_black_to_white():
    colors = hot(torch.tensor([[0.0, 1 / 3, 2 / 3, 1.0, 9.0]]))
    np.testing.assert_allclose(colors[0], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]], atol=1e-6)


def test_warnings_of_the_log_are_told_once(tmp_path):
    log = tmp_path / "train.log"
    day = "2026-11-28 10:05:29,457"
    log.write_text(f"{day} INFO all is well\n{day} WARNING one\n{day} ERROR two\n{day} WARNING one\nhalf a li")
    assert warnings_in(log) == ["one", "two"]
    assert warnings_in(tmp_path / "nowhere") == []
