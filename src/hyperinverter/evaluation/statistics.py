"""What numbers of photos allow one to say: intervals, paired comparisons, several of them at once, seeds.

The unit is the photo, paired across models. An interval is a percentile bootstrap over photos; a test flips the signs
of paired differences. Photos tell about *this trained network*; only several seeds tell about *the recipe*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
_BLOCK = 500  # resamples at a time: memory
_TAILS = (2.5, 97.5)


class Interval(NamedTuple):
    """A number and the 95 % interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Paired differences ``a - b`` of two models on the same photos.

    Attributes:
        count: Photos that have the number in both.
        difference: Mean of a - b.
        ratio: Mean of a divided by mean of b.
        improved: Share of photos on which a is better than b; ties count half.
        p: Of the sign-flip permutation test, two-sided, before any correction.
    """

    count: int
    difference: Interval
    ratio: Interval
    improved: float
    p: float


def mean_intervals(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """Mean and bootstrap interval of each column.

    Args:
        values: ``(N, K)``: photos, numbers; NaN where a photo has no such number.
        resamples: Drawn with replacement; the same photos for all columns.
        seed: Of the resamples.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    means = [
        (weights @ filled) / np.maximum(weights @ known, 1e-9)
        for weights in _resamples(len(values), resamples, seed)
    ]
    low, high = np.percentile(np.concatenate(means), _TAILS, axis=0)
    middle = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return [
        Interval(float(m), float(x), float(y)) if any_known else Interval(np.nan, np.nan, np.nan)
        for m, x, y, any_known in zip(middle, low, high, known.any(axis=0), strict=True)
    ]


def _resamples(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of ``count`` photos is in a resample, ``(block, count)`` by block."""
    drawn = _drawn(count, resamples, seed)
    for start in range(0, resamples, _BLOCK):
        yield drawn[start : start + _BLOCK].astype(np.float64)


@lru_cache(maxsize=2)  # all numbers and pairs of an evaluation have the same photos
def _drawn(count: int, resamples: int, seed: int) -> np.ndarray:
    draw, even = np.random.default_rng(seed), np.full(count, 1 / count)
    return draw.multinomial(count, even, size=resamples).astype(np.uint16)


@lru_cache(maxsize=2)
def _flips(count: int, flips: int, seed: int) -> np.ndarray:
    """Random signs, ``(flips, count)``."""
    signs = np.random.default_rng(seed).integers(0, 2, size=(flips, count), dtype=np.int8)
    return 2 * signs - 1


def compare(
    a: np.ndarray, b: np.ndarray, *, higher_is_better: bool, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two models on the photos that both have a number for.

    Args:
        a: Numbers of one model, ``(N,)``.
        b: Of the other, same photos in the same order.
        higher_is_better: Which way the number improves.
        resamples: Of the bootstrap, and sign flips of the test.
        seed: Of both.

    Raises:
        ValueError: For other than two equally long arrays.
    """
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected paired numbers (N,), got {a.shape} and {b.shape}")
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) == 0:
        nothing = Interval(np.nan, np.nan, np.nan)
        return Comparison(0, nothing, nothing, np.nan, np.nan)
    d = a - b
    sums = np.concatenate([w @ np.stack([a, b], axis=1) for w in _resamples(len(a), resamples, seed)])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[:, 0] / sums[:, 1]
        ratio = float(a.sum() / b.sum())
    differences = (sums[:, 0] - sums[:, 1]) / len(a)
    better = d > 0 if higher_is_better else d < 0
    return Comparison(
        len(a),
        Interval(float(d.mean()), *map(float, np.percentile(differences, _TAILS))),
        Interval(ratio, *map(float, np.percentile(ratios, _TAILS))),
        float(better.mean() + 0.5 * (d == 0).mean()),
        sign_flip(d, resamples, seed),
    )


def sign_flip(differences: np.ndarray, flips: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences under random signs, never below ``1 / (flips + 1)``."""
    if not differences.any():
        return 1.0
    signs = _flips(len(differences), flips, seed)
    observed = abs(differences.sum()) * (1 - 1e-12)  # a sum in another order must count as equal
    as_large = 0
    for start in range(0, flips, _BLOCK):
        sums = signs[start : start + _BLOCK].astype(np.float64) @ differences
        as_large += int((np.abs(sums) >= observed).sum())
    return (as_large + 1) / (flips + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction of several tests, in the given order; NaN stays NaN and is not counted."""
    known = [i for i, p in enumerate(ps) if p == p]
    adjusted, largest = list(ps), 0.0
    for place, index in enumerate(sorted(known, key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(known) - place) * ps[index]))
        adjusted[index] = largest
    return adjusted


def two_level(values: Sequence[np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over seeds and photos; the interval resamples both.

    All seeds of a resample have the same photos: a photo that is hard is hard for every seed, so three seeds on n
    photos are not 3 n photos.

    Args:
        values: One array of photos ``(N,)`` per seed, the same photos in the same order.
        resamples: Of both levels.
        seed: Of the resamples.
    """
    table = np.stack(values)  # (S, N)
    draw = np.random.default_rng(seed)
    seeds, photos = table.shape
    chosen = draw.integers(0, seeds, size=(resamples, seeds))
    means = np.empty(resamples)
    for start in range(0, resamples, _BLOCK):
        rows = chosen[start : start + _BLOCK]
        weights = draw.multinomial(photos, np.full(photos, 1 / photos), size=len(rows)) / photos
        means[start : start + len(rows)] = (weights * table[rows].mean(axis=1)).sum(axis=1)
    return Interval(float(table.mean()), *map(float, np.percentile(means, _TAILS)))
