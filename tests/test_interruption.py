"""Ctrl-C, SIGTERM and their kind: finish the step, save, leave; and go on from there."""

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
from clock import Clock
from demo_runs import ENVIRONMENT, ROOT, demo_config, run_program, start_program

from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.cli import run_cli
from distwar_gs.system import interruption
from distwar_gs.system.interruption import (
    SAME_PRESS_S,
    SAVING,
    STOPPING,
    Interruption,
    StoppedError,
    terminable,
    undisturbed,
)
from distwar_gs.training import trainer
from distwar_gs.training.results import Results
from distwar_gs.training.trainer import Trainer

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGXCPU, 152)]
WORDS = {
    130: "interrupted",
    143: "terminated",
    129: "the terminal was closed (SIGHUP)",
    152: "no CPU time is left (SIGXCPU)",
}


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(interruption, "time", clock)
    return clock


def test_all_of_them_are_tested():
    assert [number for number, _ in SIGNALS] == list(STOPPING)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_is_a_request(number, code):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested and interruption.exit_code == 0
        os.kill(os.getpid(), number)
        assert interruption.requested and interruption.exit_code == code
    assert signal.getsignal(number) is before
    assert interruption.exit_code == code


def test_ctrl_c_pressed_again_interrupts_at_once(clock):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGINT)
        clock.now += SAME_PRESS_S
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still running")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_key_that_is_held_is_one_wish(clock):
    """However long: each comes soon after the one before."""
    with Interruption() as interruption:
        for _ in range(100):
            signal.raise_signal(signal.SIGINT)
            clock.now += 0.03
        assert interruption.exit_code == 130


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
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda _: signal.raise_signal(number), [])
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"error: {WORDS[code]}\n"


