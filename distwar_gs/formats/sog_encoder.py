"""Writes SOG, PlayCanvas' format of some 10 bytes for each Gaussian, as a zip of version 2 ("The SOG Format",
PlayCanvas' user manual). distwar_gs.formats.sog reads it, and says what the bytes stand for.

Gaussians are in the order of a Morton curve, so that neighbours in a picture are alike and compress well. The pictures
are lossless: what is lost is lost in choosing 256 scales, 256 colours and a palette of harmonics, and by rounding.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from distwar_gs.formats.codebooks import codebook, nearest, palette
from distwar_gs.formats.morton import morton_order
from distwar_gs.formats.packing import smallest_three
from distwar_gs.formats.table import SOG_META, Arrays

VERSION = 2
PALETTE_COLUMNS, PALETTE_ROWS = 64, 1024
HARMONICS = {0: 0, 1: 3, 2: 8, 3: 15}
"""Harmonics above degree 0 by `bands`."""

_DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes


def encode_sog(arrays: Arrays, *, antialiased: bool = False) -> bytes:
    """The content of a .sog file.

    Args:
        arrays: as in distwar_gs.gaussians.model, float32, finite, N > 0; the frame of the input, as a PLY holds it.
        antialiased: recorded as `antialias`.
    """
    order = morton_order(torch.from_numpy(arrays["means"])).numpy()
    ordered = {name: array[order] for name, array in arrays.items()}
    meta, pictures = sections(ordered)
    meta |= {"antialias": True} if antialiased else {}
    files = {name: _webp(pixels) for name, pixels in pictures.items()}
    return _zipped({SOG_META: json.dumps(meta).encode()} | files)


def sections(arrays: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of meta.json, and the pictures that it names, uint8 [H, W, 3 or 4]; Gaussians in the order given."""
    meta: dict[str, Any] = {"version": VERSION, "count": len(arrays["means"]), "asset": {"generator": "distwar-gs"}}
    pictures: dict[str, np.ndarray] = {}
    for name, (section, own) in _encoded(arrays).items():
        meta[name] = section | {"files": list(own)}
        pictures |= own
    return meta, pictures


def _encoded(arrays: Arrays) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Each section with its own pictures by file name."""
    scales, colors = arrays["scales"], arrays["sh0"][:, 0]
    scale_book, color_book = codebook(scales), codebook(colors)
    alphas = np.round(255.0 / (1.0 + np.exp(-arrays["opacities"].astype(np.float64))))
    rgba = np.concatenate([nearest(colors, color_book), alphas[:, None]], axis=1)
    found = {
        "means": _means(arrays["means"]),
        "scales": ({"codebook": scale_book.tolist()}, {"scales.webp": _grid(nearest(scales, scale_book))}),
        "quats": ({}, {"quats.webp": _grid(_quats(arrays["quats"]))}),
        "sh0": ({"codebook": color_book.tolist()}, {"sh0.webp": _grid(rgba)}),
    }
    return found | ({"shN": _harmonics(arrays["shN"])} if arrays["shN"].shape[1] else {})


def _means(means: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """16 bits between bounds of the logarithm of 1 + the distance from 0, with its sign; low and high bytes apart."""
    logs = np.sign(means) * np.log1p(np.abs(means.astype(np.float64)))
    low, high = logs.min(axis=0), logs.max(axis=0)
    codes = np.round(65535 * (logs - low) / np.maximum(high - low, 1e-30)).astype(np.int64)
    section = {"mins": low.tolist(), "maxs": high.tolist()}
    return section, {"means_l.webp": _grid(codes & 255), "means_u.webp": _grid(codes >> 8)}


def _quats(quats: np.ndarray) -> np.ndarray:
    """The three smaller components as bytes, then 252 + which one is left out, [N, 4]."""
    largest, others = smallest_three(quats)
    return np.concatenate([np.round(255 * (others / math.sqrt(2) + 0.5)), 252 + largest[:, None]], axis=1)


def _harmonics(harmonics: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A palette of all harmonics of a Gaussian, 64 entries to a row, and which entry each Gaussian has."""
    count, coefficients, _ = harmonics.shape
    entries, labels = palette(harmonics.reshape(count, -1), palette_size(count))
    book = codebook(entries)
    rows = -(-len(entries) // PALETTE_COLUMNS)
    pixels = np.zeros((rows * PALETTE_COLUMNS, coefficients, 3), np.uint8)
    pixels[: len(entries)] = nearest(entries, book).reshape(-1, coefficients, 3)
    degree = next(degree for degree, there in HARMONICS.items() if there == coefficients)
    section = {"count": len(entries), "bands": degree, "codebook": book.tolist()}
    words = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)
    return section, {
        "shN_centroids.webp": pixels.reshape(rows, PALETTE_COLUMNS * coefficients, 3),
        "shN_labels.webp": _grid(words),
    }


def palette_size(count: int) -> int:
    """Entries of the palette of so many Gaussians: a power of two between a half of them and all, from 1024 on, and as
    many as two bytes tell apart; the sizes that splat-transform chooses (write-sog.ts)."""
    return 1024 * min(64, 2 ** max(0, int(math.log2(max(count, 1) / 1024))))


def _grid(pixels: np.ndarray) -> np.ndarray:
    """Row by row in a picture about as wide as high, both multiples of 4."""
    width = -(-math.ceil(math.sqrt(len(pixels))) // 4) * 4
    height = -(-len(pixels) // width // 4) * 4
    grid = np.zeros((height * width, pixels.shape[1]), np.uint8)
    grid[: len(pixels)] = pixels
    return grid.reshape(height, width, -1)


def _webp(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, exact=True)  # exact: colours where alpha is 0, too
    return file.getvalue()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Uncompressed, as the pictures are compressed already."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data)
    return content.getvalue()
