"""The live viewer of a training: it changes no bit, whoever watches; pause, step, checkpoint, export; how it ends."""

import contextlib
import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from demo_runs import DENSE_SCHEDULE, ENVIRONMENT, ROOT, demo_config, run_program
from live_pages import Page, asking, deaf_socket, look, opened, send_frame
from test_hooks import MCMC, state_of
from torch import Tensor

from distwar_gs.training.trainer import Trainer
from distwar_gs.viewing.live import hook
from distwar_gs.viewing.live.hook import LiveViewer
from distwar_gs.viewing.live.orders import MODES

pytestmark = pytest.mark.usefixtures("in_process")


class Watched:
    """A run with a viewer."""

    def __init__(self, scene: Path, folder: Path, changes: dict | None = None) -> None:
        values = {"log.viewer": 0, "log.viewer_fps": 60.0, "log.every": 10, **(changes or {})}
        config = demo_config(scene, folder, values)
        self.viewer = LiveViewer(config)
        self.run = Trainer(config, [self.viewer])
        self.viewer.watch(self.run)
        self.address = self.viewer.server.address

    def steered_by(self, steer: Callable[[Page], None]) -> int:
        """Trains while a page steers from another thread; the exit code. What the page finds wrong is raised here."""
        problems: list[BaseException] = []

        def work() -> None:
            page = Page(self.address)
            try:
                steer(page)
            except BaseException as error:
                problems.append(error)
                self.run.interruption._request(signal.SIGTERM, None)
            finally:
                page.close()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            code = self.run.run()
        finally:
            thread.join(30)
            self.viewer.close("")
        if problems:
            raise problems[0]
        return code


@pytest.fixture
def watched(demo_scene, tmp_path):
    made = []

    def make(changes: dict | None = None) -> Watched:
        made.append(Watched(demo_scene, tmp_path / f"watched{len(made)}", changes))
        return made[-1]

    yield make
    for one in made:
        one.viewer.close("")


def plain(demo_scene: Path, tmp_path: Path, changes: dict) -> Trainer:
    run = Trainer(demo_config(demo_scene, tmp_path / "plain", {"log.every": 10, **changes}))
    assert run.run() == 0
    return run


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and [name for name in one if not torch.equal(one[name], two[name])] == []


BOX = {"center": [0, 0, 0], "size": [2, 2, 2], "axes": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}
LONG = {**DENSE_SCHEDULE, "train.iterations": 90, "train.checkpoint_every": 30}


