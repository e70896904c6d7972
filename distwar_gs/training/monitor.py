"""What a run tells while it runs: TensorBoard, curves.jsonl, the progress bar, train.log.

Silent steps cost no host sync.
"""

import contextlib
import io
import logging
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from distwar_gs.config import Config, as_values
from distwar_gs.config.schedule import Schedule
from distwar_gs.engines.timing import NoTimer, PartTimer, StepTimer
from distwar_gs.system.files import check_regular
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.system.terminal import LossyStream, PrintableFormatter, printable, reason_of
from distwar_gs.training.curve_file import CurveFile
from distwar_gs.training.hparams import session
from distwar_gs.training.split import showing
from distwar_kernels import Reduction, TuningRound

log = logging.getLogger(__name__)

_PSNR_SMOOTHING = 0.9
_SECONDS_BETWEEN_LINES = 15.0


def setup_logging(folder: Path, quiet: bool) -> None:
    """Messages go to the terminal (above the progress bar; warnings only if quiet) and, with times, to train.log. One
    of the two that cannot be written costs its messages, and the other one says why."""
    terminal, file = _AboveProgressBar(), _RunLog(folder / "train.log")
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    terminal.setFormatter(PrintableFormatter("%(message)s"))
    file.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[terminal, file], force=True)
    threading.excepthook = _without_write_errors


def move_log(folder: Path) -> None:
    """train.log goes on in another folder, or in the same that was made again, with all that it holds."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _RunLog):
            handler.move(folder / "train.log")


def _without_write_errors(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread ends with the error of a full disk, and raises it again in `Monitor._to_tensorboard`, which
    says so."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


class _AboveProgressBar(logging.Handler):
    """The terminal, which may be closed; said once, for train.log."""

    has_warned = False

    def emit(self, record: logging.LogRecord) -> None:
        stream = _stderr()
        tqdm.write(self.format(record), file=stream)
        if stream.error and not self.has_warned:
            self.has_warned = True
            log.warning("stderr cannot be written (%s); messages are lost there, not here", reason_of(stream.error))


def _stderr() -> LossyStream:
    return sys.stderr if isinstance(sys.stderr, LossyStream) else LossyStream(sys.stderr)


class _RunLog(logging.FileHandler):
    """A log whose failure (a full disk) is reported once, not with a traceback for every line."""

    has_warned = False

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a+", encoding="utf-8", errors="backslashreplace", delay=True)
        self._begin()

    def move(self, path: Path) -> None:
        """Goes on in another file, with all that was said before."""
        said = self._said()
        self.close()
        self.baseFilename, self.has_warned = os.path.abspath(path), False
        self._begin(said)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)  # opens the file, if that failed before
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord | None) -> None:  # noqa: N802 (logging's name)
        if not self.has_warned:
            self.has_warned = True
            tqdm.write(f"{self.baseFilename}: cannot be written ({sys.exc_info()[1]}); lines are lost", file=_stderr())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written is still to be
            super().close()

    def _begin(self, said: str = "") -> None:
        try:
            self.stream = stream = self._open()
            stream.write(said)
        except OSError:
            self.handleError(None)

    def _open(self) -> io.TextIOWrapper:
        if os.path.exists(self.baseFilename):
            check_regular(self.baseFilename)
        return super()._open()

    def _said(self) -> str:
        try:
            self.flush()
            handle = self.stream.fileno()  # type: ignore[union-attr]  # None has none: AttributeError
            return os.pread(handle, os.fstat(handle).st_size, 0).decode("utf-8", "replace")
        except (OSError, AttributeError):  # it never was there
            return ""


def _event_writer(folder: Path, first_step: int) -> SummaryWriter | None:
    """TensorBoard's, or None with a warning for a path whose bytes are no UTF-8, which it cannot write to."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        log.warning("%s: TensorBoard needs a path that is UTF-8; the run goes on without it", printable(str(folder)))
        return None
    return _Writer(folder, purge_step=first_step)


class _Writer(SummaryWriter):
    """And the page HPARAMS, which SummaryWriter would write into a folder of its own, where it has no curves."""

    def add_page(self, summary: Any) -> None:
        self._get_file_writer().add_summary(summary)


