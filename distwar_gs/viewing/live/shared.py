"""The live viewer of a training by several ranks.

The first rank serves the pages. Every few steps all ranks meet (their hosts do so anyway), hear of it what pages have
ordered, and do that together: pause, step, go, checkpoint, export. Where a page watches, the first rank also gets the
Gaussians of all there, now and then, and pictures are of those until the next time: it renders them alone, in all
modes, and the others need not wait for every picture.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from distwar_gs.config import Config
from distwar_gs.system.parallel import Ranks
from distwar_gs.training.state import TrainingState
from distwar_gs.viewing.live import hook
from distwar_gs.viewing.live.hook import LiveViewer
from distwar_gs.viewing.live.orders import Command
from distwar_gs.viewing.live.server import Server
from distwar_gs.viewing.live.site import Site
from distwar_gs.viewing.live.subjects import Still

if TYPE_CHECKING:
    from distwar_gs.training.trainer import Trainer

GATHER = "gather"
"""An order of the first rank itself: the Gaussians of all."""
LEAST_S, MOST_SHARE = 1.0, 0.1
"""Between two of these: so long at least, and so long that they take no larger share of the time."""


class Nobody(Server):
    """A server without pages, of the ranks that serve none."""

    has_pages = False

    def __init__(self) -> None:
        """Binds nothing."""

    def start(self, site: Site) -> None:
        """Nothing."""

    def notice(self, words: str) -> None:
        """Nothing."""

    def close(self, words: str = "") -> None:
        """Nothing."""


class SharedViewer(LiveViewer):
    """A hook, which all ranks have."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        """See LiveViewer; the first rank binds the port."""
        self._ranks = ranks
        super().__init__(config)
        self._commands[GATHER] = self._gather
        self._model: Still | None = None
        self._model_step, self._model_at, self._model_cost = -1, 0.0, 0.0  # of what step; when made; seconds

    def watch(self, run: Trainer) -> None:
        """See LiveViewer."""
        super().watch(run)
        self._every_meeting = run.agreed_every * run.state.views

    def is_due(self, step: int) -> bool:
        """Whether all meet, or the first rank has something to do by itself."""
        return self._is_meeting(step) or self._is_paused or self._desk.is_due() or self._run.monitor.is_published(step)

    def after_step(self, step: int, state: TrainingState) -> None:
        """See LiveViewer."""
        if self._run.monitor.is_published(step):
            self._note_point(step)
        if self._is_meeting(step) or self._is_paused:
            self._obey()
            self._rest(step, state)
        if self._desk.is_due() and self._model:
            with self._run.monitor.paused():
                self._show()
        self._tell()

    # ------------------------------------------------------------------------------------------------ inside

    def _make_server(self, config: Config) -> Server:
        return super()._make_server(config) if self._ranks.leads else Nobody()

    def _is_meeting(self, step: int) -> bool:
        return step % self._every_meeting < self._run.state.views

    def _obey(self) -> None:
        """What the first rank says is to be done, on all."""
        orders = self._own_orders() if self._ranks.leads else []
        if not self._ranks.numbers(len(orders))[0]:
            return
        with self._run.monitor.paused():
            for name in self._ranks.told(orders):
                self._commands[name]()
                self._tell(at_once=True)

    def _own_orders(self) -> list[str]:
        orders = []
        while command := self._desk.next_command():
            orders.append(command.name)
        since, least = time.monotonic() - self._model_at, max(LEAST_S, self._model_cost / MOST_SHARE)
        is_old = self._run.state.step != self._model_step and (since >= least or self._is_paused)
        return [*orders, GATHER] if is_old and self._desk.is_due() and self._has_room() else orders

    def _has_room(self) -> bool:
        """Whether the Gaussians of all, of which there are about as many on each rank, have room beside the training:
        a page that watches must not end it."""
        device, count = self._run.state.device, self._ranks.count
        needed = 1.2 * count * sum(one.numel() * one.element_size() for one in self._run.state.params.values())
        if device.type != "cuda" or needed < _free_memory(device):
            return True
        self._server.notice(f"no picture: the Gaussians of all {count} ranks have no room on the first one's GPU")
        return False

    def _gather(self) -> None:
        state, begun = self._run.state, time.monotonic()
        self._model = None  # its memory is needed
        state.engine.settle(state.step)
        whole = state.whole()
        if whole is not None:
            params = {name: values.detach() for name, values in whole.items()}
            self._subject = self._model = Still(params, state.settings, self._background)
            self._model_step, self._model_at = state.step, time.monotonic()
            self._model_cost = self._model_at - begun

    def _rest(self, step: int, state: TrainingState) -> None:
        """See LiveViewer; all ranks wait for the first one's orders."""
        if self._rests():
            self._tell(at_once=True)
        seen = time.monotonic()
        with self._run.monitor.paused():
            while self._rests():
                self._run.interruption.meet()
                if self._run.interruption.wants_save:
                    self._run.checkpoints.after_step(step, state)
                self._desk.wait(hook.HEARTBEAT_S if self._ranks.leads else 0.0)
                seen = time.monotonic() if self._server.has_pages else seen
                if self._ranks.leads and time.monotonic() - seen > hook.LONELY_S:
                    self._desk.order(Command("go"))
                self._obey()
                if self._model:
                    self._show(others_wait=False)
        self._steps_left = 0

    def _standing(self) -> dict[str, Any]:
        step = self._model_step if self._model else self._run.state.step
        return {"step": step, "count": len(self._model.params["means"]) if self._model else 0}


def _free_memory(device: torch.device) -> int:
    """Bytes that can be allocated."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
