"""A convolution whose gradients can be differentiated again at the price of a convolution.

A penalty on a gradient, as R1 is, needs the gradient of a gradient. PyTorch finds the part of it that belongs to the
kernel as a convolution whose *kernel* is a complete map of features: 1024x1024 taps at the first layer of a 1024 px
discriminator, which oneDNN copies with sixteen times the numbers, and works through slowly. But this part is a kernel's
gradient as any other, for which there are good routines. StyleGAN2-ADA's `conv2d_gradfix` is there for the same reason
(Karras et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """As ``F.conv2d`` without bias, with gradients of any order in the same time.

    Under autocast it is ``F.conv2d`` itself: gradients of gradients are computed in full precision, outside of it.

    Args:
        x: ``(B, I, H, W)``.
        weight: ``(O, I / groups, k, k)``.
        stride: Between outputs.
        padding: Zeros on every side.
        groups: Parts of the channels that do not meet.

    Returns:
        ``(B, O, (H + 2 padding - k) // stride + 1, ...)``.
    """
    if torch.is_autocast_enabled(x.device.type):
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
    return _Convolution.apply(x, weight, stride, padding, groups)


_kernels_wanted = True  # a global of the module: on a GPU, backward passes run in a thread of their own


@contextmanager
def without_kernel_gradients() -> Iterator[None]:
    """Leave out gradients by kernels in backward passes: for a gradient by the image alone.

    A function written in Python cannot see that ``autograd.grad`` was not asked for them.
    """
    global _kernels_wanted
    before, _kernels_wanted = _kernels_wanted, False
    try:
        yield
    finally:
        _kernels_wanted = before


# All three are linear in each of two tensors, so their gradients are one another.


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding, groups
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_x, by_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and _kernels_wanted
        if not torch.is_grad_enabled():  # nobody will differentiate these: both from one call
            stride, padding, groups = ctx.how
            found = _gradients(grad, x, weight, stride, padding, groups, (by_x, by_weight))
            return *found, None, None, None
        return (
            _ByInput.apply(grad, weight, x, *ctx.how) if by_x else None,
            _ByWeight.apply(grad, x, weight, *ctx.how) if by_weight else None,
            *(None,) * 3,
        )


class _ByInput(torch.autograd.Function):
    """Gradient by the input, ``(B, I, H, W)``; of ``x`` only the shape and the layout count."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.how = stride, padding, groups
        return _gradients(grad, x, weight, stride, padding, groups, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> Any:
        grad, weight = ctx.saved_tensors
        by_grad, by_weight = ctx.needs_input_grad[:2]
        return (
            _Convolution.apply(change, weight, *ctx.how) if by_grad else None,
            _ByWeight.apply(grad, change, weight, *ctx.how) if by_weight else None,
            *(None,) * 4,
        )


class _ByWeight(torch.autograd.Function):
    """Gradient by the kernel, ``(O, I, k, k)``; of ``weight`` only the shape and the layout count."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(grad, x)
        ctx.how = stride, padding, groups
        return _gradients(grad, x, weight, stride, padding, groups, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> Any:
        grad, x = ctx.saved_tensors
        by_grad, by_x = ctx.needs_input_grad[:2]
        return (
            _Convolution.apply(x, change, *ctx.how) if by_grad else None,
            _ByInput.apply(grad, change, x, *ctx.how) if by_x else None,
            *(None,) * 4,
        )


def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """The gradients by input and by kernel; None for one that is not wanted."""
    return torch.ops.aten.convolution_backward(
        *(grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups), [*wanted, False]
    )[:2]
