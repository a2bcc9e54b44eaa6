"""Resampling with StyleGAN2's FIR filter [1, 3, 3, 1].

The filter is written as one depthwise 4x4 convolution: in channels_last it is the fastest of the equal
forms on a CPU (separable passes, box filters and slices were measured), and twice differentiable, which the R1
penalty needs. A GPU has a kernel of our own (``ops.fused``): cuDNN's takes 5 to 20 times as long.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.ops.convolution import conv2d
from hyperinverter.ops.fused import can_fuse, fused_filter
from hyperinverter.ops.policy import policy_of

Resize = Callable[[Tensor, tuple[int, int]], Tensor]
_TAPS = (1.0, 3.0, 3.0, 1.0)


def fir_kernel(gain: float = 1.0) -> Tensor:
    """Return the ``(4, 4)`` filter: the outer product of [1, 3, 3, 1] with sum ``gain``.

    Always on the CPU: a network built on the meta device, to be filled from a file, finds its constants in place.
    """
    taps = torch.tensor(_TAPS, device="cpu")
    kernel = torch.outer(taps, taps)
    return kernel * (gain / kernel.sum())


def fir_filter(x: Tensor, kernel: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Filter every channel alone with zero padding on all sides.

    Args:
        x: Features, ``(B, C, H, W)``.
        kernel: Filter from ``fir_kernel``, ``(4, 4)``.
        padding: Zeros added on each side.
        stride: Step between outputs.

    Returns:
        Features, ``(B, C, (H + 2 padding - 4) // stride + 1, ...)``, in the layout that the policy says.
    """
    if can_fuse(x):  # all and then every second: still several times faster
        return fused_filter(x, kernel, padding)[..., ::stride, ::stride]
    channels = x.shape[1]
    weight = kernel.to(x).expand(channels, 1, 4, 4)
    if policy_of(x).filter_layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    return conv2d(x, weight, padding=padding, stride=stride, groups=channels)


def upsample_image(x: Tensor) -> Tensor:
    """Double the size of an image: zeros between pixels, then the FIR filter with gain 4.

    Karras et al. 2020 (StyleGAN2), skip path. Away from the border this is bilinear interpolation; a
    border of zeros makes it equal everywhere.

    Args:
        x: Image, ``(B, C, H, W)``.

    Returns:
        Image, ``(B, C, 2H, 2W)``.
    """
    padded = F.pad(x, (1, 1, 1, 1))
    doubled = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
    return doubled[..., 2:-2, 2:-2]


def shrink(x: Tensor, side: int) -> Tensor:
    """Return ``F.adaptive_avg_pool2d(x, side)`` of ``(B, C, H, W)``; its gradients repeat exactly if they are to."""
    down, along = x.shape[-2] / side, x.shape[-1] / side
    if down == int(down) and along == int(along):
        return F.avg_pool2d(
            x, (int(down), int(along))
        )  # the same numbers, and gradients that repeat everywhere
    return repeatable(F.adaptive_avg_pool2d, x, (side, side))


def repeatable(resize: Resize, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``resize(x, size)``, as matrix products where exact repeats are wanted of a GPU.

    PyTorch's gradients of adaptive pooling, of antialiasing and of reflection add up in any order on a GPU, and
    ``torch.use_deterministic_algorithms`` (``trainer.deterministic=true``) refuses them.

    Args:
        resize: Linear, and of rows and columns apart from each other.
        x: ``(B, C, H, W)``.
        size: Of the result.
    """
    if not (policy_of(x).matrices_repeat and torch.are_deterministic_algorithms_enabled()):
        return resize(x, size)
    rows, columns = (
        resize(torch.eye(old, dtype=x.dtype, device=x.device)[None, None], (new, old))[0, 0]
        for old, new in zip(x.shape[-2:], size, strict=True)
    )
    return rows @ x @ columns.T


def reflected(x: Tensor, border: int) -> Tensor:
    """Return ``(B, C, H, W)`` with its mirror image in a border on all sides."""

    def pad(x: Tensor, size: tuple[int, int]) -> Tensor:
        down, along = ((new - old) // 2 for new, old in zip(size, x.shape[-2:], strict=True))
        return F.pad(x, (along, along, down, down), mode="reflect")

    return repeatable(pad, x, (x.shape[-2] + 2 * border, x.shape[-1] + 2 * border))
