"""Ctrl-C and SIGTERM: finish the step, save, leave; and go on from there."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from demo_runs import ENVIRONMENT, ROOT, demo_config, run_program

from distwar_gs import trainer
from distwar_gs.checkpoint import load_checkpoint
from distwar_gs.cli import run_cli
from distwar_gs.interruption import Interruption, StoppedError, terminable, undisturbed
from distwar_gs.trainer import Trainer

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_is_a_request(number, code):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested and interruption.exit_code == 0
        os.kill(os.getpid(), number)
        assert interruption.requested and interruption.exit_code == code
    assert signal.getsignal(number) is before
    assert interruption.exit_code == code


def test_the_second_signal_interrupts_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still running")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_sigterm_changes_nothing():
    """Batch systems send several; the save that the first one asked for goes on."""
    with Interruption() as interruption:
        for number in (signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interruption.exit_code == 143


def test_work_that_can_be_done_later_stops_at_a_check():
    with Interruption() as interruption:
        interruption.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError):
            interruption.check()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signals_outside_the_training_loop_end_the_program(number, code, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda _: signal.raise_signal(number), [])
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"error: {'terminated' if code == 143 else 'interrupted'}\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_wait_while_packages_are_imported():
    seen = []
    with pytest.raises(KeyboardInterrupt), terminable():
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            seen.append("not yet")
        pytest.fail("the signal is lost")
    assert seen == ["not yet"]


def test_sigterm_after_pycolmap_is_imported():
    """Its logging library would abort the program with a stack trace."""
    code = """if True:
        import os, signal
        from distwar_gs.cli import run_cli
        from distwar_gs.interruption import undisturbed

        def main(arguments):
            with undisturbed():
                import pycolmap
            os.kill(os.getpid(), signal.SIGTERM)

        run_cli(main, [])
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)
    assert (result.returncode, result.stderr) == (143, "error: terminated\n")


def test_signals_are_given_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Interruption():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_cannot_and_need_not():
    results = []

    def work() -> None:
        with Interruption() as interruption:
            results.append(interruption.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [0]


@pytest.mark.usefixtures("in_process")
def test_a_second_ctrl_c_in_training_ends_with_130_and_without_a_traceback(demo_scene, tmp_path, monkeypatch, capsys):
    run = Trainer(demo_config(demo_scene, tmp_path))
    step = Trainer.train_step

    def impatient(self, number):
        step(self, number)
        if number == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_step", impatient)
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda _: run.run(), [])
    assert stopped.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"
    assert run.step == 3 and not (tmp_path / "checkpoints").exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_scene_is_read(demo_scene, tmp_path, monkeypatch, capsys, number, code):
    real = trainer.open_scene
    monkeypatch.setattr(trainer, "open_scene", lambda config: signal.raise_signal(number) or real(config))
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda _: Trainer(demo_config(demo_scene, tmp_path)).run(), [])
    assert stopped.value.code == code and "Traceback" not in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.log"]


@pytest.mark.usefixtures("in_process")
def test_a_signal_while_measuring(demo_scene, tmp_path, monkeypatch):
    """The rest of the measurement can wait: the state is saved at once, and the resumed run measures."""
    changes = {"train.test_iterations": [3], "train.save_iterations": [3]}
    run, seen, real = Trainer(demo_config(demo_scene, tmp_path, changes)), [], Trainer.render_view

    def rendering(self, view, *others):
        seen.append(view.name)
        if len(seen) == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(self, view, *others)

    monkeypatch.setattr(Trainer, "render_view", rendering)
    assert run.run() == 143 and run.step == 3 and len(seen) == 1
    assert saved_step(tmp_path) == 3
    assert not (tmp_path / "metrics.json").exists() and not (tmp_path / "point_cloud").exists()
    resumed = Trainer(demo_config(demo_scene, tmp_path, {**changes, "train.resume": "auto"}))
    assert resumed.run() == 0
    assert [record["step"] for record in json.loads((tmp_path / "metrics.json").read_text())] == [3, 10]
    assert (tmp_path / "point_cloud/iteration_3/point_cloud.ply").is_file()


@pytest.mark.usefixtures("in_process")
def test_a_signal_while_saving(demo_scene, tmp_path, monkeypatch):
    run, real, saves = Trainer(demo_config(demo_scene, tmp_path, {"train.checkpoint_every": 4})), torch.save, []

    def saving(content, file):
        saves.append(content["step"])
        signal.raise_signal(signal.SIGINT)
        real(content, file)

    monkeypatch.setattr(torch, "save", saving)
    assert run.run() == 130
    assert saves == [4] and saved_step(tmp_path) == 4
    assert load_checkpoint(tmp_path / "checkpoints/step_4.pt", "cpu").step == 4


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_train_stops_saves_and_continues(demo_scene, tmp_path, number, code):
    arguments = ["-s", demo_scene, "-m", tmp_path / "run", "--device", "cpu", "--quiet"]
    stopped = interrupted(tmp_path / "run", number, *arguments)
    assert stopped.returncode == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "continue with --resume auto" in stopped.stderr
    step = saved_step(tmp_path / "run")
    assert step < 30_000 and f"stopped at step {step} of 30000" in stopped.stderr
    assert not (tmp_path / "run/metrics.json").exists()

    resumed = run_program("train.py", *arguments, "--resume", "auto", "--iterations", step + 5)
    assert resumed.returncode == 0, resumed.stderr
    log = (tmp_path / "run/train.log").read_text()
    assert re.search(rf"resuming from .*step_{step}\.pt: step {step}, 3,008 Gaussians", log)
    assert f"step {step + 5}: test PSNR" in log
    assert saved_step(tmp_path / "run") == step + 5


def interrupted(folder: Path, number: signal.Signals, *arguments: object) -> subprocess.CompletedProcess:
    """train.py with the arguments, sent a signal when its first step has begun."""
    command = [sys.executable, ROOT / "train.py", *arguments]
    training = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        log, deadline = folder / "train.log", time.monotonic() + 120
        while not (log.exists() and "first view" in log.read_text()):
            assert training.poll() is None and time.monotonic() < deadline, "training did not begin"
            time.sleep(0.05)
        training.send_signal(number)
        output, errors = training.communicate(timeout=60)
    finally:
        training.kill()
    return subprocess.CompletedProcess(command, training.returncode, output, errors)


def saved_step(folder: Path) -> int:
    return int(re.fullmatch(r"step_(\d+)\.pt\n", (folder / "checkpoints/latest").read_text()).group(1))
