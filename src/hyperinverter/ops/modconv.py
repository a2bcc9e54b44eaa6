"""Modulated convolution: kernels shared by the batch, or one per sample.

Both ways scale the input channels by the style and the output channels by the demodulation factor,
instead of the kernels themselves: the algebra is the same (Karras et al. 2020, Eqs. 1 and 3) and the
kernels are touched once less. The output factor is returned, not applied, so that the caller can fold
it into the pass that adds the bias.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8  # StyleGAN2's guard against a zero norm


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Return the factor that brings every output channel back to unit variance.

    Karras et al. 2020 (StyleGAN2), Eq. 3: ``1 / sqrt(sum_{i,k} (style_i weight_oik)^2 + 1e-8)``.

    Args:
        weight: ``(O, I, k, k)`` or ``(B, O, I, k, k)``.
        style: ``(B, I)``.

    Returns:
        ``(B, O)``, in float32: half precision would overflow the sum.
    """
    with torch.autocast(weight.device.type, enabled=False):
        power = weight.float().square().sum(dim=(-2, -1))  # (O, I) or (B, O, I)
        energy = style.float().square()
        norm = energy @ power.T if power.ndim == 2 else torch.bmm(power, energy[:, :, None])[:, :, 0]
        return (norm + EPS).rsqrt()


def modulated_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Convolve every sample with its own style-scaled kernel.

    Karras et al. 2020 (StyleGAN2), Eqs. 1 and 3.

    Args:
        x: Features, ``(B, I, H, W)``.
        weight: One kernel for the batch, ``(O, I, k, k)``, or one per sample, ``(B, O, I, k, k)``.
        style: Scale of each input channel, ``(B, I)``.
        demodulate: Also return the factor that brings every output channel back to unit variance.
        up: Transposed convolution with stride 2 and no padding; the caller filters the result.

    Returns:
        Features ``(B, O, H, W)``, or ``(B, O, 2H + 1, 2W + 1)`` with ``up``, still to be multiplied by the
        second value, ``(B, O, 1, 1)``, or None without ``demodulate``.

    Raises:
        ValueError: If ``weight`` has neither four nor five dimensions.
    """
    if weight.ndim not in (4, 5):
        raise ValueError(f"weight must be (O, I, k, k) or (B, O, I, k, k), got {tuple(weight.shape)}")
    factor = demodulation(weight, style)[:, :, None, None].to(x.dtype) if demodulate else None
    x = x * style[:, :, None, None].to(x.dtype)
    kernels = weight.transpose(-4, -3) if up else weight  # a transposed convolution wants (I, O, k, k)
    if weight.ndim == 4:
        out = _conv(x, kernels, up, groups=1)
    else:
        batch = len(x)
        wide = x.reshape(1, -1, *x.shape[2:])  # samples become groups of one wide image
        out = _conv(wide, kernels.flatten(0, 1), up, groups=batch)
        out = out.view(batch, -1, *out.shape[2:])
    return out, factor


def _conv(x: Tensor, weight: Tensor, up: bool, groups: int) -> Tensor:
    weight = weight.to(x.dtype)
    if not up:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    return F.conv_transpose2d(x, weight, stride=2, groups=groups)
