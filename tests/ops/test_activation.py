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
    strength = torch.tensor(-0.7, dtype=torch.double)
    offset = bias[:, None, None]
    if noise is not None:
        offset = offset + strength * (noise if noise.ndim == 2 else noise[:, None])
    expected = slow(x, 1.0 if scale is None else scale, offset, clamp)
    gain = math.sqrt(2)  # comes with the factor, or where there is none with the features
    given = (x * gain, None) if scale is None else (x, scale * gain)
    assert_close(scale_bias_leaky_relu(*given, bias, noise, strength, clamp), expected)
    given = (x * gain, None) if scale is None else (x, scale * gain)
    with torch.no_grad():  # in place
        assert_close(scale_bias_leaky_relu(*given, bias, noise, strength, clamp), expected)
    if clamp is not None:
        assert expected.abs().max() == clamp, "the clamp was not reached: the test tests nothing"


def test_unit_variance_stays() -> None:
    out = leaky_relu(torch.randn(100_000))
    assert 0.95 < out.square().mean() < 1.1  # sqrt(2) is exact for slope 0, nearly so for 0.2


@pytest.mark.parametrize("scaled", [True, False])
def test_gradients(scaled: bool) -> None:
    shapes = [(2, 2, 3, 3), (2, 2, 1, 1), (2,), (3, 3), ()]
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]

    def formula(x: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        # without a factor the features are written over, which those of a leaf must not be
        return scale_bias_leaky_relu(x * 1, scale if scaled else None, *rest, clamp=2.0)

    assert gradcheck(formula, inputs)
