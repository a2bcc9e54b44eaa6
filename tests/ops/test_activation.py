"""Activation against the formula, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyperinverter.ops.activation import leaky_relu, scale_bias_leaky_relu


def slow(x: Tensor, scale: Tensor | float, offset: Tensor, clamp: float | None) -> Tensor:
    y = x * scale + offset
    y = torch.where(y < 0, 0.2 * y, y) * math.sqrt(2)
    return y if clamp is None else torch.maximum(torch.minimum(y, torch.tensor(clamp)), torch.tensor(-clamp))


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("scaled", [True, False])
def test_equals_the_formula(scaled: bool, clamp: float | None) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.double)
    scale = torch.randn(2, 3, 1, 1, dtype=torch.double) if scaled else None  # negative factors too
    offset = torch.randn(3, 1, 1, dtype=torch.double) + torch.randn(4, 4, dtype=torch.double)
    expected = slow(x, 1.0 if scale is None else scale, offset, clamp)
    assert_close(scale_bias_leaky_relu(x, scale, offset, clamp), expected)
    if clamp is not None:
        assert expected.abs().max() == clamp, "the clamp was not reached: the test tests nothing"


def test_unit_variance_stays() -> None:
    out = leaky_relu(torch.randn(100_000))
    assert 0.95 < out.square().mean() < 1.1  # sqrt(2) is exact for slope 0, nearly so for 0.2


def test_gradients() -> None:
    x, scale = torch.randn(2, 2, 3, 3, dtype=torch.double), torch.randn(2, 2, 1, 1, dtype=torch.double)
    offset = torch.randn(2, 1, 1, dtype=torch.double)
    inputs = [tensor.requires_grad_() for tensor in (x, scale, offset)]
    assert gradcheck(lambda a, b, c: scale_bias_leaky_relu(a, b, c, clamp=2.0), inputs)