class Monitor:
    """Scalars, images and the progress bar of one run.

    `record` adds up scalars on the device at every step; on every `log.every`-th step `publish` fetches their means,
    the one moment the host waits for the GPU.
    """

    def __init__(
        self, folder: Path, config: Config, device: torch.device, first_step: int, elapsed: float, ranks: Ranks = ALONE
    ) -> None:
        """Begin at `first_step` - 1 steps done in `elapsed` seconds, all ranks' together."""
        self._every, self._device, self._ranks = config.log.every, device, ranks
        self._views = showing(config, ranks).count
        self._writer: SummaryWriter | None = None
        self._open_writer(folder, config, first_step)
        self._curves = CurveFile(folder, first_step) if config.log.report else None
        self._schedule = Schedule(config.train.iterations, config.train.seconds)
        last = None if self._schedule.follows_clock else config.train.iterations
        self._bar = tqdm(
            total=last, initial=first_step - 1, dynamic_ncols=True, desc="training", unit="step",
            file=_stderr(), disable=config.log.quiet or None,  # None: no bar where the output is not a terminal
        )  # fmt: skip
        self._sums: dict[str, Tensor] = {}
        self._steps, self._rounds = 0, 0
        self._psnr: float | None = None
        self.last: dict[str, float] = {}
        """What was published last, by the name of its curve."""
        self._elapsed, self._published = elapsed, elapsed
        self._line_at = time.perf_counter()
        self._synchronize()
        self._clock: float | None = time.perf_counter()  # None: paused

    # ------------------------------------------------------------------------------------------------ every step

    def timer(self, step: int) -> StepTimer:
        """Times the parts of a step that will be published; does nothing on others."""
        return PartTimer(self._device) if self.is_published(step) else NoTimer()

    def is_published(self, step: int) -> bool:
        """Whether scalars are written at this step."""
        return step % self._every < self._views

    def record(self, scalars: Mapping[str, Tensor]) -> None:
        """Adds one step's scalars, still on the device, to the running means."""
        if self._sums:
            torch._foreach_add_(list(self._sums.values()), [scalars[name] for name in self._sums])
        else:
            self._sums = {name: value.clone() for name, value in scalars.items()}
        self._steps += 1
        self._bar.update(self._views)

    def rewind(self, step: int) -> None:
        """The run is back at an earlier step: what was recorded since is forgotten."""
        self._sums, self._steps, self._published = {}, 0, self.elapsed()
        self._bar.n = step
        self._bar.refresh()
        if self._curves:
            self._curves.rewind(step)

    # --------------------------------------------------------------------------------------------- publishing steps

    def publish(self, step: int, timer: StepTimer, scalars: Mapping[str, float]) -> None:
        """Writes the means since the last time, the parts of this step's time, and the given scalars."""
        averages = self._ranks.mean(torch.stack(list(self._sums.values())) / self._steps)
        means = dict(zip(self._sums, averages.tolist(), strict=True))
        seconds = (self.elapsed() - self._published) / (self._steps * self._views)
        times = {"time/iteration_ms": seconds * 1e3, "time/steps_per_second": 1.0 / seconds}
        times |= {f"time/{part}_ms": ms for part, ms in timer.milliseconds().items()}
        self._sums, self._steps, self._published = {}, 0, self.elapsed()
        memory = self._memory()
        self.last = {**means, **times, **scalars, **memory}
        self._write(step, self.last)
        self._show(step, means["train/loss"], scalars["train/psnr"], int(scalars["gaussians/count"]), memory)

    def tuned(self, step: int, rounds: Sequence[TuningRound]) -> None:
        """Writes what `reduction: auto` measured and chose in the rounds since the last call."""
        for outcome in rounds[self._rounds :]:
            times = {f"reduction/auto_{reduction}_ms": ms for reduction, ms in outcome.milliseconds.items()}
            self._write(step, times | {"reduction/auto_cost_ms": outcome.cost_ms})
            self._to_tensorboard("add_text", "reduction", str(outcome), step)
        self._rounds = len(rounds)

    def evaluation(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """Writes the numbers and pictures ([H, W, 3] in [0, 1]) of an evaluation."""
        self._write(step, scalars)
        for name, image in images.items():
            self._to_tensorboard("add_image", name, image, step, dataformats="HWC")

    def distributed(self, step: int, histograms: Mapping[str, Any], scalars: Mapping[str, float]) -> None:
        """Writes histograms (distwar_gs.training.distributions) and what goes with them."""
        self._write(step, scalars)
        for name, histogram in histograms.items():
            self._to_tensorboard("add_histogram_raw", name, global_step=step, **vars(histogram))

    def move(self, folder: Path, config: Config, step: int) -> None:
        """The curves from this step on go to another folder, or to the same that was made again."""
        self._to_tensorboard("close")
        self._open_writer(folder, config, step)
        if self._curves:
            self._curves.move(folder)

    @property
    def rows(self) -> Sequence[Mapping[str, float]]:
        """What was written so far, a row for each time: "step", and scalars by name. Empty without a report."""
        return self._curves.rows if self._curves else ()

    def elapsed(self) -> float:
        """Seconds spent in the training loop, all earlier parts of a resumed run included; pauses are not."""
        return self._elapsed + (time.perf_counter() - self._clock if self._clock is not None else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the training clock: for evaluating, saving, and what others look at. Pauses may be nested."""
        if self._clock is None:
            yield
            return
        self._synchronize()
        self._elapsed, self._clock = self.elapsed(), None
        try:
            yield
        finally:
            self._synchronize()
            self._clock = time.perf_counter()

    def close(self) -> None:
        """Ends the bar and flushes the event file."""
        self._bar.close()
        self._to_tensorboard("add_page", self._ended)
        self._to_tensorboard("close")

    # ------------------------------------------------------------------------------------------------------ inside

    def _open_writer(self, folder: Path, config: Config, step: int) -> None:
        if config.log.tensorboard:
            try:
                self._writer = _event_writer(folder / "tensorboard", step)
            except Exception as error:  # the system's, or those of TensorBoard's own layer of files
                self._do_without(error)
        self._write_config(config)

    def _write_config(self, config: Config) -> None:
        text = yaml.safe_dump({k: list(v) if isinstance(v, tuple) else v for k, v in as_values(config).items()})
        text = "    " + text.replace("\n", "\n    ")  # indented: shown as it is
        self._to_tensorboard("add_text", "config", text)
        *begin, self._ended = session(config)
        for summary in begin:
            self._to_tensorboard("add_page", summary)
        self._to_tensorboard("add_text", "reduction", str(Reduction(**vars(config.reduction))))

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._curves:
            self._curves.add(step, scalars)
        for name, value in scalars.items():
            self._to_tensorboard("add_scalar", name, value, step)

    def _to_tensorboard(self, method: str, *values: object, **options: object) -> None:
        """To TensorBoard, if the run has it, by a method of SummaryWriter. If its file cannot be written (a full disk),
        the run goes on without."""
        if not self._writer:
            return
        try:
            getattr(self._writer, method)(*values, **options)
        except Exception as error:  # as above
            self._do_without(error)

    def _do_without(self, error: Exception) -> None:
        self._writer = None
        log.warning("TensorBoard's file cannot be written (%s); the run goes on without it", error)

    def _show(self, step: int, loss: float, psnr: float, count: int, memory: Mapping[str, float]) -> None:
        """In the progress bar; where there is none, as a line now and then."""
        self._psnr = (
            psnr
            if self._psnr is None or not math.isfinite(self._psnr)
            else _PSNR_SMOOTHING * self._psnr + (1 - _PSNR_SMOOTHING) * psnr
        )
        gib = next(iter(memory.values())) / 1024
        text = f"loss {loss:.4f}, PSNR {self._psnr:.2f}, {count:,} Gaussians, {gib:.2f} GiB"
        self._bar.set_postfix_str(text, refresh=False)
        if self._bar.disable and time.perf_counter() - self._line_at >= _SECONDS_BETWEEN_LINES:
            self._line_at = time.perf_counter()
            log.info("%s, %.0f s: %s", self._schedule.so_far(step, self.elapsed()), self.elapsed(), text)

    def _memory(self) -> dict[str, float]:
        if self._device.type == "cuda":
            cuda = torch.cuda
            read = {
                "allocated": cuda.memory_allocated,
                "reserved": cuda.memory_reserved,
                "peak": cuda.max_memory_allocated,
            }
            return {f"memory/{name}_mib": bytes_of(self._device) / 2**20 for name, bytes_of in read.items()}
        return {"memory/resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
