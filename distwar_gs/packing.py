"""What the small formats have in common: their bytes, rotations as their three smallest numbers, opacities as bytes,
and where most of their Gaussians are."""

import os
from pathlib import Path

import numpy as np

from distwar_gs.files import check_regular
from distwar_gs.ply import ModelFileError

MOST_GROWTH = 100
"""Gaussians take at most so many times the bytes of their file: those of trained models take 3 to 30 times as many."""
FREE_GROWTH = 64 * 2**20
"""Bytes that they may take in any case."""

_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def content_of(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a model's file; ModelFileError if there is none, or it is not a regular file."""
    try:
        check_regular(path)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; give a run folder of train.py or a model's file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); give another file") from None


def check_growth(count: int, degree: int, packed: int) -> None:
    """Raise ValueError where `packed` bytes can hold `count` Gaussians of this degree only if they are all the same:
    such a file would fill the memory, and shows nothing."""
    size = 4 * count * (11 + 3 * (degree + 1) ** 2)
    if size > max(FREE_GROWTH, MOST_GROWTH * packed):
        raise ValueError(f"{packed:,} bytes that promise {count:,} Gaussians, {size / 2**30:.1f} GiB")


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which component of each quaternion is largest, int64 [N], and the others in order, float64 [N, 3].

    The quaternions [N, 4] are normalised, and negated where the largest component, left out, would be negative.
    """
    quats = quats.astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(quats).argmax(axis=1)
    quats *= np.where(quats[np.arange(len(quats)), largest] < 0, -1.0, 1.0)[:, None]
    return largest, np.take_along_axis(quats, _OTHERS[largest], axis=1)


def from_smallest_three(largest: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The way back: quaternions, float32 [N, 4]."""
    quats = np.empty((len(largest), 4))
    rest = np.sqrt(np.maximum(0.0, 1.0 - np.square(others).sum(axis=1)))
    np.put_along_axis(quats, _OTHERS[largest], others, axis=1)
    np.put_along_axis(quats, largest[:, None], rest[:, None], axis=1)
    return quats.astype(np.float32)


def logit(opacities: np.ndarray) -> np.ndarray:
    """Logits, float32, of opacities in [0, 1]; 0 and 1, whose logits are infinite, are taken for 1e-4 and 1 - 1e-4."""
    opacities = np.clip(opacities, 1e-4, 1.0 - 1e-4)
    return np.log(opacities / (1.0 - opacities)).astype(np.float32)


def middle_of(means: np.ndarray) -> tuple[np.ndarray, float]:
    """Median position [3] and median distance from it, which strays do not move; 1 where all are in one place."""
    means = np.asarray(means, dtype=np.float64)
    centre = np.median(means, axis=0)
    return centre, float(np.median(np.linalg.norm(means - centre, axis=1))) or 1.0