def test_a_program_that_ends_by_itself_gives_signals_back():
    before = {number: signal.getsignal(number) for number in (*STOPPING, *SAVING)}
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda _: 0, [])
    assert ended.value.code == 0 and {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("numbers", [[signal.SIGINT] * 10, [signal.SIGTERM] * 3, [signal.SIGHUP, signal.SIGTERM]])
def test_what_comes_after_the_first_signal_says_nothing(numbers, capsys):
    """Neither while it unwinds nor later."""

    def work(_):
        try:
            signal.raise_signal(numbers[0])
        finally:
            for number in numbers[1:]:
                signal.raise_signal(number)

    with pytest.raises(SystemExit) as stopped:
        run_cli(work, [])
    for number in numbers:
        signal.raise_signal(number)
    assert stopped.value.code == 128 + numbers[0]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_ctrl_c_pressed_again_ends_what_does_not_end(clock, capsys):
    def stuck(_):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            clock.now += SAME_PRESS_S
            signal.raise_signal(signal.SIGINT)
            pytest.fail("stuck")

    with pytest.raises(SystemExit) as stopped:
        run_cli(stuck, [])
    assert stopped.value.code == 130 and capsys.readouterr().err == "error: interrupted\n"


def test_ctrl_c_pressed_again_ends_what_does_not_end_even_then(clock, monkeypatch):
    """Threads that the interpreter waits for, say."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with pytest.raises(SystemExit):
        run_cli(lambda _: signal.raise_signal(signal.SIGINT), [])
    signal.raise_signal(signal.SIGINT)
    assert codes == []
    clock.now += SAME_PRESS_S
    signal.raise_signal(signal.SIGINT)
    assert codes == [130]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU, *SAVING])
def test_what_nohup_ignores_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with terminable(), Interruption() as asked:
        signal.raise_signal(number)
        assert not asked.requested and not asked.takes_save()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_sigint_stops_a_run_in_the_background():
    """Which a shell starts with SIGINT ignored: the only way to send one is on purpose."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with terminable():
        signal.raise_signal(signal.SIGINT)
        with Interruption() as asked:
            signal.raise_signal(signal.SIGINT)
            assert asked.exit_code == 130


@pytest.mark.parametrize("number", SAVING)
def test_asking_for_a_checkpoint(number):
    with terminable():
        signal.raise_signal(number)  # nothing to save yet, and nothing happens
        with Interruption() as asked:
            assert not asked.takes_save()
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert asked.takes_save() and not asked.takes_save() and not asked.requested


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signals_wait_while_packages_are_imported(number, code):
    seen = []
    with pytest.raises(KeyboardInterrupt), terminable():
        with undisturbed():
            signal.raise_signal(number)
            seen.append("not yet")
        pytest.fail("the signal is lost")
    assert seen == ["not yet"]


def test_sigterm_after_pycolmap_is_imported():
    """Its logging library would abort the program with a stack trace."""
    code = """if True:
        import os, signal
        from distwar_gs.cli import run_cli
        from distwar_gs.system.interruption import undisturbed

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
def test_a_second_ctrl_c_in_training_ends_with_130_and_without_a_traceback(
    demo_scene, tmp_path, monkeypatch, capsys, clock
):
    run = Trainer(demo_config(demo_scene, tmp_path))
    step = Trainer.train_step

    def impatient(self, number):
        step(self, number)
        if number == 3:
            signal.raise_signal(signal.SIGINT)
            clock.now += SAME_PRESS_S
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_step", impatient)
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda _: run.run(), [])
    assert stopped.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"
    assert run.state.step == 3 and not (tmp_path / "checkpoints").exists()


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
    run, seen, real = Trainer(demo_config(demo_scene, tmp_path, changes)), [], Results.render_view

    def rendering(self, view, *others):
        seen.append(view.name)
        if len(seen) == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(self, view, *others)

    monkeypatch.setattr(Results, "render_view", rendering)
    assert run.run() == 143 and run.state.step == 3 and len(seen) == 1
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


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("number", SAVING)
def test_a_checkpoint_on_demand_changes_nothing(demo_scene, tmp_path, monkeypatch, number):
    """The run goes on, to the last bit as without; and another goes on from that checkpoint so, too."""
    whole = Trainer(demo_config(demo_scene, tmp_path / "whole"))
    whole.run()
    step = Trainer.train_step

    def asked(self, at):
        step(self, at)
        if at == 4:
            signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "train_step", asked)
    run = Trainer(demo_config(demo_scene, tmp_path / "run"))
    assert run.run() == 0
    monkeypatch.undo()
    saved = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in saved.iterdir()) == ["latest", "step_10.pt", "step_4.pt"]
    resumed = Trainer(demo_config(demo_scene, tmp_path / "resumed", {"train.resume": str(saved / "step_4.pt")}))
    assert resumed.state.step == 4 and resumed.run() == 0
    for other in (run, resumed):
        assert all(torch.equal(whole.state.params[name], other.state.params[name]) for name in whole.state.params)


@pytest.mark.usefixtures("in_process")
def test_ten_ctrl_c_at_once_in_training(demo_scene, tmp_path, monkeypatch, capsys):
    run, step = Trainer(demo_config(demo_scene, tmp_path)), Trainer.train_step

    def hasty(self, number):
        step(self, number)
        if number == 3:
            for _ in range(10):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_step", hasty)
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda _: run.run(), [])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped at step 3 of 10; continue with --resume auto\n"
    assert load_checkpoint(tmp_path / "checkpoints/step_3.pt", "cpu").step == 3


@pytest.mark.parametrize(("number", "code", "times"), [(signal.SIGINT, 130, 10), (signal.SIGTERM, 143, 1)])
def test_train_stops_saves_and_continues(demo_scene, tmp_path, number, code, times):
    arguments = ["-s", demo_scene, "-m", tmp_path / "run", "--device", "cpu", "--quiet"]
    stopped = interrupted(tmp_path / "run", [number] * times, *arguments)
    assert stopped.returncode == code, stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1 and stopped.stderr.endswith("continue with --resume auto\n")
    step = saved_step(tmp_path / "run")
    assert step < 20_000 and f"stopped at step {step} of 20000" in stopped.stderr
    assert not (tmp_path / "run/metrics.json").exists()

    resumed = run_program("train.py", *arguments, "--resume", "auto", "--iterations", step + 5)
    assert resumed.returncode == 0, resumed.stderr
    log = (tmp_path / "run/train.log").read_text()
    assert re.search(rf"resuming from .*step_{step}\.pt: step {step}, 3,008 Gaussians", log)
    assert f"step {step + 5}: test PSNR" in log
    assert saved_step(tmp_path / "run") == step + 5


def interrupted(folder: Path, numbers: list[signal.Signals], *arguments: object) -> subprocess.CompletedProcess:
    """train.py with the arguments, sent signals within some milliseconds when its first step has begun."""
    training = start_program("train.py", *arguments)
    try:
        log, deadline = folder / "train.log", time.monotonic() + 120
        while not (log.exists() and "first view" in log.read_text()):
            assert training.poll() is None and time.monotonic() < deadline, "training did not begin"
            time.sleep(0.05)
        for number in numbers:
            training.send_signal(number)
            time.sleep(0.001)
        output, errors = training.communicate(timeout=60)
    finally:
        training.kill()
    return subprocess.CompletedProcess(training.args, training.returncode, output, errors)


def saved_step(folder: Path) -> int:
    return int(re.fullmatch(r"step_(\d+)\.pt\n", (folder / "checkpoints/latest").read_text()).group(1))


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_table_in_the_docs_has_each_signal_with_its_code(number, code):
    """And those that ask for a checkpoint."""
    table = (ROOT / "docs/runs.md").read_text(encoding="utf-8").partition("## Interruptions")[2].partition("##")[0]
    assert re.search(rf"^\| .*{number.name}.* \| {code} \|$", table, re.MULTILINE)
    asking = ", ".join(number.name for number in SAVING)
    assert re.search(rf"^\| {asking} .*\| a checkpoint after this step.* \| 0 \|$", table, re.MULTILINE)
