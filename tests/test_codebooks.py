"""Codebooks and palettes: exact where they can be, near where they cannot."""

import numpy as np
import pytest

from distwar_gs.formats.codebooks import codebook, nearest, palette

RANDOM = np.random.default_rng(3)


def error(values, book):
    return float(np.square(book[nearest(values, book)] - values).mean())


@pytest.mark.parametrize("values", [[1.5], [2.0, -1.0, 2.0], np.arange(256) * 0.3])
def test_few_values_are_kept(values):
    values = np.array(values, np.float32)
    book = codebook(values)
    assert book.shape == (256,) and book.dtype == np.float32 and (np.diff(book) >= 0).all()
    assert (book[nearest(values, book)] == values).all()


@pytest.mark.parametrize("power", [1, 3])
def test_many_values_are_nearer_than_to_even_steps(power):
    """Of a normal distribution 256 numbers lose 4.1e-5 of the variance at best (Panter and Dite: sqrt(3) pi / 2 / n^2);
    of its cubes, with their long tails, even steps lose far more."""
    values = RANDOM.standard_normal(200_000).astype(np.float32) ** power
    even = np.linspace(values.min(), values.max(), 256).astype(np.float32)
    found = error(values, codebook(values))
    assert found < (0.5 if power == 1 else 0.2) * error(values, even)
    if power == 1:
        assert 0.9 < found / (np.sqrt(3) * np.pi / 2 / 256**2) < 1.1


def test_nearest_is_nearest():
    book, values = np.sort(RANDOM.standard_normal(256)).astype(np.float32), RANDOM.standard_normal((50, 3)) * 2
    assert (nearest(values, book) == np.abs(values[..., None] - book).argmin(axis=-1)).all()


def test_few_vectors_are_kept():
    few = RANDOM.standard_normal((40, 9)).astype(np.float32)
    few[3] = -0.0
    few[4] = 0.0
    vectors = few[RANDOM.integers(0, 40, 3000)]
    entries, labels = palette(vectors, 64)
    assert len(entries) <= 40 and (entries[labels] == vectors).all()


def test_many_vectors_have_a_near_one():
    """64 groups, each 0.01 wide and some 1 apart: far more vectors than entries, and every group has its own."""
    centers = RANDOM.standard_normal((64, 24))
    group = RANDOM.integers(0, 64, 5000)
    vectors = (centers[group] + 0.01 * RANDOM.standard_normal((5000, 24))).astype(np.float32)
    entries, labels = palette(vectors, 1024)
    assert len(entries) <= 1024 and labels.shape == (5000,)
    assert np.sqrt(np.square(entries[labels] - vectors).mean()) < 0.0101
    again = palette(vectors, 1024)
    assert (entries == again[0]).all() and (labels == again[1]).all()


def test_each_vector_has_an_entry_of_its_branch_that_is_about_the_nearest():
    vectors = RANDOM.standard_normal((4000, 3)).astype(np.float32)
    entries, labels = palette(vectors, 512)
    chosen = np.square(entries[labels] - vectors).sum(axis=1)
    least = np.square(entries[None] - vectors[:, None]).sum(axis=-1).min(axis=1)
    assert chosen.mean() < 1.3 * least.mean()
