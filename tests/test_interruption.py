"""Ctrl-C and SIGTERM: finish the step, save, leave; and go on from there."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from demo_runs import ENVIRONMENT, ROOT, demo_config, run_program

from distwar_gs.cli import run_cli
from distwar_gs.interruption import Interruption
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
