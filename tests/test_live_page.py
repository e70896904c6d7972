"""The live viewer's page in a browser (headless Chromium), beside a training on the CPU."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import PROGRAM
from demo_runs import ENVIRONMENT, ROOT, run_program
from live_browser import Visitor
from live_pages import waited

pytest.importorskip("websockets")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium: apt-get install chromium")

SIZE = (720, 480)
SETTLED = (
    "viewer.state.isFine && !viewer.link.asked && viewer.state.header && !viewer.state.header.moving"
    " && performance.now() - viewer.state.movedAt > 400"
)
PIXELS = """(() => {
  const picture = viewer.state.picture, canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL();
})()"""


@dataclass
class Session:
    """A training, and a page that watches it."""

    browser: Visitor
    process: subprocess.Popen
    folder: Path

    def picture(self) -> str:
        """The fine picture of where the camera is now."""
        self.browser.wait_for(SETTLED)
        time.sleep(0.2)  # it is decoded
        self.browser.wait_for(SETTLED)
        return self.browser.value(PIXELS)

    def choose(self, name: str, value: str) -> None:
        """In a list of the page."""
        self.browser.value(f"(() => {{ const e = document.getElementById('{name}'); e.value = '{value}';"
                        " for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind)); })()")  # fmt: skip

    def unfold(self) -> None:
        """Opens the folded parts of the panel."""
        self.browser.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    def words(self, name: str) -> str:
        """Of an element of the page."""
        return self.browser.value(f"document.getElementById('{name}').textContent")

    def step(self) -> int:
        """Where the run is, as the page says."""
        return self.browser.value("viewer.state.status.step")


@pytest.fixture(scope="module")
def session(demo_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("live")
    command = [sys.executable, "train.py", "-s", demo_scene, "-m", folder / "run", "--iterations", 100_000, "--device",
               "cpu", "--viewer", 0, "--set", "log.every=10"]  # fmt: skip
    log = folder / "said.txt"
    with log.open("w") as said:
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=ENVIRONMENT, stderr=said)
    try:
        address = waited(lambda: re.search(r"viewer: (http://\S+)", log.read_text()), "the page's address", 120)[1]
        with Visitor(address, *SIZE) as browser:
            browser.wait_for("window.viewer && viewer.state.pictures > 0", 120)
            yield Session(browser, process, folder / "run")
    finally:
        process.terminate()
        process.wait(60)


def test_the_page_shows_the_training_as_it_goes(session):
    session.browser.wait_for("viewer.state.status.points && viewer.state.status.points.length > 2")
    first = session.browser.value("viewer.state.header.step")
    session.browser.wait_for(f"viewer.state.header.step > {first}")
    assert "training: step" in session.words("standing") and "Gaussians" in session.words("standing")


def test_pause_holds_the_model_and_one_step_makes_one(session):
    session.browser.click("pause")
    session.browser.wait_for("viewer.state.status.paused")
    step, picture = session.step(), session.picture()
    time.sleep(1.0)
    assert session.step() == step and session.picture() == picture
    session.browser.click("step")
    session.browser.wait_for(f"viewer.state.status.step === {step + 1}")
    time.sleep(0.5)
    assert session.step() == step + 1 and "paused" in session.words("standing")


MOVES = {
    "orbit": lambda browser: browser.drag(300, 250, 380, 280),
    "wheel": lambda browser: browser.wheel(300, 250, -120),
    "keys": lambda browser: browser.key("stage", "KeyW", 0.3),
    "arrows": lambda browser: browser.key("stage", "ArrowLeft", 0.3),
    "one finger": lambda browser: browser.touch([(300, 250)], [(330, 260)], [(380, 280)]),
    "two fingers": lambda browser: browser.touch([(280, 250), (320, 250)], [(240, 250), (360, 250)]),
    "fly": lambda browser: (browser.click("fly"), browser.drag(300, 250, 380, 280)),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_camera_moves_and_comes_home(session, name):
    """The model is paused: home again is the same picture, to the last bit."""
    session.browser.call("Emulation.setTouchEmulationEnabled", enabled="finger" in name)
    session.browser.click("home")
    before = session.picture()
    MOVES[name](session.browser)
    moved = session.picture()
    session.browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    session.browser.click("orbit")
    session.browser.click("home")
    assert moved != before and session.picture() == before


def test_orbiting_keeps_what_is_in_the_middle_in_the_middle(session):
    session.browser.click("home")
    session.picture()
    code = "(() => { const p = viewer.state.camera.project(viewer.state.camera.pivot); return p; })()"
    before = session.browser.value(code)
    session.browser.drag(300, 250, 420, 300)
    after = session.browser.value(code)
    assert after == pytest.approx(before, abs=1e-6)
    axes = session.browser.value("viewer.state.camera.axes")
    assert [sum(a * b for a, b in zip(axes[i], axes[j], strict=True)) for i, j in ((0, 1), (0, 2), (1, 1))] == (
        pytest.approx([0.0, 0.0, 1.0], abs=1e-9)
    )


def test_a_double_click_chooses_what_is_turned_around(session):
    session.browser.click("home")
    session.picture()
    before = session.browser.value("viewer.state.camera.pivot")
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            session.browser.call(
                "Input.dispatchMouseEvent", type=kind, x=250, y=300, button="left", clickCount=count,
                buttons=int(kind == "mousePressed"),
            )  # fmt: skip
    session.browser.wait_for("document.getElementById('notice').textContent.includes('what you clicked')")
    assert session.browser.value("viewer.state.camera.pivot") != before
    x, y, depth = session.browser.value("viewer.state.camera.project(viewer.state.camera.pivot)")
    place = session.browser.value("viewer.state.place")
    assert place[0] + place[2] / 2 + x * place[3] == pytest.approx(250, abs=1)
    assert place[1] + place[3] / 2 + y * place[3] == pytest.approx(300, abs=1) and depth > 0
    session.browser.click("home")


def test_while_it_moves_pictures_are_smaller(session):
    session.browser.click("home")
    session.picture()
    full = session.browser.value("viewer.state.header.width")
    session.browser.value("viewer.moved()")
    session.browser.wait_for("viewer.state.header.moving")
    assert session.browser.value("viewer.state.header.width") < 0.8 * full
    session.picture()
    assert session.browser.value("viewer.state.header.width") == full


def test_every_mode_is_another_picture(session):
    session.browser.value("viewer.jump(3)")
    pictures = {}
    for mode in session.browser.value("viewer.scene.modes"):
        session.choose("mode", mode)
        session.browser.wait_for(f"viewer.state.header.mode === '{mode}'")
        pictures[mode] = session.picture()
        if mode == "error":
            assert re.fullmatch(r"PSNR \d+\.\d\d dB", session.words("remark"))
    assert len(set(pictures.values())) == len(pictures) == 7
    session.choose("mode", "colour")


def test_at_a_photo_it_is_compared(session):
    """With the slider at the left the photo covers all; the stage shows it, as it does with `only`."""
    session.choose("photo", "5")
    session.browser.wait_for("viewer.state.photo === 5 && Boolean(viewer.state.photoImage)")
    session.picture()
    stage = "document.getElementById('view').toDataURL()"
    seen = {}
    for compare in ("none", "beside", "slider", "only"):
        session.choose("compare", compare)
        session.picture()
        seen[compare] = session.browser.value(stage)
    assert len(set(seen.values())) == 4
    session.choose("compare", "slider")
    session.picture()
    place, width = session.browser.value("viewer.state.place"), session.browser.value("viewer.state.place[2]")
    middle = place[0] + width / 2
    session.browser.drag(middle, 250, middle - width / 4, 250)
    assert session.browser.value("viewer.state.split") == pytest.approx(0.25, abs=0.02)
    assert session.browser.value("viewer.state.photo") == 5, "the camera has stayed"
    session.choose("compare", "none")
    session.browser.click("after")
    session.browser.wait_for("viewer.state.photo === 6")


def test_the_field_of_view_is_set(session):
    session.browser.click("home")
    before = session.picture()
    session.choose("fov", "90")
    assert session.picture() != before and session.words("fov-told") == "90 degrees"
    assert session.browser.value("viewer.state.camera.pose().fov") == pytest.approx(1.5708, abs=1e-3)


def test_a_crop_box_is_set_seen_and_saved(session):
    session.browser.click("home")
    before = session.picture()
    session.unfold()
    session.browser.click("crop-set")
    session.browser.wait_for("document.getElementById('notice').textContent.includes('viewer_crop.json')")
    assert (session.folder / "viewer_crop.json").is_file() and session.picture() != before
    sliders = session.browser.value("document.querySelectorAll('#crop-sliders input').length")
    assert sliders == 7
    session.browser.click("crop-clear")
    session.browser.wait_for("document.getElementById('notice').textContent.includes('no crop box')")
    assert not (session.folder / "viewer_crop.json").exists() and session.picture() == before


def test_export_and_checkpoint_are_written_now(session):
    step = session.step()
    session.browser.click("export")
    file = session.folder / f"point_cloud/iteration_{step}/point_cloud.ply"
    waited(file.is_file, "the export", 30)
    session.browser.click("checkpoint")
    waited((session.folder / f"checkpoints/step_{step}.pt").is_file, "the checkpoint", 30)
    session.browser.wait_for("document.getElementById('notice').textContent.includes('.pt')")
    assert session.step() == step


def test_key_views_are_saved_and_render_py_plays_them(session):
    """After the export."""
    session.unfold()
    for photo in (2, 9):
        session.browser.value(f"viewer.jump({photo})")
        session.browser.click("key-add")
    session.browser.click("key-save")
    file = session.folder / "camera_paths/keys.json"
    waited(file.is_file, "the path", 30)
    session.browser.wait_for("document.getElementById('notice').textContent.includes('render.py')")
    out = session.folder.parent / "out"
    arguments = (session.folder, "--skip_test", "--path", file, "--frames", 2, "--device", "cpu", "--out", out)
    done = run_program("render.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert next(out.rglob("keys.mp4")).stat().st_size > 0


def test_it_goes_on_and_says_when_the_training_has_ended(session):
    """The page itself had no errors."""
    step = session.step()
    session.browser.click("go")
    session.browser.wait_for(f"viewer.state.status.step > {step + 1}")
    assert session.browser.problems() == []
    session.process.send_signal(signal.SIGTERM)
    session.browser.wait_for("document.getElementById('notice').textContent.includes('the training has ended')")
    assert session.process.wait(60) == 143
