"""Resampling against loops that nobody can misread, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hyperinverter.ops import resample
from hyperinverter.ops.policy import policy
from hyperinverter.ops.resample import fir_filter, fir_kernel, upsample_image


def slow_filter(x: Tensor, kernel: Tensor, pad: tuple[int, int], stride: int = 1) -> Tensor:
    """Correlate the last two dimensions with ``kernel``, behind ``pad`` zeros before and after each."""
    before, after = pad
    *rest, height, width = x.shape
    padded = x.new_zeros(*rest, height + before + after, width + before + after)
    padded[..., before : before + height, before : before + width] = x
    side = kernel.shape[0]
    rows = range(0, padded.shape[-2] - side + 1, stride)
    columns = range(0, padded.shape[-1] - side + 1, stride)
    out = x.new_zeros(*rest, len(rows), len(columns))
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            out[..., i, j] = (padded[..., top : top + side, left : left + side] * kernel).sum(dim=(-2, -1))
    return out


def zeros_between(x: Tensor) -> Tensor:
    stuffed = x.new_zeros(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1])
    stuffed[..., ::2, ::2] = x
    return stuffed


def test_filter_is_the_binomial_one() -> None:
    rows = [[1.0, 3, 3, 1], [3, 9, 9, 3], [3, 9, 9, 3], [1, 3, 3, 1]]
    assert torch.equal(fir_kernel() * 64, torch.tensor(rows))
    assert fir_kernel(gain=4.0).sum() == 4


@pytest.mark.parametrize(("padding", "stride"), [(0, 1), (1, 1), (2, 1), (1, 2), (2, 2)])
def test_filter_equals_loops(padding: int, stride: int) -> None:
    x, kernel = torch.randn(2, 3, 6, 5, dtype=torch.double), fir_kernel(gain=4.0).double()
    assert_close(fir_filter(x, kernel, padding, stride), slow_filter(x, kernel, (padding, padding), stride))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 5)])
def test_upsampling_equals_zeros_between_pixels_and_the_filter(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.double)
    # two zeros before and one after keep the size and centre the even filter, as in StyleGAN2's upsample2d
    assert_close(upsample_image(x), slow_filter(zeros_between(x), fir_kernel(gain=4.0).double(), (2, 1)))


def test_upsampling_keeps_brightness_inside() -> None:
    assert_close(upsample_image(torch.ones(1, 1, 4, 4))[..., 1:-1, 1:-1], torch.ones(1, 1, 6, 6))


def test_gradients_twice() -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.double, requires_grad=True)
    kernel = fir_kernel().double()

    def bent(x: Tensor) -> Tensor:  # both are linear: without the square a second derivative would be zero
        return fir_filter(x, kernel, padding=1, stride=2).square() + upsample_image(x).square()[..., ::4, ::4]

    assert gradcheck(bent, x)
    assert gradgradcheck(bent, x)


@pytest.mark.parametrize("side", [4, 5, 7])
@pytest.mark.parametrize("function", [resample.shrink, lambda x, side: resample.reflected(x, side - 2)])
def test_resizing_repeats_where_it_is_to_and_gives_the_same(function: Any, side: int) -> None:
    x = torch.randn(2, 3, 8, 12, dtype=torch.double, requires_grad=True)
    results = []
    for exact in (False, True):
        with policy(matrices_repeat=exact):
            torch.use_deterministic_algorithms(exact)
            try:
                out = function(x, side)
            finally:
                torch.use_deterministic_algorithms(False)
        results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    for plain, repeated in zip(*results, strict=True):
        assert_close(plain, repeated)
    if function is resample.shrink:
        assert_close(results[0][0], F.adaptive_avg_pool2d(x, side))
