"""``auto``: the reduction strategy and threshold that measure fastest on this GPU, in this scene, at this time.

How the best choice moves with the scene is the paper's point (arXiv 2401.05345, section 5.4: the balance threshold is
found by trying). Here trying goes on while training does: now and then the backward pass of a training step is run
again under each candidate, on the very gradients of that step, and timed by events that nobody waits for. Candidates
meet on the same views, so that views of different depth do not blur the comparison; the slow ones are dropped after
the first.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_kernels.reduction import Reduction

_LOG = logging.getLogger(__name__)

CANDIDATES = (
    *(Reduction("sw_t", threshold) for threshold in (1, 4)),
    Reduction("atomic"),
    *(Reduction("sw_s", threshold) for threshold in (8, 16, 24)),
    *(Reduction("sw_b", threshold) for threshold in (1, 4, 8, 12, 16, 20, 24)),
)
"""What ``auto`` chooses among; it starts with the first."""

_CHANGE = 0.1  # the work has changed when the number of primitives has, by this share
_STALE = 2000  # backward passes after which it may have changed with the same number
_DROP = 1.25  # a candidate this many times slower than the best is not measured on further views

Run = Callable[[Tensor, Reduction], object]
"""Runs a backward pass on dL/d(rendered) under a reduction; what it returns is thrown away."""


@dataclass(frozen=True)
class TuningRound:
    """One measurement of all candidates, and what came of it."""

    passes: int
    """Backward passes seen when it ended."""
    primitives: int
    """Gaussians (spheres, ...) when it began."""
    milliseconds: dict[Reduction, float]
    """Time of an average view. For a candidate dropped early, scaled from the views it was measured on."""
    choice: Reduction
    """The fastest."""
    cost_ms: float
    """GPU time it took in all."""

    def __str__(self) -> str:
        """``sw_b@8 (1.05 ms per view; sw_b@4 1.09, ...)``, fastest first."""
        (_, best), *rest = sorted(self.milliseconds.items(), key=lambda item: item[1])
        others = ", ".join(f"{reduction} {ms:.2f}" for reduction, ms in rest)
        return f"{self.choice} ({best:.2f} ms per view; {others})"


class ReductionTuner:
    """Chooses among reductions by measuring backward passes. An op asks it for ``reduction`` and lets it ``watch``.

    It measures at the first passes, and again when the number of primitives has changed by 10 % or 2,000 passes have
    gone by, if it can do so within its share of the time of all passes (the first round comes before any budget). It
    never makes the host wait for the GPU.
    """

    def __init__(
        self,
        candidates: Sequence[Reduction] = CANDIDATES,
        *,
        start: Reduction | None = None,
        views: int = 4,
        share: float = 0.02,
    ) -> None:
        """Use `start` (None: the first candidate) until the first choice.

        Finalists are measured on `views` views, in `share` of the passes' time.
        """
        self._candidates, self._start = tuple(candidates), start or candidates[0]
        self._views, self._share = views, share
        self.reset()

    def reset(self) -> None:
        """Forgets all measurements: for a new scene."""
        self.reduction = self._start
        self.rounds: list[TuningRound] = []
        self._passes = 0
        self._allowance_ms, self._round_ms = 0.0, 0.0
        self._round: _Round | None = None

    def watch(self, rendered: Tensor, primitives: int, prepare: Callable[[], Run]) -> None:
        """Notes a forward pass on CUDA whose backward pass it may measure.

        rendered: what the op computed. primitives: how many Gaussians (spheres, ...) the pass was for.
        prepare: called if this pass is to be measured; what it returns then runs under each candidate when the gradient
        of `rendered` arrives. That is kept by the graph, so it must not hold the graph: detached tensors only, or
        neither would ever be freed.
        """
        if not rendered.requires_grad or torch.cuda.is_current_stream_capturing():
            return
        current = self._next_round(primitives)
        if current:
            run = prepare()
            rendered.register_hook(lambda gradient: current.measure(gradient, run))

    def watch_gradient(self, gradient: Tensor, primitives: int, run: Run) -> None:
        """Notes a backward pass that is run by hand, and may run it under each candidate now."""
        current = self._next_round(primitives)
        if current:
            current.measure(gradient, run)

    def _next_round(self, primitives: int) -> "_Round | None":
        """Counts a pass; the round that wants to measure it, if any."""
        self._passes += 1
        self._allowance_ms += self._share * self._expected_ms(primitives)[0]
        if self._round and self._round.collect():
            self._finish(self._round)
        if not self._round and self._is_due(primitives):
            self._round = _Round(self._candidates, self._views, primitives, warm=bool(self.rounds))
        return self._round if self._round and not self._round.waits else None

    def _is_due(self, primitives: int) -> bool:
        if not self.rounds:
            return True
        last = self.rounds[-1]
        changed = abs(primitives - last.primitives) >= _CHANGE * last.primitives
        stale = self._passes - last.passes >= _STALE
        return (changed or stale) and self._expected_ms(primitives)[1] <= self._allowance_ms

    def _expected_ms(self, primitives: int) -> tuple[float, float]:
        """Of a pass and of a round, from the last round and how the scene has grown since; 0 before there was one."""
        if not self.rounds:
            return 0.0, 0.0
        growth = max(1.0, primitives / max(self.rounds[-1].primitives, 1))
        return growth * min(self.rounds[-1].milliseconds.values()), growth * self._round_ms

    def _finish(self, measured: "_Round") -> None:
        if self.rounds:
            self._allowance_ms -= measured.cost_ms
        self._round_ms = measured.timed_ms
        milliseconds = measured.milliseconds()
        self.reduction = min(milliseconds, key=milliseconds.__getitem__)
        outcome = TuningRound(self._passes, measured.primitives, milliseconds, self.reduction, measured.cost_ms)
        self.rounds.append(outcome)
        self._round = None
        _LOG.info("reduction auto, after %d passes, %d primitives: %s", self._passes, measured.primitives, outcome)


class _Round:
    """Times of the candidates over a few views, the slow ones dropped on the way."""

    def __init__(self, candidates: Sequence[Reduction], views: int, primitives: int, *, warm: bool) -> None:
        self.primitives, self.cost_ms = primitives, 0.0
        self._times: dict[Reduction, list[float]] = {candidate: [] for candidate in candidates}
        self._racing, self._views, self._warm = list(candidates), views, warm
        self._start: torch.cuda.Event | None = None
        self._pending: list[tuple[Reduction, torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def waits(self) -> bool:
        """Whether a measurement is still under way on the GPU."""
        return bool(self._pending)

    def measure(self, gradient: Tensor, run: Run) -> None:
        """Runs every candidate still in the race once, between events."""
        if self._pending or torch.cuda.is_current_stream_capturing():
            return
        self._start = _now()
        if not self._warm:  # a kernel's first launch loads it
            for candidate in self._racing:
                run(gradient, candidate)
            self._warm = True
        for candidate in self._racing:
            begin = _now()
            run(gradient, candidate)
            self._pending.append((candidate, begin, _now()))
        self._racing = self._racing[1:] + self._racing[:1]  # nobody always comes first, to a cold cache

    def collect(self) -> bool:
        """Takes the times if the GPU has got there; whether the round is over."""
        if not self._pending or not self._pending[-1][2].query():
            return False
        for candidate, begin, end in self._pending:
            self._times[candidate].append(begin.elapsed_time(end))
        self.cost_ms += self._start.elapsed_time(self._pending[-1][2]) if self._start else 0.0
        self._pending = []
        best = min(sum(self._times[candidate]) for candidate in self._racing)
        self._racing = [candidate for candidate in self._racing if sum(self._times[candidate]) <= _DROP * best]
        return len(self._times[self._racing[0]]) >= self._views

    @property
    def timed_ms(self) -> float:
        """What the candidates took, without loading their kernels."""
        return sum(sum(times) for times in self._times.values())

    def milliseconds(self) -> dict[Reduction, float]:
        """Of an average view, as TuningRound has it."""
        finalist = self._times[self._racing[0]]
        mean = sum(finalist) / len(finalist)
        return {c: mean * sum(times) / sum(finalist[: len(times)]) for c, times in self._times.items()}


def _now() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


_TUNERS: dict[tuple[torch.device, tuple[Reduction, ...]], ReductionTuner] = {}


def tuner_of(device: torch.device, candidates: tuple[Reduction, ...] = CANDIDATES) -> ReductionTuner:
    """The tuner behind ``Reduction("auto")`` on this device: what it has chosen, and what it measured.

    It is the blend's, unless an op has candidates of its own.
    """
    if str(device) == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    if (device, candidates) not in _TUNERS:
        _TUNERS[device, candidates] = ReductionTuner(candidates)
    return _TUNERS[device, candidates]


def resolve(
    reduction: Reduction, device: torch.device, candidates: tuple[Reduction, ...] = CANDIDATES
) -> tuple[Reduction, ReductionTuner | None]:
    """The reduction to use now, and the tuner that wants to watch the pass, if any.

    On the CPU all strategies are one, and inside a compiled graph there is nothing to measure: no tuner watches.
    """
    if reduction.strategy != "auto":
        return reduction, None
    tuner = tuner_of(device, candidates)
    return tuner.reduction, tuner if device.type == "cuda" and not torch.compiler.is_compiling() else None
