"""A page that shows the model: one HTML file, which opens from the file system and needs no network.

It holds the Gaussians as a SOG (distwar_gs.formats.sog_encoder), upright, and a viewer: PlayCanvas' SuperSplat Viewer,
whose program lies in distwar_gs/formats/viewer as scripts/refresh_viewer.sh took it from its npm package.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distwar_gs.formats.packing import middle_of
from distwar_gs.formats.sog_encoder import encode_sog
from distwar_gs.formats.table import Arrays, Notes
from distwar_gs.formats.tour import Look, Tour
from distwar_gs.formats.turning import turned

FILES = Path(__file__).parent / "viewer"
SECONDS = 40.0
"""That the camera takes for its loop."""

_HALF_TURN = np.diag([-1.0, -1.0, 1.0])
"""What the viewer does to a model: from x right, y down, z forward to x left, y up, z forward."""
_OFF = {"enabled": False}
_EFFECTS = {
    "sharpness": {**_OFF, "amount": 0}, "bloom": {**_OFF, "intensity": 1, "blurLevel": 2},
    "grading": {**_OFF, "brightness": 0, "contrast": 1, "saturation": 1, "tint": [1, 1, 1]},
    "vignette": {**_OFF, "intensity": 0.5, "inner": 0.3, "outer": 0.75, "curvature": 1},
    "fringing": {**_OFF, "intensity": 0.5},
}  # fmt: skip
"""All off: the picture is what the model was trained to give."""


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """A page; see distwar_gs.formats.table."""
    path.write_text(page(arrays, notes), encoding="utf-8")


def page(arrays: Arrays, notes: Notes) -> str:
    """The page.

    Args:
        arrays: as in distwar_gs.gaussians.model, float32, finite, N > 0.
        notes: of which `tour` says how the model is shown; None: from outside, along the axes of the file.
    """
    tour = notes.tour or outside(arrays["means"])
    color = "rgb({}, {}, {})".format(*(round(255 * value) for value in tour.background))
    return filled("model.html", {
        "BACKGROUND": color, "PARTS": parts(arrays, tour, notes), "TITLE": html.escape(notes.title),
    })  # fmt: skip


def parts(arrays: Arrays, tour: Tour, notes: Notes) -> str:
    """What a page needs, in its head, for `showModel(container)` to show the model: viewer, model, settings."""
    sog = encode_sog(turned(arrays, tour.upright), antialiased=notes.antialiased)
    origin = [0.0, 0.0, 0.0] if notes.origin is None else notes.origin.tolist()
    settings = json.dumps({"experience": experience(tour), "antialiased": notes.antialiased, "origin": origin})
    package = json.loads(_file("package.json"))
    return "\n".join((
        f"<!-- Its viewer is {package['name']} {package['version']}, {package['homepage']}\n\n{_file('LICENSE')}-->",
        f"<style>\n{_file('supersplat-viewer.css')}</style>",
        _held("viewer-program", _base64((FILES / "supersplat-viewer.js.gz").read_bytes())),
        _held("viewer-settings", settings),
        _held("model-sog", _base64(sog)),
        f"<script>\n{_file('start.js')}</script>",
    ))  # fmt: skip


def experience(tour: Tour) -> dict[str, Any]:
    """The settings of the viewer (@playcanvas/supersplat-viewer, settings.d.ts), version 2."""
    to_viewer = _HALF_TURN @ tour.upright
    looks = tour.loop or (tour.start,)
    values = {
        "position": [value for look in looks for value in _placed(look.position, to_viewer)],
        "target": [value for look in looks for value in _placed(look.target, to_viewer)],
        "fov": [tour.angle] * len(looks),
    }
    times = [SECONDS * index / len(looks) for index in range(len(looks))]
    loop = {
        "name": "loop", "duration": SECONDS, "frameRate": 1, "loopMode": "repeat", "interpolation": "spline",
        "smoothness": 1, "keyframes": {"times": times, "values": values},
    }  # fmt: skip
    start = {
        "position": _placed(tour.start.position, to_viewer), "target": _placed(tour.start.target, to_viewer),
        "fov": tour.angle,
    }  # fmt: skip
    return {
        "version": 2, "tonemapping": "none", "highPrecisionRendering": False, "postEffectSettings": _EFFECTS,
        "background": {"color": list(tour.background)}, "annotations": [], "cameras": [{"initial": start}],
        "animTracks": [loop] if tour.loop else [], "startMode": "animTrack" if tour.loop else "default",
    }  # fmt: skip


def outside(means: np.ndarray) -> Tour:
    """Of a model without cameras: from in front and a little above, at four times the median distance of its Gaussians
    from their middle, and around it."""
    center, spread = middle_of(means)
    angles = np.linspace(0.0, 2.0 * math.pi, 24, endpoint=False)
    places = [center + 4.0 * spread * np.array([math.sin(a), -0.4, -math.cos(a)]) for a in angles]
    looks = tuple(Look(place, center) for place in places)
    return Tour(np.eye(3), looks[0], looks)


def filled(template: str, values: Mapping[str, str]) -> str:
    """A file of FILES with each @@NAME@@ replaced, in the order of the values: what users wrote comes last."""
    text = _file(template)
    for name, value in values.items():
        text = text.replace(f"@@{name}@@", value, 1)
    return text


def _placed(point: np.ndarray, to_viewer: np.ndarray) -> list[float]:
    return (to_viewer @ point).tolist()


def _held(name: str, text: str) -> str:
    """An element whose text, JSON or base64, a script reads. `</` would end it; JSON has another way to say that."""
    text = text.replace("</", r"<\/")
    return f'<script type="text/plain" id="{name}">{text}</script>'


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _file(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")
