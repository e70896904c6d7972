"""Writes SOG files as PlayCanvas' manual describes them (version 2) and as its first writer made them (version 1).

Pictures are lossless WebP, row by row, four pixels wider and higher than need be as the real ones are. Codebooks are
256 even steps, and every Gaussian has an entry of its own in the palette of harmonics: good enough for a test.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

_ORDER = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def write_sog(path: Path, params: dict[str, torch.Tensor], version: int = 2, folder: str = "", **meta: object) -> Path:
    """A bundle where the name ends in .sog, else a folder. `folder`: of the files within a bundle. Returns `path`."""
    content, pictures = sog_parts(params, version)
    content |= meta
    files = {name: _webp(pixels) for name, pixels in pictures.items()}
    return write_files(path, files | {"meta.json": json.dumps(content).encode()}, folder)


def write_files(path: Path, files: dict[str, bytes], folder: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    """The files as they are, in a bundle or a folder."""
    if path.suffix == ".sog":
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in files.items():
                archive.writestr(folder + name, data)
    else:
        path.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (path / name).write_bytes(data)
    return path


def sog_parts(params: dict[str, torch.Tensor], version: int) -> tuple[dict, dict[str, np.ndarray]]:
    """The content of meta.json, and uint8 pictures [H, W, 3 or 4] by file name."""
    arrays = {name: tensor.detach().double().numpy() for name, tensor in params.items()}
    count = len(arrays["means"])
    logs = np.sign(arrays["means"]) * np.log1p(np.abs(arrays["means"]))
    low, high = logs.min(axis=0), logs.max(axis=0)
    codes = np.round(65535 * (logs - low) / (high - low)).astype(np.int64)
    meta = {"means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
            "quats": {"files": ["quats.webp"]}}  # fmt: skip
    pictures = {"means_l.webp": _grid(codes & 255), "means_u.webp": _grid(codes >> 8),
                "quats.webp": _grid(_packed(arrays["quats"]))}  # fmt: skip
    colors = arrays["sh0"][:, 0]
    if version == 2:
        meta |= {"version": 2, "count": count, "asset": {"generator": "test"}}
        meta["scales"], scales = _book(arrays["scales"], "scales.webp")
        meta["sh0"], dc = _book(colors, "sh0.webp")
        alpha = np.round(255 / (1 + np.exp(-arrays["opacities"])))[:, None]
    else:
        meta["means"] |= {"shape": [count, 3], "dtype": "float32"}
        meta["scales"], scales = _span(arrays["scales"], "scales.webp")
        meta["sh0"], both = _span(np.concatenate([colors, arrays["opacities"][:, None]], axis=1), "sh0.webp")
        dc, alpha = both[:, :3], both[:, 3:]
    pictures |= {"scales.webp": _grid(scales), "sh0.webp": _grid(np.concatenate([dc, alpha], axis=1))}
    if arrays["shN"].shape[1]:
        meta["shN"], more = _harmonics(arrays["shN"], version)
        pictures |= more
    return meta, pictures


def _harmonics(harmonics: np.ndarray, version: int) -> tuple[dict, dict[str, np.ndarray]]:
    count, coefficients, _ = harmonics.shape
    if version == 2:
        section, codes = _book(harmonics, "")
        section |= {"count": count, "bands": int(np.sqrt(coefficients + 1)) - 1}
    else:
        low, high = float(harmonics.min()), float(harmonics.max())
        section, codes = {"mins": low, "maxs": high}, np.round(255 * (harmonics - low) / (high - low))
    rows = -(-count // 64)
    palette = np.zeros((rows * 64, coefficients, 3), np.uint8)
    palette[:count] = codes
    labels = np.stack([np.arange(count) & 255, np.arange(count) >> 8, np.zeros(count, int)], axis=1)
    section["files"] = ["shN_centroids.webp", "shN_labels.webp"]
    return section, {
        "shN_centroids.webp": palette.reshape(rows, 64 * coefficients, 3),
        "shN_labels.webp": _grid(labels),
    }


def _book(values: np.ndarray, file: str) -> tuple[dict, np.ndarray]:
    book = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), 256)
    codes = np.round(255 * (values - book[0]) / (book[-1] - book[0]))
    return {"codebook": book.tolist(), "files": [file]}, codes


def _span(values: np.ndarray, file: str) -> tuple[dict, np.ndarray]:
    low, high = values.min(axis=0), values.max(axis=0)
    codes = np.round(255 * (values - low) / (high - low))
    return {"mins": low.tolist(), "maxs": high.tolist(), "files": [file]}, codes


def _packed(quats: np.ndarray) -> np.ndarray:
    """Three components in -sqrt(1/2) to sqrt(1/2) as bytes, and 252 + which of w, x, y, z is left out."""
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(quats).argmax(axis=1)
    quats = quats * np.sign(quats[np.arange(len(quats)), largest])[:, None]
    others = np.take_along_axis(quats, _ORDER[largest], axis=1)
    return np.concatenate([np.round(255 * (others / np.sqrt(2) + 0.5)), 252 + largest[:, None]], axis=1)


def _grid(pixels: np.ndarray) -> np.ndarray:
    width = -(-int(np.ceil(np.sqrt(len(pixels)))) // 4) * 4
    rows = -(-len(pixels) // width // 4) * 4
    grid = np.zeros((rows * width, pixels.shape[1]), np.uint8)
    grid[: len(pixels)] = pixels
    return grid.reshape(rows, width, -1)


def _webp(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()
