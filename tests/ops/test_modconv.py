"""Modulated convolution against the paper's formula, kernel by kernel and pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from hyperinverter.ops.modconv import demodulation, modulated_conv2d, sample_by_sample


def slow(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, up: bool) -> Tensor:
    """Karras et al. 2020, Eqs. 1 and 3, one sample after the other; kernels are really modulated."""
    kernels = weight if weight.ndim == 5 else weight.expand(len(x), *weight.shape)
    done = []
    for sample, kernel, scale in zip(x, kernels, style, strict=True):
        kernel = kernel * scale[None, :, None, None]
        if demodulate:
            kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        done.append(slow_transposed(sample, kernel) if up else slow_convolution(sample, kernel))
    return torch.stack(done)


def slow_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    side, (_, height, width) = kernel.shape[-1], x.shape
    pad = side // 2
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    rows = [
        torch.stack(
            [(padded[:, i : i + side, j : j + side] * kernel).sum(dim=(1, 2, 3)) for j in range(width)],
            dim=-1,
        )
        for i in range(height)
    ]
    return torch.stack(rows, dim=-2)


def slow_transposed(x: Tensor, kernel: Tensor) -> Tensor:
    """Every input pixel stamps its kernel on the output, two pixels further each time."""
    side, (_, height, width) = kernel.shape[-1], x.shape
    out = x.new_zeros(len(kernel), 2 * height + side - 2, 2 * width + side - 2)
    for i in range(height):
        for j in range(width):
            stamp = (kernel * x[None, :, i, j, None, None]).sum(dim=1)
            out[:, 2 * i : 2 * i + side, 2 * j : 2 * j + side] += stamp
    return out


def fast(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True, up: bool = False) -> Tensor:
    gain = 1.5
    out, factor = modulated_conv2d(x, weight, style, demodulate=demodulate, up=up, gain=gain)
    return (out if factor is None else out * factor) / gain


CASES = [(1, False), (3, False), (3, True)]


@pytest.mark.parametrize("own_kernels", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize(("side", "up"), CASES)
def test_equals_the_formula(side: int, up: bool, demodulate: bool, own_kernels: bool) -> None:
    x, style = torch.randn(3, 2, 4, 3), torch.randn(3, 2)
    weight = torch.randn(3, 5, 2, side, side) if own_kernels else torch.randn(5, 2, side, side)
    expected = slow(x.double(), weight.double(), style.double(), demodulate, up)
    assert_close(fast(x, weight, style, demodulate, up), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(
    "size", [(4, 5), (8, 8)]
)  # fewer pixels than a kernel has taps per input channel, and more
def test_a_single_sample_equals_the_formula(size: tuple[int, int], up: bool) -> None:
    inputs = [torch.randn(1, 3, *size), torch.randn(4, 3, 3, 3), torch.randn(1, 3)]
    ours = [tensor.clone().requires_grad_() for tensor in inputs]
    theirs = [tensor.double().requires_grad_() for tensor in inputs]
    image, expected = fast(*ours, up=up), slow(*theirs, demodulate=True, up=up)
    assert_close(image, expected.float(), rtol=1e-4, atol=1e-4)
    cotangent = torch.randn(image.shape)
    gradients = torch.autograd.grad(image, ours, cotangent)
    wanted = torch.autograd.grad(expected, theirs, cotangent.double())
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("up", [False, True])
def test_one_grouped_convolution_equals_one_for_each_sample(up: bool) -> None:
    for size in (6, 9):  # fewer pixels than a kernel has taps per input channel, and more
        x, weight, style = torch.randn(3, 5, size, size), torch.randn(3, 7, 5, 3, 3), torch.randn(3, 5)
        out, factor = sample_by_sample(x, weight, style, up=up, gain=2.0)
        assert (factor is None) == (size == 9)
        done = out if factor is None else out * factor
        assert_close(done / 2, fast(x, weight, style, up=up), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("up", [False, True])
def test_batch_of_residuals_equals_one_by_one(up: bool) -> None:
    x, weight, style = torch.randn(3, 5, 8, 8), torch.randn(7, 5, 3, 3), torch.randn(3, 5)
    residuals = torch.randn(3, 7, 5, 3, 3)
    together = fast(x, weight + residuals, style, up=up)
    alone = [fast(x[i : i + 1], weight + residuals[i], style[i : i + 1], up=up) for i in range(3)]
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("own_kernels", [False, True])
def test_gradients_equal_those_of_the_formula(own_kernels: bool, up: bool) -> None:
    weight = torch.randn(2, 4, 3, 3, 3) if own_kernels else torch.randn(4, 3, 3, 3)
    inputs = [torch.randn(2, 3, 4, 4), weight, torch.randn(2, 3)]
    ours = [tensor.clone().requires_grad_() for tensor in inputs]
    theirs = [tensor.double().requires_grad_() for tensor in inputs]
    image = fast(*ours, up=up)
    cotangent = torch.randn(image.shape)
    gradients = torch.autograd.grad(image, ours, cotangent)
    expected = torch.autograd.grad(slow(*theirs, demodulate=True, up=up), theirs, cotangent.double())
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert_close(gradient, wanted.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("up", [False, True])
def test_gradients_without_demodulation(up: bool) -> None:
    shapes = [(2, 2, 3, 3), (2, 3, 2, 3, 3), (2, 2)]
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert gradcheck(lambda x, w, s: modulated_conv2d(x, w, s, demodulate=False, up=up)[0], inputs)


def test_demodulation_forgets_the_size_of_style_and_kernel() -> None:
    weight, style = torch.randn(7, 5, 3, 3), torch.randn(3, 5)
    x = torch.randn(3, 5, 8, 8)
    assert_close(fast(x, 4 * weight, 10 * style), fast(x, weight, style), rtol=1e-4, atol=1e-4)


def test_demodulation_survives_half_precision() -> None:
    weight, style = torch.full((2, 4, 3, 3), 300.0), torch.full((1, 4), 20.0)
    half = demodulation(weight.half(), style.half())  # the sum of squares is far beyond float16's 65504
    assert_close(half, demodulation(weight, style))
    assert half.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(demodulation(weight, style), half)


@pytest.mark.parametrize("shape", [(5, 3), (1, 2, 5, 3, 3, 3)])
def test_other_kernels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weight must be \(O, I, k, k\) or \(B, O, I, k, k\), got"):
        modulated_conv2d(torch.zeros(2, 3, 4, 4), torch.zeros(shape), torch.zeros(2, 3))
