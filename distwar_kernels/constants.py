"""The splatting model's constants, read from ``constants.h`` so that Python, C++ and CUDA cannot disagree."""

import re
from pathlib import Path
from typing import Any

_PATTERN = re.compile(r"constexpr (int|float) k(\w+) = ([^;]+);")


def _value(kind: str, expression: str) -> float:
    """``1.0f / 255.0f`` -> 0.00392...; the header holds numbers and single divisions only."""
    numerator, *denominator = (float(part.strip().rstrip("f")) for part in expression.split("/"))
    value = numerator / denominator[0] if denominator else numerator
    return int(value) if kind == "int" else value


def _read_header() -> dict[str, Any]:
    text = Path(__file__).with_name("constants.h").read_text(encoding="utf-8")
    return {name: _value(kind, expression) for kind, name, expression in _PATTERN.findall(text)}


_HEADER = _read_header()

TILE_SIZE: int = _HEADER["TileSize"]
PATCH_WIDTH: int = _HEADER["PatchWidth"]
PATCH_HEIGHT: int = _HEADER["PatchHeight"]
WARP_SIZE: int = _HEADER["WarpSize"]
PATCHES_PER_TILE: int = _HEADER["PatchesPerTile"]
ALPHA_CUT: float = _HEADER["AlphaCut"]
ALPHA_CAP: float = _HEADER["AlphaCap"]
TRANSMITTANCE_CUT: float = _HEADER["TransmittanceCut"]
BLUR: float = _HEADER["Blur"]
EXTENT: float = _HEADER["Extent"]
FRUSTUM_MARGIN: float = _HEADER["FrustumMargin"]
SPHERE_FRAGMENTS: int = _HEADER["SphereFragments"]
SPLAT_FLOATS: int = _HEADER["SplatFloats"]
HARMONIC0: float = _HEADER["Harmonic0"]
SSIM_RADIUS: int = _HEADER["SsimRadius"]
SSIM_SIGMA: float = _HEADER["SsimSigma"]
SSIM_C1: float = _HEADER["SsimC1"]
SSIM_C2: float = _HEADER["SsimC2"]
GATE_STEEPNESS: float = _HEADER["GateSteepness"]
GATE_OPACITY: float = _HEADER["GateOpacity"]
MAX_CHANNELS: int = _HEADER["MaxChannels"]
