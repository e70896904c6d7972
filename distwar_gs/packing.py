"""What the small formats have in common: their bytes, rotations as their three smallest numbers, opacities as bytes."""

import os
from pathlib import Path

import numpy as np

from distwar_gs.files import check_regular
from distwar_gs.ply import ModelFileError

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
