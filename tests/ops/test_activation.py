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
@pytest.mark.parametrize("noise_shape", [None, (4, 5), (2, 4, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_formula(
    scaled: bool, clamp: float | None, noise_shape: tuple[int, ...] | None, layout: torch.memory_format
) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.double).contiguous(memory_format=layout)
    scale = torch.randn(2, 3, 1, 1, dtype=torch.double) if scaled else None  # negative factors too
    bias = torch.randn(3, dtype=torch.double)
    noise = None if noise_shape is None else torch.randn(noise_shape, dtype=torch.double)
    offset = bias[:, None, None]
    if noise is not None:
        offset = offset + (noise if noise.ndim == 2 else noise[:, None])
    expected = slow(x, 1.0 if scale is None else scale, offset, clamp)
    assert_close(scale_bias_leaky_relu(x, scale, bias, noise, clamp), expected)
    if clamp is not None:
        assert expected.abs().max() == clamp, "the clamp was not reached: the test tests nothing"


def test_unit_variance_stays() -> None:
    out = leaky_relu(torch.randn(100_000))
    assert 0.95 < out.square().mean() < 1.1  # sqrt(2) is exact for slope 0, nearly so for 0.2


def test_gradients() -> None:
    x, scale = torch.randn(2, 2, 3, 3, dtype=torch.double), torch.randn(2, 2, 1, 1, dtype=torch.double)
    bias, noise = torch.randn(2, dtype=torch.double), torch.randn(3, 3, dtype=torch.double)
    inputs = [tensor.requires_grad_() for tensor in (x, scale, bias, noise)]
    assert gradcheck(lambda a, b, c, d: scale_bias_leaky_relu(a, b, c, d, clamp=2.0), inputs)
