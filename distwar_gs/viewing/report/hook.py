"""report.html at the end of a run. Whatever fails in making it costs the report, and one line in the log."""

from __future__ import annotations

import html
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distwar_gs.system.files import replacing
from distwar_gs.system.interruption import StoppedError
from distwar_gs.viewing.report.gathered import Gathered, gather
from distwar_gs.viewing.report.sections import SECTIONS, headline

if TYPE_CHECKING:
    from distwar_gs.training.state import TrainingState
    from distwar_gs.training.trainer import Trainer

NAME = "report.html"
_TEMPLATE = Path(__file__).with_name(NAME)

log = logging.getLogger(__name__)


class Report:
    """A hook: writes report.html after the last step, behind the results of which it tells."""

    needs_finite = True

    def __init__(self, run: Trainer) -> None:
        """Of this run."""
        self._run = run

    def is_due(self, step: int) -> bool:
        """After the last step."""
        return self._run.state.is_over

    def after_step(self, step: int, state: TrainingState) -> None:
        """Makes and writes it; the clock of the training stands still. Where the model or the numbers could not be
        written, which the run says, there is nothing to tell of."""
        if self._run.files.unwritten:
            return
        begin = time.perf_counter()
        try:
            with self._run.monitor.paused():
                path = write_report(self._run)
        except StoppedError:
            raise
        except Exception as error:  # whatever it is, the run has its model and its numbers
            log.warning("no %s (%s: %s)", NAME, type(error).__name__, str(error).partition("\n")[0])
        else:
            log.info("report: %s (%.1f s)", path, time.perf_counter() - begin)


def write_report(run: Trainer) -> Path:
    """Of a run after its last step; returns the page."""
    path = run.folder / NAME
    text = report(gather(run))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def report(run: Gathered) -> str:
    """The page."""
    sections = (f"<h2>{title}</h2>{section(run)}" for title, section in SECTIONS.items())
    values = {
        "PARTS": run.model,
        "TITLE": html.escape(Path(run.scene).name),
        "SUBTITLE": html.escape(f"{run.scene}, {run.made}, {run.device}"),
        "HEADLINE": headline(run),
        "SECTIONS": "\n".join(sections),
    }
    head, *rest = _TEMPLATE.read_text(encoding="utf-8").split("@@")
    # Names and texts alternate; put together at once, so that nothing in a value is taken for a name.
    return head + "".join(values[name] + text for name, text in zip(rest[::2], rest[1::2], strict=True))
