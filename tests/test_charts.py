"""Charts of report.html: well-formed SVG, points where they belong, and odd numbers left out."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from distwar_gs.viewing.report.charts import HEIGHT, MOST_POINTS, WIDTH, bars, line_chart, number, shares


def parsed(text):
    return ElementTree.fromstring(f"<div>{text}</div>")


def places(chart, tag="polyline"):
    (line,) = parsed(chart).iter(tag)
    return [tuple(map(float, point.split(","))) for point in line.get("points").split()]


def labels(chart):
    return [element.text for element in parsed(chart).iter("text")]


def test_points_are_where_the_ticks_say():
    chart = line_chart({"a": [(0, 10.0), (100, 20.0)]})
    (x0, y0), (x1, y1) = places(chart)
    ticks = {element.text: float(element.get("y")) - 4 for element in parsed(chart).iter("text")}
    assert y0 == pytest.approx(ticks["10"], abs=0.11) and y1 == pytest.approx(ticks["20"], abs=0.11)
    assert 0 < x0 < x1 <= WIDTH and 0 <= y1 < y0 <= HEIGHT


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 0.0], [-3.0, 5.0], [1e-9, 2e-9], [1e12, 3e12], [5.0, 5.0 + 1e-12], [1e-300, 1.0], [-7.0, -7.0]],
)
@pytest.mark.parametrize("options", [{}, {"logarithmic": True}, {"from_zero": True}, {"dots": ("a",)}])
def test_any_numbers_are_drawn_within(values, options):
    chart = line_chart({"a": list(enumerate(values))}, **options)
    if not chart:
        assert options == {"logarithmic": True} and max(values) <= 0
        return
    for element in parsed(chart).iter():
        for name in ("x", "y", "cx", "cy", "x1", "y1", "y2"):
            assert -1 <= float(element.get(name, 0)) <= WIDTH + 1
    assert len(labels(chart)) < 40


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(bad):
    assert places(line_chart({"a": [(0, 1.0), (1, bad), (2, 3.0)]})) == places(line_chart({"a": [(0, 1.0), (2, 3.0)]}))
    assert line_chart({"a": [(0, bad)]}) == line_chart({}) == line_chart({"a": []}) == ""


def test_long_lines_are_thinned_and_keep_their_end():
    chart = line_chart({"a": [(step, float(step)) for step in range(10_001)]})
    assert len(places(chart)) <= MOST_POINTS + 1
    assert "10 k at step 10000" in chart


def test_names_are_escaped():
    name = "<b>&\"'"
    for chart in (line_chart({name: [(0, 1.0)]}), bars([(name, 3.0)], "dB"), shares({name: 1.0})):
        assert "<b>" not in chart and name in "".join(parsed(chart).itertext())


def test_bars_are_as_high_as_their_values():
    chart = bars([("a", 10.0), ("b", 20.0)], "dB")
    low, high = (float(element.get("height")) for element in parsed(chart).iter("rect"))
    assert high == pytest.approx(2 * low, abs=0.02) and "b: 20.00 dB" in chart


def test_shares_fill_the_bar():
    widths = [float(element.get("width")) for element in parsed(shares({"a": 1.0, "b": 3.0})).iter("rect")]
    assert widths == [25.0, 75.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (3000.0, "3000"), (0.00016, "0.00016"), (24_730.0, "24.73 k"), (2.5e6, "2.5 M"), (-3e9, "-3 G")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_log_scales_have_powers_of_ten():
    assert re.search(r">0\.001<.*>0\.01<.*>0\.1<", line_chart({"a": [(0, 0.002), (1, 0.05)]}, logarithmic=True))
