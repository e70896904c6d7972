"""Few numbers, or few vectors, that stand for many with a small squared error: k-means, as small formats need it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from distwar_gs.system.progress import progress

_BINS = 4096
_LLOYD_STEPS = 30  # of numbers, where a step takes no time
_TREE_STEPS = 4  # of vectors
_SAMPLE = 2**16  # vectors from which the branches of the tree are found
_CHUNK = 2**15  # vectors that are compared with all entries at once
_ROUNDS = 8
_SEED = 0


def codebook(values: np.ndarray, size: int = 256) -> np.ndarray:
    """Numbers, float32 [size], ascending, so that each of the values, any shape, has a near one.

    Where there are no more different values than that, they are the book (the largest one fills it up), and nothing is
    lost. Else k-means: the entries begin with the density that is best where they are many, the cube root of that of
    the values (Panter and Dite 1951), and then move to the means of what is nearest to them (Lloyd 1982).
    """
    ordered = np.sort(values.astype(np.float64), axis=None)
    different = ordered[np.concatenate([[True], np.diff(ordered) > 0])]
    if len(different) <= size:
        return np.pad(different, (0, size - len(different)), mode="edge").astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    book = _first_entries(ordered, size)
    for _ in range(_LLOYD_STEPS):
        cuts = np.searchsorted(ordered, (book[1:] + book[:-1]) / 2)
        borders = np.concatenate([[0], cuts, [len(ordered)]])
        counts = np.diff(borders)
        book = np.where(counts > 0, np.diff(sums[borders]) / np.maximum(counts, 1), book)
    return book.astype(np.float32)


def nearest(values: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Which entry of an ascending book [size] is nearest to each value, int64 of the values' shape."""
    book = book.astype(np.float64)
    return np.searchsorted((book[1:] + book[:-1]) / 2, values, side="left")


def palette(vectors: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `size` vectors that stand for many, float32 [entries, D], and which one stands for each, int64 [N].

    Where there are no more different vectors than that, they are the palette. Else k-means in two steps, as one step
    would compare each vector with every entry: the vectors are divided among 256 branches, and each branch is given
    entries in proportion to its squared error, so that every entry has a like share of it.

    Args:
        vectors: float32 [N, D], N > 0.
        size: > 0.
    """
    first, labels = _different(vectors)
    if len(first) <= size:
        return vectors[first], labels
    rows, random = torch.from_numpy(np.ascontiguousarray(vectors)), torch.Generator().manual_seed(_SEED)
    sample = rows[torch.randperm(len(rows), generator=random)[:_SAMPLE]]
    branches = _k_means(sample, math.isqrt(size), random)
    branch_of, errors = _assigned(rows, branches)
    shares = _shares(errors.numpy(), branch_of.numpy(), len(branches), size)
    entries, labels, used = [], np.empty(len(rows), np.int64), 0
    for branch, share in enumerate(progress(shares.tolist(), desc="palette", unit="branch", leave=False)):
        members = (branch_of == branch).nonzero()[:, 0]
        if len(members):
            own = _k_means(rows[members], share, random)
            labels[members.numpy()] = used + _assigned(rows[members], own)[0].numpy()
            entries.append(own)
            used += len(own)
    return torch.cat(entries).numpy(), labels


def _first_entries(ordered: np.ndarray, size: int) -> np.ndarray:
    """Float64 [size], ascending: dense where the values are, by the cube root of their density."""
    counts, edges = np.histogram(ordered, bins=_BINS)
    reached = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    return np.interp((np.arange(size) + 0.5) / size * reached[-1], reached, edges)


def _different(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different vector is met first, and which of these equals each vector; found by sums of their bits,
    which may tell equal vectors apart only if two that differ have the same sum. Then all are taken for different."""
    words = np.ascontiguousarray(vectors + np.float32(0.0)).view(np.uint32).astype(np.uint64)  # + 0: no -0
    factors = np.random.default_rng(_SEED).integers(1, 2**63, words.shape[1], dtype=np.uint64) | np.uint64(1)
    _, first, labels = np.unique((words * factors).sum(axis=1, dtype=np.uint64), return_index=True, return_inverse=True)
    if (vectors[first[labels]] == vectors).all():
        return first, labels
    return np.arange(len(vectors)), np.arange(len(vectors))


def _k_means(rows: Tensor, size: int, random: torch.Generator) -> Tensor:
    """The means [size, D] of parts of the rows [N, D]; N of them, if there are fewer rows."""
    if len(rows) <= size:
        return rows
    means = rows[torch.randperm(len(rows), generator=random)[:size]]
    for _ in range(_TREE_STEPS):
        part, _ = _assigned(rows, means)
        counts = torch.bincount(part, minlength=size)[:, None]
        sums = torch.zeros_like(means).index_add_(0, part, rows)
        means = torch.where(counts > 0, sums / counts.clamp_min(1), means)
    return means


def _assigned(rows: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row [N, D], which of the means [K, D] is nearest, int64 [N], and its squared distance, [N]."""
    squares = means.square().sum(dim=1)
    found = [(squares - 2 * chunk @ means.T).min(dim=1) for chunk in rows.split(_CHUNK)]
    distances = torch.cat([one.values for one in found]) + rows.square().sum(dim=1)
    return torch.cat([one.indices for one in found]), distances.clamp_min(0)


def _shares(errors: np.ndarray, branch_of: np.ndarray, branches: int, size: int) -> np.ndarray:
    """How many entries each branch gets, int64 [branches], at most `size` in all: one where it has members, and more by
    its squared error, but not more than it has members. What one cannot use is shared among the others."""
    members = np.bincount(branch_of, minlength=branches)
    total = np.bincount(branch_of, errors, minlength=branches)
    shares = np.minimum(members, 1)
    for _ in range(_ROUNDS):
        wanting = np.where(shares < members, total, 0.0)
        more = np.floor((size - shares.sum()) * wanting / max(wanting.sum(), 1e-30)).astype(np.int64)
        shares = np.minimum(shares + more, members)
    return shares
