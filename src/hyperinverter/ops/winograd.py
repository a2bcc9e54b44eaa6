"""3x3 convolutions with a quarter of the multiplications, for processors.

Winograd 1980; Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(4x4, 3x3). A tile d of 6x6
inputs gives 4x4 outputs y:

    y = A [(G g G^T) * (B d B^T)] A^T

where g is the kernel and * goes element by element, summed over input channels: 36 matrix products instead of the
144 multiplications of 16 outputs with 9 taps. A, B and G interpolate polynomials at 0, +-3/4, +-3/2 and infinity;
with these points float32 results are as near to the exact ones as those of a direct convolution (a largest error of
1e-5 of their spread for 512 channels), where the usual 0, +-1, +-2 is four times worse.

Gradients are exact, too, and take a quarter of the multiplications again: for x, a convolution with the rotated kernel;
for g, the adjoint of each step. On a GPU, cuDNN chooses such algorithms itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.ops.policy import policy_of

_TILE = 4  # outputs per side of a tile
_WINDOW = _TILE + 2  # inputs per side
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity
_TILES_AT_ONCE = 256  # per thread; what the matrix products exchange then stays in the cache

_A = [[point**row for point in _POINTS] + [float(row == _TILE - 1)] for row in range(_TILE)]  # (4, 6)
_OTHERS = [[other for other in _POINTS if other != point] for point in _POINTS]
_G = [
    [point**power / np.prod([point - other for other in others]) for power in range(3)]
    for point, others in zip(_POINTS, _OTHERS, strict=True)
] + [[0.0, 0.0, 1.0]]  # (6, 3)
_B = [[*np.poly(others)[::-1], 0.0] for others in _OTHERS] + [list(np.poly(_POINTS)[::-1])]  # (6, 6)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether ``conv3x3(x, weight)`` is to be taken: where policy allows it and it is faster than the direct one.

    Counted in multiplications for the P pixels of a batch; moving data counts as the multiplications that take the
    same time (measured with 512-bit vectors on one thread and on two, which share the memory's bandwidth):

        direct    9 I O P
        here      2.25 I O P + m (150 (I + O) P + 3000 I O)        products; tiles and kernels, m = sqrt(threads)

    It is taken where it saves a tenth: from 64 channels on (from 128 with two threads), unless pixels are few (512
    channels need more than 2 images of 16x16). It saves up to a fifth at 64 channels and about half from 256 on, also
    in the backward pass.
    """
    choice = policy_of(x).winograd
    if weight.shape[2:] != (3, 3) or choice == "never":
        return False
    if choice == "always":
        return True
    if x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type):
        return False
    if torch.compiler.is_compiling():  # its loops, unrolled, would take minutes to compile
        return False
    out_channels, in_channels = weight.shape[:2]
    pixels = len(x) * _tiles_along(x.shape[2]) * _tiles_along(x.shape[3]) * _TILE**2
    pair = in_channels * out_channels
    moving = math.sqrt(torch.get_num_threads()) * (150 * (in_channels + out_channels) * pixels + 3000 * pair)
    here = 2.25 * pair * pixels + moving
    return here < 0.9 * 9 * pair * len(x) * x.shape[2] * x.shape[3]


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``F.conv2d(x, weight, padding=1)``.

    Args:
        x: Features, ``(B, I, H, W)``.
        weight: Kernel, ``(O, I, 3, 3)``.

    Returns:
        Features, ``(B, O, H, W)``, in channels_last.
    """
    return _Conv3x3.apply(x, weight)


def transformed(weight: Tensor) -> Tensor:
    """Kernels ``(O, I, 3, 3)`` as ``conv3x3_by`` takes them, ``(36, I, O)``: four times the numbers.

    For weights that stay as they are: to make these takes about as long as to convolve a few small images with them.
    """
    return _kernels(weight).contiguous()


def conv3x3_by(x: Tensor, kernels: Tensor) -> Tensor:
    """Return ``conv3x3(x, weight)`` for what ``transformed`` made of the weight; gradients reach the features.

    On one thread it takes half of the direct convolution's time for 192 to 384 channels and 16 images of 8x8 or more,
    three quarters for 2; of two threads at once as well. What ``policy`` says of ``winograd`` does not matter here.
    """
    return _convolved(x, kernels)


class Conv3x3(nn.Conv2d):
    """``nn.Conv2d`` with a 3x3 kernel; with stride 1 and padding 1 it takes the faster of both ways."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = self.stride == (1, 1) and self.padding == (1, 1) and self.groups == 1
        if not (plain and pays(input, weight)):
            return super()._conv_forward(input, weight, bias)
        out = conv3x3(input, weight)
        return out if bias is None else out + bias[:, None, None]


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted: the direct convolution has one
            wanted = [by_x, by_weight, False]
            one = [1, 1]
            found = torch.ops.aten.convolution_backward(
                grad, x, weight, None, one, one, one, False, [0, 0], 1, wanted
            )
            return found[0], found[1]
        return (
            _convolve(grad, _turned(weight)) if by_x else None,
            _kernel_gradient(x, grad) if by_weight else None,
        )


