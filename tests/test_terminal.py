"""What reaches a terminal: printable characters, and no more than it takes."""

import errno
import io
import logging
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from demo_runs import ENVIRONMENT, ROOT, demo_config, run_program
from tqdm import tqdm

from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.system.terminal import LossyStream, PrintableFormatter, lossy_output, one_line, printable
from distwar_gs.training.monitor import setup_logging
from distwar_gs.training.trainer import Trainer

ESCAPES = "a\x1b]0;title\x07\x1b[2J\r\nERROR forged\x9b31m\u202egnp\udcff"
SHOWN = r"a\x1b]0;title\x07\x1b[2J\r\nERROR forged\x9b31m\u202egnp\udcff"


class Refusing(io.StringIO):
    """A stream that the system takes nothing for, from a moment on."""

    encoding = "utf-8"

    def __init__(self, number: int = errno.EIO, broken: bool = True) -> None:
        super().__init__()
        self.number, self.broken = number, broken

    def write(self, text: str) -> int:
        if self.broken:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)

    flush = lambda self: self.write("")  # noqa: E731


# ------------------------------------------------------------------------------------------------------- characters


@pytest.mark.parametrize("text", ["", "plain text", "Ordner für 日本", "C:\\photos", "a\tb"])
def test_what_is_printable_stays(text):
    assert printable(text) == text.replace("\t", "\\t")


def test_control_characters_are_escaped():
    assert printable(ESCAPES) == SHOWN and printable(SHOWN) == SHOWN
    assert one_line(ESCAPES * 1000).isprintable() and len(one_line("x" * 10_000)) < 2010


def test_a_message_is_one_line_of_a_log_with_its_traceback_below():
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "read %s", (ESCAPES,), None)
    assert PrintableFormatter("%(levelname)s %(message)s").format(record) == f"INFO read {SHOWN}"
    try:
        raise ValueError(ESCAPES)
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *lines = PrintableFormatter("%(message)s").format(record).split("\n")
    assert first == f"read {SHOWN}" and lines[0].startswith("Traceback") and all(line.isprintable() for line in lines)


@pytest.mark.usefixtures("in_process")
def test_names_reach_neither_terminal_nor_train_log_raw(tmp_path, capsys):
    setup_logging(tmp_path, quiet=False)
    logging.getLogger("distwar_gs.x").warning("%s: cannot be read", ESCAPES)
    assert capsys.readouterr().err == f"{SHOWN}: cannot be read\n"
    assert (tmp_path / "train.log").read_text().endswith(f"WARNING {SHOWN}: cannot be read\n")


@pytest.mark.parametrize("arguments", [["--\x1b[2Jx"], ["-s", "x", "--iterations", "\x1b[2J"], ["-s", "\x1b[2J/none"]])
def test_arguments_are_not_repeated_raw(arguments):
    said = run_program("train.py", *arguments).stderr
    assert said.startswith("error: ") and r"\x1b[2J" in said and "\x1b" not in said


# ---------------------------------------------------------------------------------------------- what takes nothing


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE, errno.ENOSPC, errno.EBADF])
def test_a_stream_that_fails_loses_what_is_written(number):
    inner = Refusing(number)
    stream = LossyStream(inner)
    assert stream.write("lost") == 4 and stream.error.errno == number
    stream.writelines(["a", "b"])
    stream.flush()
    print("lost", file=stream, flush=True)
    tqdm.write("lost", file=stream)
    inner.broken = False  # there is room again
    stream.write("here")
    assert inner.getvalue() == "here"


def test_a_bar_on_a_stream_that_fails():
    inner = Refusing(broken=False)
    inner.isatty = lambda: True
    with tqdm(total=10, file=LossyStream(inner), mininterval=0.0) as bar:
        bar.update()
        inner.broken = True
        bar.update()
        bar.set_postfix_str("lost")
        bar.refresh()
    assert "1/10" in inner.getvalue() and bar.n == 2


def test_streams_that_are_closed_or_were_never_there():
    closed = io.StringIO()
    closed.close()
    for stream in (LossyStream(closed), LossyStream(None)):
        assert stream.write("lost") == 4 and not stream.isatty()
        stream.flush()
        tqdm.write("lost", file=stream)


