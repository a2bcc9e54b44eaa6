"""Bias, leaky ReLU and gain in as few passes over memory as plain PyTorch allows."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.2  # StyleGAN2's leaky ReLU
GAIN = math.sqrt(2)  # keeps unit variance through leaky ReLU (Karras et al. 2020)


def leaky_relu(x: Tensor, gain: float = GAIN) -> Tensor:
    """Return ``gain * leaky_relu(x)`` with slope 0.2."""
    return F.leaky_relu(x, SLOPE) * gain


def scale_bias_leaky_relu(
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor,
    clamp: float | None = None,
) -> Tensor:
    """Return ``clamp(leaky_relu(scale * x + sqrt(2) * (bias + strength * noise)))``.

    The gain sqrt(2) commutes with leaky ReLU; callers have already put it into ``scale`` or ``x``.

    Args:
        x: Features, ``(B, C, H, W)``. Overwritten by the result without ``scale``, or where no gradient is wanted.
        scale: Factor per sample and channel, ``(B, C, 1, 1)``, of any precision; None for 1.
        bias: ``(C,)``.
        noise: ``(H, W)``, or ``(B, H, W)`` for one per sample; None for 0.
        strength: Factor of the noise, ``()``.
        clamp: Largest absolute value, None for no limit.

    Returns:
        Features, ``(B, C, H, W)``.
    """
    if noise is not None and noise.ndim > 2:
        noise = noise.unsqueeze(-3)
    if (
        scale is None
    ):  # added one by one, in place: bias + noise would be another tensor as large as the features
        out = x if noise is None else x.add_((noise * strength).to(x.dtype), alpha=GAIN)
        out = out.add_(bias.view(-1, 1, 1).to(x.dtype), alpha=GAIN)
    else:
        scale, bias = scale.to(x.dtype), bias * GAIN  # a wider scale would make everything behind it wider
        if noise is None:
            offset = bias.view(-1, 1, 1)
        elif x.is_contiguous(memory_format=torch.channels_last):
            # In the layout of x: a pass over memory that mixes layouts takes several times as long.
            noise = noise[..., None] if noise.ndim == 2 else noise.movedim(-3, -1)
            offset = torch.addcmul(bias, noise, strength, value=GAIN).movedim(-1, -3)
        else:
            offset = torch.addcmul(bias.view(-1, 1, 1), noise, strength, value=GAIN)
        place = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else x
        out = torch.addcmul(offset.to(x.dtype), x, scale, out=place)
    out = F.leaky_relu_(out, SLOPE)  # in place: its gradient needs only the sign of the result
    return out if clamp is None else out.clamp(-clamp, clamp)
