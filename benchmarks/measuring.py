"""What the benchmarks share: timing, errors against a reference, tables."""

import csv
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType

from distwar_kernels import Reduction
from distwar_kernels.reduction import DEFAULT_THRESHOLDS

Work = Callable[[], object]
_PAUSE_CYCLES = 4_000_000  # about 2 ms: longer than the host needs to queue one repetition


def machine(device: torch.device) -> str:
    """The processor or GPU and the versions, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, "
    threads = "" if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{name}{threads}; torch {torch.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def median_ms(work: Work, device: torch.device, repeats: int) -> float:
    """Median time of `work` after two runs to warm up. On CUDA the GPU's own time: gaps between launches, while the
    host catches up, do not count."""
    timer = _cuda_ms if device.type == "cuda" else _cpu_ms
    timer(work)
    timer(work)
    return median(timer(work) for _ in range(repeats))


def _cpu_ms(work: Work) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def _cuda_ms(work: Work) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_PAUSE_CYCLES)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


STAGES = ("forward", "loss", "blend_backward", "backward_and_optimizer")
"""What every training step consists of, whichever engine makes it: `stages_of`."""


def stages_of(parts: Mapping[str, float], fused: bool) -> dict[str, float]:
    """The milliseconds of `STAGES` in what a `PartTimer` measured of one step.

    The way back from the blend to the parameters and the optimiser are one stage, because they are one kernel of the
    fused engine. The composed engine's `backward` is all of autograd, the blend included.
    """
    blend = parts["blend_backward"]
    rest = parts.get("backward", 0.0) + parts["optimizer"] - (0.0 if fused else blend)
    return dict(zip(STAGES, (parts["forward"], parts["loss"], blend, rest), strict=True))


def peak_memory_mib(device: torch.device) -> tuple[float | None, float | None]:
    """The most GPU memory that tensors took, and that the allocator held, since the peak was last reset."""
    if device.type != "cuda":
        return None, None
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return round(allocated / 2**20, 1), round(reserved / 2**20, 1)


def synchronize(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_kernel_ms(work: Work, pattern: str, repeats: int) -> float:
    """Median time of the CUDA kernels whose names match, by torch's profiler: of all that one `work` launches.

    Raises RuntimeError if no kernel, or not the same number at every repetition, has such a name.
    """
    from torch.profiler import ProfilerActivity, profile

    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            work()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    kernels.sort(key=lambda event: event.time_range.start)
    times = [event.time_range.elapsed_us() for event in kernels if re.search(pattern, event.name)]
    each = len(times) // repeats
    if not times or len(times) != each * repeats:
        names = ", ".join(sorted({event.name[:60] for event in kernels}))
        raise RuntimeError(f"{len(times)} kernels match {pattern!r} in {repeats} repetitions; there were: {names}")
    return median(sum(times[i : i + each]) for i in range(0, len(times), each)) / 1e3


def integers(text: str) -> tuple[int, ...]:
    """``1,8,16`` on a command line."""
    return tuple(int(number) for number in text.split(","))


def reductions(strategies: Iterable[str], thresholds: Sequence[int]) -> list[Reduction]:
    """Every strategy, those that have a balance threshold at each of `thresholds`."""
    return [Reduction(s, t) for s in strategies for t in (thresholds if s in DEFAULT_THRESHOLDS else thresholds[:1])]


def worst_error(tensors: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest relative L2 error of several tensors."""
    return max(relative_l2(mine, theirs) for mine, theirs in zip(tensors, expected, strict=True))


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||."""
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm().clamp_min(1e-300)).item()


def print_table(rows: Sequence[Any]) -> None:
    """Dataclasses as aligned columns; a column without any value is left out."""
    columns = [name for name in asdict(rows[0]) if any(getattr(row, name) is not None for row in rows)]
    texts = [columns, *([_text(name, getattr(row, name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in texts) for i in range(len(columns))]
    for line in texts:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _text(column: str, value: object) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.1e}" if "_vs_" in column else f"{value:.3f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table, the first its head; numbers to the right."""
    ruler = [":---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ruler, *lines[1:]))


def write_csv(path: Path, rows: Iterable[Any], common: Mapping[str, object]) -> None:
    """Dataclasses as lines of a CSV file, each with what it was measured on."""
    lines = [dict(common) | asdict(row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
