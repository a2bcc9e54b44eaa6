"""Modulated convolution: kernels shared by the batch, or one per sample.

Both ways scale the input channels by the style and the output channels by the demodulation factor,
instead of the kernels themselves: the algebra is the same (Karras et al. 2020, Eqs. 1 and 3) and the
kernels are read once less. The output factor is returned, not applied, so that the caller can fold
it into the pass that adds the bias. Where a sample's features have more numbers than its kernel, the kernel
is scaled instead: fewer passes over the features, and the backward pass needs no copy from before the factor.

Letters in shapes: B samples, I input and O output channels, k side of the kernel, H and W sides of the features.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.ops import winograd
from hyperinverter.ops.policy import fast_layout, policy_of
from hyperinverter.ops.precision import at_least_float32

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
        # A product with the energy of every tap: summing over a kernel's nine taps first takes three times as long.
        squares = at_least_float32(weight).square().flatten(-3)  # (O, I k k) or (B, O, I k k)
        energy = (
            at_least_float32(style).square().repeat_interleave(weight.shape[-2] * weight.shape[-1], dim=1)
        )
        norm = energy @ squares.T if squares.ndim == 2 else torch.bmm(squares, energy.unsqueeze(2)).squeeze(2)
        return (norm + EPS).rsqrt()


def modulated_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: bool = False, gain: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """Convolve every sample with its own style-scaled kernel.

    Karras et al. 2020 (StyleGAN2), Eqs. 1 and 3.

    Args:
        x: Features, ``(B, I, H, W)``.
        weight: One kernel for the batch, ``(O, I, k, k)``, or one per sample, ``(B, O, I, k, k)``.
        style: Scale of each input channel, ``(B, I)``.
        demodulate: Bring every output channel back to unit variance.
        up: Transposed convolution with stride 2 and no padding; the caller filters the result.
        gain: Factor of the result, at no extra cost.

    Returns:
        Features ``(B, O, H, W)``, or ``(B, O, 2H + 1, 2W + 1)`` with ``up``, still to be multiplied by the
        second value, ``(B, O, 1, 1)`` in float32 or better; None where nothing is left to multiply by.

    Raises:
        ValueError: If ``weight`` has neither four nor five dimensions.
    """
    if weight.ndim not in (4, 5):
        raise ValueError(f"weight must be (O, I, k, k) or (B, O, I, k, k), got {tuple(weight.shape)}")
    if demodulate and len(x) == 1 and weight.ndim == 4 and on_kernel(x, weight):
        return convolve(x, _modulated(weight, style[0], gain), up), None
    factor: Tensor | None = None
    if demodulate:
        factor = (demodulation(weight, style) * gain).view(len(x), -1, 1, 1)
    elif gain != 1:
        style = style * gain
    if weight.ndim == 5 and one_by_one_pays(x):
        scale = at_least_float32(style).view(len(x), 1, -1, 1, 1)
        kernels = (weight * (scale if factor is None else scale * factor[..., None])).to(x.dtype)
        done = [convolve(*pair, up) for pair in zip(x.split(1), kernels, strict=True)]
        return torch.cat(done) if len(done) > 1 else done[0], None
    x = x * style.view(len(x), -1, 1, 1).to(x.dtype)
    if weight.ndim == 4:
        return convolve(x, weight, up), factor
    batch = len(x)
    wide = x.reshape(1, -1, *x.shape[2:])  # samples become groups of one wide image
    out = convolve(wide, weight.flatten(0, 1), up, groups=batch)
    return out.view(batch, -1, *out.shape[2:]), factor


def on_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether a sample of ``(B, I, H, W)`` has more numbers than its kernel ``(O, I, k, k)``, which is then scaled."""
    return x.shape[-2] * x.shape[-1] > weight[:, 0].numel()


def one_by_one_pays(x: Tensor) -> bool:
    """Whether a batch ``(B, I, H, W)`` with kernels of each sample's own is convolved one sample after the other.

    On an H100 in bfloat16, 8 samples, both passes in ms, one by one (in channels_last) and grouped: 32 channels at
    1024 px 5.5 and 5.8, 128 channels at 256 px 1.5 and 1.8, 512 channels at 64 px 1.3 and 1.4, at 16 px 0.9 and 0.9.
    The grouped one needs its features in the other layout besides.
    """
    many = x.shape[-2] * x.shape[-1] >= 32 * 32
    return policy_of(x).per_sample == "by_size" and (many or len(x) == 1)


def sample_by_sample(
    x: Tensor, kernels: Iterable[Tensor], style: Tensor, *, up: bool = False, gain: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """Return ``modulated_conv2d`` of a batch whose kernels ``(O, I, k, k)`` are made one after the other.

    On a CPU that is the fastest way: a grouped convolution is slower than a loop (2.1 times for 32 channels at
    64 px, 3.5 times transposed from 64 to 32 channels at 32 px, 8 samples on one core), and one sample's kernels
    stay in the cache from their making to their use.
    """
    each = zip(x.split(1), kernels, style.split(1), strict=True)
    done = [modulated_conv2d(sample, kernel, scale, up=up, gain=gain) for sample, kernel, scale in each]
    if len(done) == 1:  # joining would be one more copy
        return done[0]
    factors = [factor for _, factor in done if factor is not None]
    return torch.cat([out for out, _ in done]), torch.cat(factors) if factors else None


def _modulated(kernel: Tensor, style: Tensor, gain: float) -> Tensor:
    """One sample's kernel ``(O, I, k, k)`` with everything in it: style ``(I,)``, demodulation, gain.

    For features with more numbers than the kernel: they are then neither scaled nor kept for scaling back.
    """
    with torch.autocast(kernel.device.type, enabled=False):
        kernel = at_least_float32(kernel) * at_least_float32(style)[:, None, None]
        norm = kernel.square().flatten(1).sum(dim=1)
        return kernel * ((norm + EPS).rsqrt() * gain).view(-1, 1, 1, 1)


def convolve(x: Tensor, weight: Tensor, up: bool, groups: int = 1) -> Tensor:
    """Convolve ``(B, I, H, W)`` with kernels ``(O, I, k, k)``, or transposed with stride 2 with ``up``."""
    weight = weight.to(x.dtype)
    if not up and groups == 1 and winograd.pays(x, weight):
        return winograd.conv3x3(x, weight)
    if not up:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    if groups == 1:
        x = fast_layout(x)  # up to 3.6 times faster here
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # it wants (I, O, k, k)
    blocks = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return F.conv_transpose2d(x, blocks, stride=2, groups=groups)
