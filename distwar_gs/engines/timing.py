"""Where the time of a step goes: CUDA events on the GPU, the clock on the CPU, nothing on steps that do not log."""

import time
from typing import Any, Protocol

import torch
from torch import Tensor


class StepTimer(Protocol):
    """Marks the end of each part of a step."""

    def milliseconds(self) -> dict[str, float]:
        """Of each part; empty if nothing is timed. Waits for the device."""

    def mark(self, part: str) -> None:
        """Ends `part`; the next one begins here."""

    def watch_blend_backward(self, rendered: Tensor, splat_colors: Tensor) -> None:
        """Times the blend's backward kernel: from the gradient of `rendered` to the gradient of `splat_colors`."""


class NoTimer:
    """For steps that do not log."""

    def milliseconds(self) -> dict[str, float]:
        """None."""
        return {}

    def mark(self, part: str) -> None:
        """Nothing."""

    def watch_blend_backward(self, rendered: Tensor, splat_colors: Tensor) -> None:
        """Nothing."""


class PartTimer:
    """Times the parts of one step; reading the result waits for the device."""

    def __init__(self, device: torch.device) -> None:
        """Begin the first part now."""
        self._device = device
        self._marks = [("", self._now())]
        self._blend: list[Any] = []

    def mark(self, part: str) -> None:
        """Ends `part`; the next one begins here."""
        self._marks.append((part, self._now()))

    def watch_blend_backward(self, rendered: Tensor, splat_colors: Tensor) -> None:
        """Gradient hooks run in the backward pass right before and right after the blend's node.

        Right after only for the newest of its inputs, the colours: autograd goes on with the node made last, so the
        gradient of any other input arrives when that of the colours has been propagated to the parameters.
        """
        for tensor in (rendered, splat_colors):
            tensor.register_hook(lambda _: self._blend.append(self._now()))

    def milliseconds(self) -> dict[str, float]:
        """Milliseconds of each part (the sum, if it was marked more than once) and of a watched `blend_backward`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        parts: dict[str, float] = {}
        for (_, begin), (part, end) in zip(self._marks, self._marks[1:], strict=False):
            parts[part] = parts.get(part, 0.0) + self._between(begin, end)
        if len(self._blend) == 2:
            parts["blend_backward"] = self._between(*self._blend)
        return parts

    def _now(self) -> Any:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, begin: Any, end: Any) -> float:
        return (end - begin) * 1e3 if isinstance(begin, float) else begin.elapsed_time(end)
