"""What ends a styled convolution: the filter after doubling the size, scale, noise, bias, leaky ReLU and clamp."""

from __future__ import annotations

from torch import Tensor

from hyperinverter.ops.activation import scale_bias_leaky_relu
from hyperinverter.ops.fused import can_fuse, fused_finish
from hyperinverter.ops.resample import fir_filter


def finish(
    x: Tensor,
    fir: Tensor | None,
    scale: Tensor | None,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor,
    clamp: float | None = None,
) -> Tensor:
    """Return ``scale_bias_leaky_relu(fir_filter(x, fir, padding=1), scale, ...)``; on a GPU in one pass.

    Args:
        x: Features, ``(B, C, H, W)``, or ``(B, C, H + 1, W + 1)`` with ``fir``. May be overwritten.
        fir: Filter from ``fir_kernel``; None for none.
        scale: ``(B, C, 1, 1)``; None for 1.
        bias: ``(C,)``.
        noise: ``(H, W)`` or ``(B, H, W)``; None for 0.
        strength: Factor of the noise, ``()``.
        clamp: Largest absolute value, None for no limit.

    Returns:
        Features, ``(B, C, H, W)``.
    """
    if can_fuse(x):
        return fused_finish(x, fir, scale, bias, noise, strength, clamp)
    if fir is not None:
        x = fir_filter(x, fir, padding=1)
    return scale_bias_leaky_relu(x, scale, bias, noise, strength, clamp)
