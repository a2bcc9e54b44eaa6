"""Distances of two sets of feature vectors: Frechet (Heusel et al. 2017) and kernel (Binkowski et al. 2018).

In Inception features they are called FID and KID; in any other network's they are not, and carry its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Vectors = np.ndarray  # (N, F)


def set_distance(settings: Mapping[str, Any], a: Vectors, b: Vectors) -> float:
    """The distance that a protocol describes: ``distance: frechet`` or ``kernel``, and the settings of the latter."""
    if settings["distance"] == "frechet":
        return frechet_distance(a, b)
    options = {name: int(settings[name]) for name in ("subsets", "subset_size", "seed")}
    return kernel_distance(a, b, **options) * float(settings.get("times", 1))


def frechet_distance(a: Vectors, b: Vectors) -> float:
    """``|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))``, with unbiased covariances, in float64.

    With centred data ``A = X1 / sqrt(n1 - 1)`` and ``B = X2 / sqrt(n2 - 1)`` the last trace is the sum of the singular
    values of ``A B^T``: exact at any rank, where a matrix root needs something added to the diagonal.

    Args:
        a: Features of one set, ``(N1, F)`` with ``N1 >= 2``.
        b: Features of the other, ``(N2, F)``.
    """
    one, other = (x.astype(np.float64) for x in (a, b))
    centred = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (one, other)]
    means = float(np.square(one.mean(axis=0) - other.mean(axis=0)).sum())
    traces = sum(float(np.square(x).sum()) for x in centred)
    # more rows than columns: the triangle of QR has the same singular values and is smaller
    small = [np.asarray(np.linalg.qr(x, mode="r")) if x.shape[0] > x.shape[1] else x for x in centred]
    root = float(np.linalg.norm(small[0] @ small[1].T, "nuc"))  # the sum of the singular values
    return means + traces - 2 * root


def kernel_distance(
    a: Vectors, b: Vectors, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Squared maximum mean discrepancy with the kernel ``(a.b / F + 1)^3``, unbiased: it may be negative.

    Args:
        a: Features of one set, ``(N1, F)``.
        b: Features of the other, ``(N2, F)``.
        subsets: Its mean over so many subsets is returned.
        subset_size: Vectors in each, drawn without replacement; fewer if a set has fewer.
        seed: Of the subsets.
    """
    size = min(len(a), len(b), subset_size)
    draw = np.random.default_rng(seed)
    one, other = (x.astype(np.float64) for x in (a, b))
    if size == len(a) == len(b):
        return _mmd(one, other)  # every subset is the set
    parts = [
        _mmd(one[draw.choice(len(a), size, replace=False)], other[draw.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(parts))


def _mmd(x: Vectors, y: Vectors) -> float:
    def kernel(p: Vectors, q: Vectors) -> np.ndarray:
        return (p @ q.T / p.shape[1] + 1) ** 3

    size = len(x)
    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
    return float(within - 2 * kernel(x, y).mean())
