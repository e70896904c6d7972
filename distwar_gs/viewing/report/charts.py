"""Charts of report.html, as SVG within the page: lines over steps, bars, and a bar of shares."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 26
MOST_POINTS = 400
"""Of a line: of more, every second, third, ... is drawn."""

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points], *, logarithmic: bool = False, from_zero: bool = False, dots: Sequence[str] = ()
) -> str:
    """Lines over steps, each a series of (step, value) by its name; those named in `dots` as dots, with their values.
    What is not finite, or not positive where the scale is logarithmic, is left out. "" if nothing is left."""
    kept = {name: _drawable(points, logarithmic) for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    everything = [point for points in kept.values() for point in points]
    across = _Axis.of([x for x, _ in everything], WIDTH - _LEFT - _RIGHT, from_zero=True)
    values = [math.log10(y) if logarithmic else y for _, y in everything]
    upward = _Axis.of(values, HEIGHT - _TOP - _BOTTOM, from_zero=from_zero, whole=logarithmic)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        y = math.log10(point[1]) if logarithmic else point[1]
        return _LEFT + across.at(point[0]), HEIGHT - _BOTTOM - upward.at(y)

    drawn = [_grid(across, upward, logarithmic)]
    for index, (name, points) in enumerate(kept.items()):
        draw = _dots if name in dots else _line
        drawn.append(draw(name, points, [place(point) for point in points], f"c{index % 8}"))
    names = "".join(f'<span class="key c{index % 8}">{html.escape(name)}</span>' for index, name in enumerate(kept))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(drawn)}</svg><div class="keys">{names}</div>'


def bars(values: Sequence[tuple[str, float]], unit: str) -> str:
    """A bar for each of the named values, which are positive; its name and value show where the mouse is."""
    axis = _Axis.of([value for _, value in values], HEIGHT - _TOP - _BOTTOM, from_zero=True)
    step = (WIDTH - _LEFT - _RIGHT) / len(values)
    drawn = []
    for index, (name, value) in enumerate(values):
        height = max(axis.at(value), 0.0)
        drawn.append(
            f'<rect class="c0" x="{_LEFT + index * step:.2f}" y="{HEIGHT - _BOTTOM - height:.2f}" '
            f'width="{max(0.8 * step, 0.5):.2f}" height="{height:.2f}"><title>{html.escape(name)}: {value:.2f} {unit}'
            "</title></rect>"
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{_grid(None, axis, False)}{"".join(drawn)}</svg>'


def shares(values: Mapping[str, float]) -> str:
    """One bar, divided as the values are."""
    total, place, drawn = sum(values.values()), 0.0, []
    for index, (name, value) in enumerate(values.items()):
        width = 100.0 * value / total
        drawn.append(
            f'<rect class="c{index % 8}" x="{place:.3f}" y="0" width="{width:.3f}" height="6"><title>'
            f"{html.escape(name)}: {width:.1f} %</title></rect>"
        )
        place += width
    return f'<svg class="shares" viewBox="0 0 100 6" preserveAspectRatio="none">{"".join(drawn)}</svg>'


def number(value: float) -> str:
    """Short: 12, 3.4, 0.0012, 1.2 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == ' k' else size):.4g}{letter}"
    return f"{value:.4g}"


class _Axis:
    """Values to places along an axis of so many pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float, step: float, pixels: float) -> None:
        self._low, self._scale = low, pixels / (high - low)
        count = round((high - low) / step)
        self.ticks = [low + index * step for index in range(count + 1)]

    @classmethod
    def of(cls, values: Sequence[float], pixels: float, *, from_zero: bool = False, whole: bool = False) -> _Axis:
        """From a round number below all values, or from 0, to one above; `whole`: at whole numbers."""
        low, high = min(values), max(values)
        low = min(low, 0.0) if from_zero else low
        high = high if high > low else low + max(abs(low), 1.0)
        step = _round_step((high - low) / 4)
        step = max(1.0, round(step)) if whole else step
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step, pixels)

    def at(self, value: float) -> float:
        """Pixels from the low end."""
        return (value - self._low) * self._scale


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10, ... that is not smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= step * 0.999999)


def _drawable(points: Points, logarithmic: bool) -> list[tuple[float, float]]:
    sound = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not logarithmic)]
    every = -(-len(sound) // MOST_POINTS)
    return [*sound[:-1:every], sound[-1]] if sound else []


def _grid(across: _Axis | None, upward: _Axis, logarithmic: bool) -> str:
    drawn = []
    for tick in upward.ticks:
        y = HEIGHT - _BOTTOM - upward.at(tick)
        label = number(10.0**tick if logarithmic else tick)
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in across.ticks if across else ():
        x = _LEFT + across.at(tick) if across else 0.0
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(tick)}</text>')
    return "".join(drawn)


def _line(name: str, points: Points, places: Points, color: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    last = f"{html.escape(name)}: {number(points[-1][1])} at step {points[-1][0]:.0f}"
    return f'<polyline class="line {color}" points="{path}"><title>{last}</title></polyline>'


def _dots(name: str, points: Points, places: Points, color: str) -> str:
    return "".join(
        f'<circle class="{color}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{html.escape(name)}: {number(value)} at '
        f"step {step:.0f}</title></circle>"
        for (step, value), (x, y) in zip(points, places, strict=True)
    )