def test_what_an_encoding_lacks_is_escaped():
    raw = io.BytesIO()
    stream = LossyStream(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("für \udcff")
    stream.flush()
    assert raw.getvalue() == rb"f\xfcr \udcff" and stream.error is None


@pytest.mark.usefixtures("in_process")
def test_the_log_has_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Refusing(errno.EIO))
    setup_logging(tmp_path, quiet=False)
    for word in ("one", "two"):
        logging.info(word)
    lines = [line.split(maxsplit=2)[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    reason = "WARNING stderr cannot be written (Input/output error); messages are lost there, not here"
    assert sorted(lines) == sorted(["INFO one", reason, "INFO two"])


def test_streams_are_given_back(capsys):
    before = sys.stdout, sys.stderr
    with lossy_output():
        print("out")
        print("err", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before and capsys.readouterr() == ("out\n", "err\n")


# ---------------------------------------------------------------------------------------------------- real processes


PRINTS = "from distwar_gs.cli import run_cli\nrun_cli(lambda _: [print('x' * 99, i) for i in range(2000)] and 3, [])"


def shell(command: str, **options: object) -> subprocess.CompletedProcess:
    """A command of bash in which $P is a Python; PIPESTATUS of its pipe is the last line on stdout."""
    environment = ENVIRONMENT | {"P": sys.executable, "CODE": PRINTS}
    command = f'{command}; echo "${{PIPESTATUS[@]}}" >&3'
    read, write = os.pipe()
    try:
        done = subprocess.run(
            ["bash", "-c", f"exec 3>&{write}; {command}"], cwd=ROOT, env=environment, capture_output=True, text=True,
            pass_fds=[write], timeout=120, **options,
        )  # fmt: skip
    finally:
        os.close(write)
    with open(read) as codes:
        done.codes = codes.read().split()
    return done


@pytest.mark.parametrize(
    ("redirection", "codes", "said"),
    [
        ("> /dev/full", ["3"], "stdout cannot be written (No space left on device); what was printed there is lost\n"),
        ("| head -1 > /dev/null", ["3", "0"], ""),
        (">&-", ["3"], ""),
        ("2>&-", ["3"], ""),
        ("> /dev/full 2>&1", ["3"], ""),
        ("2>&1 > /dev/null | head -0", ["3", "0"], ""),
    ],
)
def test_the_exit_code_is_the_programs(redirection, codes, said):
    """Python's own would be 120 where stdout cannot be flushed."""
    done = shell(f'$P -c "$CODE" {redirection}')
    assert done.codes == codes and done.stderr == said


@pytest.mark.parametrize("program", ["train.py --help", pytest.param("scripts/doctor.py", marks=pytest.mark.slow)])
def test_programs_whose_output_nobody_takes(program):
    codes = [
        shell(f"$P {program} {where}").codes[0] for where in ("> /dev/null", "> /dev/full", "| head -1 > /dev/null")
    ]
    assert len(set(codes)) == 1, codes


def test_closed_descriptors_are_no_checkpoints():
    """The first file that is opened would be stderr, to C libraries."""
    code = "import os, sys\nfrom distwar_gs.cli import run_cli\n" \
           "run_cli(lambda _: sys.exit(10 + os.open('README.md', os.O_RDONLY)), [])"  # fmt: skip
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'], cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode >= 13


def trained_model(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoints/step_40.pt", "cpu").params


@pytest.mark.parametrize("ignored", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_training_whose_terminal_is_closed(demo_scene, tmp_path, in_process, ignored):
    """It hears of it by SIGHUP: then it saves and stops, unless that is ignored (nohup, disown): then it goes on to the
    same model."""
    ours, theirs = pty.openpty()
    command = [sys.executable, ROOT / "train.py", "-s", demo_scene, "-m", tmp_path / "run", "--device", "cpu",
               "--iterations", "40", "--no_report", "--set", "log.every=1", "log.tensorboard=false"]  # fmt: skip

    def prepare() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # the first terminal a session opens is its own
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    if not ignored:
        command[command.index("40")] = "4000"
    training = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=prepare, env=ENVIRONMENT
    )
    os.close(theirs)
    log, deadline = tmp_path / "run/train.log", time.monotonic() + 120
    while not (log.exists() and "first view" in log.read_text()):
        assert training.poll() is None and time.monotonic() < deadline
        if select.select([ours], [], [], 0.05)[0]:
            os.read(ours, 65536)
    os.close(ours)
    code = training.wait(120)
    assert "stderr cannot be written (Input/output error); messages are lost there, not here" in log.read_text()
    if not ignored:
        assert code == 129 and "continue with --resume auto" in log.read_text()
        assert len(list((tmp_path / "run/checkpoints").glob("step_*.pt"))) == 1
        return
    assert code == 0
    Trainer(demo_config(demo_scene, tmp_path / "whole", {"train.iterations": 40})).run()
    one, two = trained_model(tmp_path / "run"), trained_model(tmp_path / "whole")
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_training_that_is_piped_to_head(demo_scene, tmp_path):
    arguments = f"-s {demo_scene} -m {tmp_path / 'run'} --device cpu --iterations 5 --set log.tensorboard=false"
    done = shell(f"$P train.py {arguments} 2>&1 | head -1")
    assert done.codes == ["0", "0"] and len(done.stdout.splitlines()) == 1
    assert (tmp_path / "run/point_cloud/iteration_5/point_cloud.ply").is_file()
    assert "stderr cannot be written (Broken pipe)" in (tmp_path / "run/train.log").read_text()


def test_rendering_with_a_full_disk_behind_both_streams(demo_run, tmp_path):
    done = shell(f"$P render.py {demo_run.folder} --out {tmp_path} --device cpu > /dev/full 2>&1")
    assert done.codes == ["0"] and len(list(tmp_path.rglob("renders/*.png"))) == 2