def gradients(x: Tensor, weight: Tensor, grad: Tensor, by_x: bool) -> tuple[Tensor | None, Tensor]:
    """Gradients of ``conv3x3(x, weight)`` by features, if asked for, and by kernel; without a graph."""
    return (_convolve(grad, _turned(weight)) if by_x else None), _kernel_gradient(x, grad)


def _turned(weight: Tensor) -> Tensor:
    return weight.flip(2, 3).transpose(0, 1)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return _convolved(x, _kernels(weight))


def _convolved(x: Tensor, kernels: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    out_channels = kernels.shape[2]
    a, b = x.new_tensor(_A), x.new_tensor(_B)
    windows = _windows(x)
    down, along = windows.shape[3:5]
    shape = (batch, out_channels, down * _TILE, along * _TILE)
    whole = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    out = whole.permute(0, 2, 3, 1).view(batch, down, _TILE, along, _TILE, out_channels)
    for samples, rows in _pieces(batch, down, along):
        products = torch.bmm(_both_ways(b, windows[:, :, samples, rows]), kernels)
        tiles = _both_ways(a, products.view(_WINDOW, _WINDOW, *windows[0, 0, samples, rows].shape[:3], -1))
        tiles = tiles.view(_TILE, _TILE, *out[samples, rows, 0, :, 0].shape)
        out[samples, rows] = tiles.permute(2, 3, 0, 4, 1, 5)
    # Never a view: autograd refuses to add to one in place that a function of its own returned.
    if whole.shape[2:] == x.shape[2:]:
        return whole
    return whole[..., :height, :width].clone(memory_format=torch.channels_last)


def _kernel_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient ``(O, I, 3, 3)`` of the kernel, from features and the gradient of what came out."""
    a, b, g = (x.new_tensor(matrix) for matrix in (_A, _B, _G))
    windows = _windows(x)
    batch, down, along = windows.shape[2:5]
    height, width = grad.shape[2:]
    padded = F.pad(
        grad.permute(0, 2, 3, 1), (0, 0, 0, along * _TILE - width, 0, down * _TILE - height)
    ).contiguous()
    tiles = padded.view(batch, down, _TILE, along, _TILE, -1).permute(2, 4, 0, 1, 3, 5)
    found = x.new_zeros(_WINDOW**2, x.shape[1], grad.shape[1])
    for samples, rows in _pieces(batch, down, along):
        inputs = _both_ways(b, windows[:, :, samples, rows])
        found.baddbmm_(inputs.transpose(1, 2), _both_ways(a.T, tiles[:, :, samples, rows]))
    kernel = torch.kron(g, g).T @ found.flatten(1)  # (9, I O)
    return kernel.view(3, 3, x.shape[1], -1).permute(3, 2, 0, 1).contiguous()


def _kernels(weight: Tensor) -> Tensor:
    """``G g G^T`` of every kernel, ``(36, I, O)``."""
    g = weight.new_tensor(_G)
    out_channels, in_channels = weight.shape[:2]
    taps = weight.reshape(out_channels * in_channels, -1)
    rows = torch.kron(g, g).view(_WINDOW, _WINDOW, -1)  # a batch, as in _both_ways
    return torch.bmm(rows, taps.T.expand(_WINDOW, -1, -1)).view(-1, out_channels, in_channels).transpose(1, 2)


def _windows(x: Tensor) -> Tensor:
    """Overlapping windows of ``(B, I, H, W)`` with a border of zeros, a view ``(6, 6, B, down, along, I)``."""
    height, width = x.shape[2:]
    down, along = _tiles_along(height) * _TILE, _tiles_along(width) * _TILE
    x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    padded = F.pad(x, (0, 0, 1, along + 1 - width, 1, down + 1 - height))
    return padded.unfold(1, _WINDOW, _TILE).unfold(2, _WINDOW, _TILE).permute(4, 5, 0, 1, 2, 3)


def _both_ways(matrix: Tensor, blocks: Tensor) -> Tensor:
    """``M d M^T`` of every block d: ``(n, n, ..., C)`` -> ``(m^2, tiles, C)`` for M ``(m, n)``.

    As batches of products, which run on several threads; one product of so few rows would stay on one.
    """
    m, n = matrix.shape
    channels = blocks.shape[-1]
    first = torch.bmm(matrix.repeat(n, 1, 1), blocks.reshape(n, n, -1).transpose(0, 1))
    return torch.bmm(matrix.repeat(m, 1, 1), first.transpose(0, 1)).view(m * m, -1, channels)


def _pieces(batch: int, down: int, along: int) -> Iterator[tuple[slice, slice]]:
    """Samples, or rows of tiles of one sample, of about ``_TILES_AT_ONCE`` tiles per thread."""
    tiles = _TILES_AT_ONCE * torch.get_num_threads()
    samples, rows = tiles // (down * along), max(1, tiles // along)
    if samples:
        for first in range(0, batch, samples):
            yield slice(first, first + samples), slice(None)
        return
    for sample in range(batch):
        for first in range(0, down, rows):
            yield slice(sample, sample + 1), slice(first, first + rows)


def _tiles_along(side: int) -> int:
    return -(-side // _TILE)
