"""StyleGAN2's discriminator, with the tensor names of the StyleGAN2-ADA files (FIR filters not stored)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.networks.generator import GeneratorConfig
from hyperinverter.networks.layers import EqualLinear
from hyperinverter.ops.activation import SLOPE
from hyperinverter.ops.convolution import conv2d
from hyperinverter.ops.precision import at_least_float32
from hyperinverter.ops.resample import fir_filter, fir_kernel


class DiscriminatorConv(nn.Module):
    """Equalised convolution, optionally halving the size behind the FIR filter.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel, 1 or 3.
        down: Halve the size.
        bias: Add a bias.
        gain: Factor of the result; None leaves out the activation too and scales by sqrt(0.5).
        clamp: Largest absolute value, None for no limit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        down: bool = False,
        bias: bool = True,
        gain: float | None = math.sqrt(2),
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.down, self.gain, self.clamp = down, gain, clamp
        self.weight_gain = 1 / math.sqrt(in_channels * kernel**2)
        self.fir: Tensor
        self.register_buffer("fir", fir_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        pad = weight.shape[-1] // 2
        if self.down and weight.shape[-1] == 1:
            x = conv2d(fir_filter(x, self.fir, padding=1, stride=2), weight)
        elif self.down:
            x = conv2d(fir_filter(x, self.fir, padding=2), weight, stride=2)
        else:
            x = conv2d(x, weight, padding=pad)
        if self.gain is None:
            return x * math.sqrt(0.5)
        if self.bias is not None:
            x = x + self.bias[:, None, None].to(x.dtype)
        x = F.leaky_relu(x, SLOPE) * self.gain
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class DiscriminatorBlock(nn.Module):
    """Residual block of one resolution; the first one reads the image."""

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        here, below, clamp = config.channels(resolution), config.channels(resolution // 2), config.conv_clamp
        if resolution == config.img_resolution:
            self.fromrgb = DiscriminatorConv(config.img_channels, here, 1, clamp=clamp)
        self.conv0 = DiscriminatorConv(here, here, 3, clamp=clamp)
        branch_clamp = None if clamp is None else clamp * math.sqrt(0.5)
        self.conv1 = DiscriminatorConv(here, below, 3, down=True, gain=1.0, clamp=branch_clamp)
        self.skip = DiscriminatorConv(here, below, 1, down=True, bias=False, gain=None)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        return self.skip(x) + self.conv1(self.conv0(x))


class DiscriminatorEpilogue(nn.Module):
    """4x4 features -> one logit, with the spread inside the minibatch as an extra channel."""

    def __init__(self, config: GeneratorConfig, group_size: int | None) -> None:
        super().__init__()
        channels = config.channels(4)
        self.group_size = group_size
        self.conv = DiscriminatorConv(channels + 1, channels, 3, clamp=config.conv_clamp)
        self.fc = EqualLinear(channels * 16, channels, activate=True)
        self.out = EqualLinear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self._spread(x)], dim=1)
        return self.out(self.fc(self.conv(x).flatten(1)))

    def _spread(self, x: Tensor) -> Tensor:
        """Mean standard deviation inside groups of images, as one channel (Karras et al. 2018, sec. 3)."""
        batch, _, height, width = x.shape
        # The largest group that divides the batch: the last batch of an epoch may have any size.
        largest = min(self.group_size or batch, batch)
        group = next(g for g in range(largest, 0, -1) if batch % g == 0)
        y = at_least_float32(x).reshape(group, batch // group, *x.shape[1:])
        y = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (B / group,)
        return y.repeat(group).view(batch, 1, 1, 1).expand(-1, -1, height, width).to(x.dtype)


class Discriminator(nn.Module):
    """Image -> realness.

    Args:
        config: The generator's configuration; the discriminator has the same widths.
        group_size: Images per group of the minibatch statistic (4 in the config-f files); None for all.
    """

    def __init__(self, config: GeneratorConfig, group_size: int | None = 4) -> None:
        super().__init__()
        self.config = config
        self.resolutions = config.resolutions[:0:-1]  # R, R/2, ..., 8
        for resolution in self.resolutions:
            self.add_module(f"b{resolution}", DiscriminatorBlock(config, resolution))
        self.b4 = DiscriminatorEpilogue(config, group_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB ``(B, 3, R, R)`` in [-1, 1] to raw logits ``(B, 1)``, high for real."""
        x = image.contiguous(memory_format=torch.channels_last)
        for resolution in self.resolutions:
            x = self.get_submodule(f"b{resolution}")(x)
        return self.b4(x)