STRATEGIES = [
    LONG,
    {**LONG, "densification.strategy": "guided"},
    pytest.param({**LONG, **MCMC}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("changes", STRATEGIES)
def test_a_run_that_is_watched_in_every_mode_is_the_same_to_the_last_bit(watched, demo_scene, tmp_path, changes):
    """With refinements, resets and checkpoints among the looks; also with a crop box."""
    one = watched(changes)
    wishes = [look(mode=mode, size=[80, 60]) for mode in MODES]
    with asking(one.address, wishes) as headers:
        page = Page(one.address)
        page.send({"do": "crop", "box": BOX})
        assert one.run.run() == 0
        time.sleep(0.3)
    page.close()
    assert all(headers), "every mode was seen"
    assert max(header["step"] for got in headers for header in got) > 20
    assert same_bits(state_of(plain(demo_scene, tmp_path, changes)), state_of(one.run))


def test_twenty_pages_a_deaf_one_and_a_rude_one_are_not_noticed(watched, demo_scene, tmp_path):
    """The same bits; and pictures as often as was said, for all together."""
    changes = {**LONG, "log.viewer_fps": 10.0}
    one = watched(changes)
    deaf = deaf_socket(one.address)
    ended = threading.Event()

    def be_rude() -> None:
        while not ended.is_set():
            with contextlib.suppress(Exception), opened(one.address) as stranger:
                stranger.send("rubbish" * 1000)
                stranger.recv(5)
            with contextlib.suppress(OSError):
                send_frame(deaf, json.dumps(look(size=[512, 384])))

    rude = threading.Thread(target=be_rude, daemon=True)
    rude.start()
    with asking(one.address, [look(photo=index % 16) for index in range(20)]) as headers:
        begun = time.monotonic()
        assert one.run.run() == 0
        seconds = time.monotonic() - begun
    ended.set()
    rude.join(10)
    deaf.close()
    pictures = sum(map(len, headers))
    assert 1 <= pictures <= 10.0 * seconds + 2
    assert same_bits(state_of(plain(demo_scene, tmp_path, changes)), state_of(one.run))


def test_a_run_that_is_paused_stepped_saved_and_exported_is_the_same_run(watched, demo_scene, tmp_path):
    """And its clock stands while it is paused."""
    one = watched(LONG)
    folder = one.run.folder

    def steer(page: Page) -> None:
        page.send({"do": "pause"})
        page.until(lambda page: page.status.get("paused"))
        step = page.status["step"]
        time.sleep(1.0)
        page.send(look())
        assert page.picture()[0]["step"] == step < 90, "it stands"
        for number in (1, 2):
            page.send({"do": "step"})
            page.until(lambda page, wanted=step + number: page.status["step"] == wanted)
        page.send({"do": "export"})
        page.until(lambda page: any("point_cloud.ply" in words for words in page.notices))
        assert (folder / f"point_cloud/iteration_{step + 2}/point_cloud.ply").is_file()
        page.send({"do": "checkpoint"})
        page.until(lambda page: any(f"step_{step + 2}.pt" in words for words in page.notices))
        assert (folder / f"checkpoints/step_{step + 2}.pt").is_file()
        assert page.status["step"] == step + 2 and page.status["paused"]
        page.send({"do": "go"})

    begun = time.monotonic()
    assert one.steered_by(steer) == 0
    assert one.run.monitor.elapsed() < time.monotonic() - begun - 1.0
    assert same_bits(state_of(plain(demo_scene, tmp_path, LONG)), state_of(one.run))


def test_curves_have_what_was_published(watched):
    one = watched({"train.iterations": 240, "train.test_iterations": [160], "log.every": 80})
    statuses = []

    def steer(page: Page) -> None:
        page.until(lambda page: statuses.append(page.status) or len(page.status.get("points", [])) >= 2)
        page.send({"do": "pause"})
        page.until(lambda page: page.status["paused"])
        page.until(lambda page: page.status["tested"]) if page.status["step"] >= 160 else None
        page.send({"do": "go"})

    assert one.steered_by(steer) == 0
    points = one.viewer._points
    assert [point[0] for point in points] == [80, 160, 240] and points[0][3] == 3008
    assert points[-1][1:3] == pytest.approx(
        [one.run.monitor.last["train/loss"], one.run.monitor.last["train/psnr"]], abs=1e-5
    )


def test_many_points_are_thinned(watched, monkeypatch):
    monkeypatch.setattr(hook, "MOST_POINTS", 8)
    one = watched({"train.iterations": 30, "log.every": 1})
    assert one.run.run() == 0
    steps = [point[0] for point in one.viewer._points]
    assert len(steps) <= 8 and steps == sorted(steps) and steps[0] == 1


def test_sigterm_ends_a_paused_run_with_a_checkpoint(watched):
    one = watched()

    def steer(page: Page) -> None:
        page.send({"do": "pause"})
        page.until(lambda page: page.status.get("paused"))
        one.run.interruption._ask_to_save(signal.SIGUSR1, None)
        step = page.status["step"]
        page.until(lambda page: (one.run.folder / f"checkpoints/step_{step}.pt").is_file())
        one.run.interruption._request(signal.SIGTERM, None)

    assert one.steered_by(steer) == 143
    assert (one.run.folder / "checkpoints/latest").is_file() and one.run.state.step < 10


def test_a_paused_run_that_everybody_has_left_goes_on(watched, monkeypatch):
    monkeypatch.setattr(hook, "LONELY_S", 0.5)
    one = watched()

    def steer(page: Page) -> None:
        page.send({"do": "pause"})
        page.until(lambda page: page.status.get("paused"))
        time.sleep(1.0)
        page.send(look())
        assert page.picture()[0]["step"] < 10, "while somebody is there it waits"

    assert one.steered_by(steer) == 0 and one.run.state.step == 10


def test_a_picture_that_fails_costs_the_picture(watched, monkeypatch, caplog):
    """Memory that a view takes is not there, say."""
    real = hook.draw

    def draw(subject, camera, mode):
        if mode == "depth":
            raise torch.OutOfMemoryError("no memory\nat all")
        return real(subject, camera, mode)

    monkeypatch.setattr(hook, "draw", draw)
    one = watched({"train.iterations": 30})

    def steer(page: Page) -> None:
        page.send({"do": "pause"})
        page.until(lambda page: page.status.get("paused"))
        page.send(look(mode="depth"))
        with contextlib.suppress(TimeoutError):
            page.picture(1.0)
        assert page.notices[0].startswith("no picture: no memory")
        page.send(look())
        assert page.picture()[0]["mode"] == "colour"
        page.send({"do": "go"})

    assert one.steered_by(steer) == 0


def test_an_export_that_fails_costs_the_export(watched, file_limit):
    one = watched({"train.iterations": 20})

    def steer(page: Page) -> None:
        page.send({"do": "pause"})
        page.until(lambda page: page.status.get("paused"))
        file_limit(1000)
        page.send({"do": "export"})
        page.until(lambda page: page.notices)
        file_limit(None)
        assert "could not be written" in page.notices[0]
        page.send({"do": "go"})

    assert one.steered_by(steer) == 0
    assert "the run goes on without it" in (one.run.folder / "train.log").read_text()


def test_is_due_is_cheap(watched):
    """It is asked at every step, which may take 0.5 ms."""
    viewer = watched().viewer
    begun = time.perf_counter()
    for step in range(1, 10_001):
        viewer.is_due(step)
    assert (time.perf_counter() - begun) / 10_000 < 2e-5


# ---------------------------------------------------------------------------------------------- from the command line


def test_without_a_viewer_nothing_of_it_is_imported(demo_scene, tmp_path):
    """Nor of torch.compile, or what it needs: that would take longer than the rest together."""
    code = (
        "import sys\nfrom distwar_gs.programs import train\n"
        f"code = train(['-s', {str(demo_scene)!r}, '-m', {str(tmp_path / 'run')!r}, '--iterations', '1', '--device', "
        "'cpu', '--quiet', '--set', 'log.tensorboard=false'])\n"
        "print(code, [name for name in sys.modules if "
        "name.startswith(('websockets', 'distwar_gs.viewing.live', 'torch._dynamo', 'sympy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_train_py_says_where_the_page_is_and_frees_the_port(demo_scene, tmp_path):
    arguments = ("-s", demo_scene, "-m", tmp_path / "run", "--iterations", 3, "--device", "cpu", "--viewer", 0)
    done = run_program("train.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(r"viewer: http://127\.0\.0\.1:\d+   from another machine: ssh -L \d+:localhost:\d+", done.stderr)
    assert "viewer_host: 127.0.0.1" in (tmp_path / "run/config.yaml").read_text()


def test_train_py_refuses_a_port_that_is_taken_before_it_loads_the_scene(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_program("train.py", "-s", tmp_path / "no scene", "--viewer", port, "-m", tmp_path / "run")
    assert done.returncode == 1 and done.stderr.startswith(f"error: the viewer cannot listen on 127.0.0.1 port {port}")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_the_viewer_shows_a_trained_model_until_ctrl_c(demo_run):
    command = [
        sys.executable,
        "-m",
        "distwar_gs.viewing.viewer",
        str(demo_run.folder),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        address = next(found[1] for line in lines if (found := re.search(r"viewer: (http://\S+)", line)))
        page = Page(address)
        page.send(look(mode="depth"))
        header, jpeg = page.picture()
        assert header["step"] == 60 and jpeg.startswith(b"\xff\xd8")
        page.send({"do": "pause"})  # there is nothing to pause
        page.send(look())
        assert page.picture()[0]["mode"] == "colour"
        page.close()
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and said.splitlines()[-1] == "error: interrupted"


def test_the_viewer_of_what_is_no_model(tmp_path):
    done = run_program("distwar_gs/viewing/viewer.py", tmp_path, "--port", 0)
    assert done.returncode == 1 and "no config.yaml in it" in done.stderr and "Traceback" not in done.stderr


def test_messages_of_the_socket_library_stay_out_of_the_log(watched, caplog):
    """What strangers do wrong is no news of the run."""
    caplog.set_level(logging.DEBUG)
    one = watched()
    for _ in range(3):
        with contextlib.suppress(Exception), opened(one.address) as stranger:
            stranger.send("rubbish")
            stranger.recv(5)
    assert one.run.run() == 0
    assert not [record for record in caplog.records if "websocket" in record.name]
