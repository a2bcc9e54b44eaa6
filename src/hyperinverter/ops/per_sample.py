"""Convolutions with one kernel per sample, made from factors: forward and backward written by hand.

For CPUs. A sample's kernel ``K = theta + b2 + u W2`` (``ops.factored``) is made, used and dropped before the next one,
and made again in the backward pass: it stays in the cache, and nothing of it is kept in between. Autograd would do the
same in several times as many small operators; here gradients of what all samples share are summed inside the products.
With style s, gain c and per output channel

    m = K s,    f = c / sqrt(sum m^2 + eps),    y = conv(x, f m) = f conv(x s, K)

the second form is taken where features are fewer than a kernel's numbers. From the gradient gk of the kernel used, with
its inner product per output channel <., .>, by the product rule

    first form     gm = f (gk - f m <gk, f m> / c^2),         gK = s gm,    gs = sum_{o, k} gm K
    second form    gK = gk - s^2 K (f / c)^2 <gk, K>,         gs = sum_p gx_s x - s sum_o (f / c)^2 <gk, K> sum_k K^2

and ``gu = gK W2^T``, ``gW2 = sum u^T gK``, ``gb2 = sum gK`` over samples and rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperinverter.ops import winograd
from hyperinverter.ops.modconv import EPS, convolve, on_kernel

Plain = Callable[..., Tensor]


def per_sample_conv2d(
    x: Tensor,
    weight: Tensor,
    u: Tensor,
    w2: Tensor,
    b2: Tensor,
    style: Tensor,
    plain: Plain,
    *,
    up: bool,
    gain: float,
) -> Tensor:
    """Return demodulated convolutions of every sample with ``weight + (u w2 + b2)``, times ``gain``.

    Args:
        x: Features, ``(B, I, H, W)``, of the same dtype as all others.
        weight: The batch's kernel theta, ``(O, I, k, k)``.
        u: ``(B, I, D)``.
        w2: ``(D, O k k)``.
        b2: ``(O k k,)``.
        style: ``(B, I)``.
        plain: The same function of the first six in differentiable operations, for gradients of gradients.
        up: Transposed, with stride 2 and no padding.
        gain: Factor of the result.

    Returns:
        Features ``(B, O, H, W)``, or ``(B, O, 2H + 1, 2W + 1)`` with ``up``, in channels_last.
    """
    found: Tensor = _PerSampleConv2d.apply(x, weight, u, w2, b2, style, plain, up, gain)
    return found


class _PerSampleConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        u: Tensor,
        w2: Tensor,
        b2: Tensor,
        style: Tensor,
        plain: Plain,
        up: bool,
        gain: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, u, w2, b2, style)
        ctx.plain, ctx.up, ctx.gain = plain, up, gain
        rows = weight.reshape(u.shape[1], -1) + b2
        area = weight[0, 0].numel()
        energy = style.square().repeat_interleave(area, dim=1)  # of every tap
        out: Tensor | None = None
        for b in range(len(x)):
            sample, column = x[b : b + 1], style[b].view(-1, 1, 1)
            kernel = torch.addmm(rows, u[b], w2).view(weight.shape)
            if on_kernel(x, weight):
                kernel.mul_(column).mul_(_factor(kernel, gain))
                done = convolve(sample, kernel, up)
            else:
                factor = _factor_of(kernel, energy[b]).mul_(gain)
                done = convolve(sample * column, kernel, up).mul_(factor)
            if len(x) == 1:
                return done
            if out is None:
                shape = (len(x), *done.shape[1:])
                out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            out[b] = done[0]
        assert out is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, u, w2, b2, style = ctx.saved_tensors
        needed = ctx.needs_input_grad[:6]
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            inputs = (x, weight, u, w2, b2, style)
            wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
            found = iter(torch.autograd.grad(ctx.plain(*inputs), wanted, grad, create_graph=True))
            return (*(next(found) if need else None for need in needed), None, None, None)
        by_x, by_weight, by_u, by_w2, by_b2, by_style = needed
        gain, up = ctx.gain, ctx.up
        rows = weight.reshape(u.shape[1], -1) + b2
        area = weight[0, 0].numel()
        energy = style.square().repeat_interleave(area, dim=1)
        gx = torch.empty_like(x) if by_x else None
        gu, gs, gw2 = torch.empty_like(u), torch.empty_like(style), torch.zeros_like(w2)
        grows = torch.zeros_like(rows) if by_weight or by_b2 else None
        for b in range(len(x)):
            sample, column, own = x[b : b + 1], style[b].view(-1, 1, 1), grad[b : b + 1]
            kernel = torch.addmm(rows, u[b], w2).view(weight.shape)
            if on_kernel(x, weight):
                used = kernel * column
                factor = _factor(used, gain)
                used.mul_(factor)
                found_x, gk = _convolution_backward(own, sample, used, up, by_x)
                inner = (gk * used).flatten(1).sum(1).view(-1, 1, 1, 1).div_(gain**2)
                gk = torch.addcmul(gk, used, inner, value=-1).mul_(factor)  # by the kernel with style
                if by_style:
                    gs[b] = (gk * kernel).sum((0, 2, 3))
                gk = gk.mul_(column)
            else:
                factor = _factor_of(kernel, energy[b])
                found_x, gk = _convolution_backward(
                    own * (factor * gain), sample * column, kernel, up, by_x or by_style
                )
                inner = (gk * kernel).flatten(1).sum(1).view(-1, 1, 1) * factor.square()
                if by_style:
                    assert found_x is not None
                    ge = (inner[..., None] * kernel.square()).sum((0, 2, 3))
                    gs[b] = (found_x * sample).sum((0, 2, 3)) - style[b] * ge
                if found_x is not None:
                    found_x = found_x.mul_(column)
                gk = torch.addcmul(
                    gk, kernel * energy[b].view(-1, *weight.shape[2:]), inner[..., None], value=-1
                )
            if gx is not None:
                assert found_x is not None
                gx[b] = found_x[0]
            gk = gk.view(rows.shape)
            torch.mm(gk, w2.T, out=gu[b])
            gw2.addmm_(u[b].T, gk)
            if grows is not None:
                grows += gk
        gweight = grows.view(weight.shape) if by_weight and grows is not None else None
        gb2 = grows.sum(0) if by_b2 and grows is not None else None
        given = (gx, gweight, gu if by_u else None, gw2 if by_w2 else None, gb2, gs if by_style else None)
        return (*given, None, None, None)


def _factor(modulated: Tensor, gain: float) -> Tensor:
    """``(O, 1, 1, 1)``: brings every output channel of a kernel with style in it to variance ``gain^2``."""
    norm = torch.linalg.vector_norm(modulated.flatten(1), dim=1).square_()
    return norm.add_(EPS).rsqrt_().mul_(gain).view(-1, 1, 1, 1)


def _factor_of(kernel: Tensor, energy: Tensor) -> Tensor:
    """``(O, 1, 1)``: the factor of ``ops.modconv.demodulation`` for one kernel and the energy of every tap."""
    return (kernel.square().flatten(1) @ energy).add_(EPS).rsqrt_().view(-1, 1, 1)


def _convolution_backward(
    grad: Tensor, x: Tensor, kernel: Tensor, up: bool, by_x: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of ``convolve(x, kernel, up)`` by features, if asked for, and by kernel."""
    if not up and winograd.pays(x, kernel):
        return winograd.gradients(x, kernel, grad, by_x)
    stride, padding = ([2, 2], [0, 0]) if up else ([1, 1], [kernel.shape[-1] // 2] * 2)
    found_x, gk, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        kernel.transpose(0, 1) if up else kernel,
        None,
        stride,
        padding,
        [1, 1],
        up,
        [0, 0],
        1,
        [by_x, True, False],
    )
    return (found_x if by_x else None), (gk.transpose(0, 1) if up else gk).contiguous()
