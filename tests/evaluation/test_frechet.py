"""Distances of sets equal independent implementations, at full rank and below it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.kid import poly_mmd

from hyperinverter.evaluation.frechet import frechet_distance, kernel_distance


def two_sets(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    mix = draw.normal(size=(width, width)) / np.sqrt(width)
    return draw.normal(size=(count, width)) @ mix, draw.normal(size=(count + 7, width)) @ mix * 1.3 + 0.2


@pytest.mark.parametrize(("count", "width"), [(200, 24), (40, 40), (20, 64)])
def test_frechet_equals_the_matrix_root(count: int, width: int) -> None:
    a, b = two_sets(count, width)
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    values = linalg.eigvals(s1 @ s2).real.clip(0)
    expected = means + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(values).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    root = linalg.sqrtm(s1 + 1e-9 * np.eye(width)) @ linalg.sqrtm(s2 + 1e-9 * np.eye(width))
    by_roots = means + np.trace(s1) + np.trace(s2) - 2 * linalg.svdvals(root).sum()
    assert frechet_distance(a, b) == pytest.approx(by_roots, rel=1e-4)


def test_frechet_of_a_set_with_itself_is_zero_and_its_order_does_not_matter() -> None:
    a, b = two_sets(30, 50)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a[::-1], b), rel=1e-9)
    assert frechet_distance(a + 3, a) == pytest.approx(9 * 50, rel=1e-6)


def test_kernel_distance_equals_torchmetrics_and_a_loop() -> None:
    a, b = two_sets(24, 12)
    b = b[:24]
    ours = kernel_distance(a, b)
    tensors = [torch.from_numpy(x) for x in (a, b)]
    gamma = 1 / 12
    kernels = [
        (gamma * x @ y.T + 1) ** 3 for x, y in ((tensors[0], tensors[0]), tensors, (tensors[1], tensors[1]))
    ]
    assert ours == pytest.approx(float(poly_mmd(*tensors)), rel=1e-6)
    total = 0.0
    for x in (a, b):
        total += sum((x[i] @ x[j] / 12 + 1) ** 3 for i in range(24) for j in range(24) if i != j) / (24 * 23)
    total -= 2 * float(kernels[1].mean())
    assert ours == pytest.approx(total, rel=1e-9)


def test_kernel_distance_of_subsets_is_fixed_by_its_seed() -> None:
    a, b = two_sets(60, 8)
    once = kernel_distance(a, b, subsets=5, subset_size=20, seed=3)
    assert once == kernel_distance(a, b, subsets=5, subset_size=20, seed=3)
    assert once != kernel_distance(a, b, subsets=5, subset_size=20, seed=4)
    assert kernel_distance(a[:30], a[30:], subsets=50, subset_size=20) < 0.2 * once  # unbiased: about zero
