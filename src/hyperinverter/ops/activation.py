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


def scale_bias_leaky_relu(x: Tensor, scale: Tensor | None, offset: Tensor, clamp: float | None) -> Tensor:
    """Return ``clamp(sqrt(2) * leaky_relu(scale * x + offset))``.

    The gain is positive and therefore moves inside the leaky ReLU, onto the small tensors.

    Args:
        x: Features, ``(B, C, H, W)``.
        scale: Factor per sample and channel, broadcastable to ``x``; None for 1.
        offset: Bias and noise, broadcastable to ``x``.
        clamp: Largest absolute value, None for no limit.

    Returns:
        Features, ``(B, C, H, W)``.
    """
    offset = offset * GAIN
    out = x * GAIN + offset if scale is None else torch.addcmul(offset, x, scale * GAIN)
    out = F.leaky_relu_(out, SLOPE)  # in place: its gradient asks for the sign of the result only
    return out if clamp is None else out.clamp(-clamp, clamp)
