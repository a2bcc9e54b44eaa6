"""The parts of StyleGAN2's generator: its shapes, the mapping network and the layers that w modulates.

Letters in shapes as in ``networks.generator``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from hyperinverter.networks.layers import EqualLinear
from hyperinverter.ops.activation import GAIN
from hyperinverter.ops.factored import FactoredResidual, Residual, delta_conv2d, residual_conv2d
from hyperinverter.ops.finishing import finish
from hyperinverter.ops.modconv import modulated_conv2d
from hyperinverter.ops.policy import policy_of
from hyperinverter.ops.resample import fir_kernel


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything that fixes the shapes of a generator."""

    z_dim: int = 512
    w_dim: int = 512
    img_resolution: int = 1024
    img_channels: int = 3
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    channel_base: int = 32768
    channel_max: int = 512
    conv_clamp: float | None = None
    widths: tuple[int, ...] | None = None  # of the blocks 4, 8, ...; None: by base and max

    def __post_init__(self) -> None:
        if self.img_resolution < 8 or self.img_resolution & (self.img_resolution - 1):
            raise ValueError(
                f"img_resolution must be a power of two of at least 8, got {self.img_resolution}"
            )
        if self.img_resolution > 8192 or not 1 <= self.mapping_layers <= 64:  # a file may say anything
            raise ValueError(
                f"no generator has {self.img_resolution} px and {self.mapping_layers} mapping layers"
            )
        if self.widths is not None:
            object.__setattr__(self, "widths", tuple(self.widths))  # a list, if it comes from a file
            if len(self.widths) != len(self.resolutions):
                raise ValueError(f"widths must name {len(self.resolutions)} blocks, got {len(self.widths)}")

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ..., ``img_resolution``."""
        return [2**k for k in range(2, int(math.log2(self.img_resolution)) + 1)]

    def channels(self, resolution: int) -> int:
        """Width of the block of this resolution."""
        if self.widths is not None:
            return self.widths[self.resolutions.index(resolution)]
        return min(self.channel_base // resolution, self.channel_max)

    def same_network(self, other: GeneratorConfig) -> bool:
        """Whether both describe the same network, however they say its widths."""

        def plain(config: GeneratorConfig) -> dict[str, object]:
            named = [config.channels(resolution) for resolution in config.resolutions]
            return asdict(config) | {"channel_base": 0, "channel_max": 0, "widths": named}

        return plain(self) == plain(other)

    @property
    def num_ws(self) -> int:
        """Number of style layers, ``2 log2(R) - 2``."""
        return 2 * len(self.resolutions)


class MappingNetwork(nn.Module):
    """z -> w, with the running mean of w as ``w_avg``."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.num_layers = config.mapping_layers
        self.num_ws, self.z_dim = config.num_ws, config.z_dim
        for i in range(self.num_layers):
            width = config.z_dim if i == 0 else config.w_dim
            layer = EqualLinear(
                width, config.w_dim, activate=True, lr_multiplier=config.mapping_lr_multiplier
            )
            self.add_module(f"fc{i}", layer)
        self.w_avg: Tensor
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """Map ``z`` ``(B, Z)`` to the same w for every style layer, ``(B, L, D)``.

        Raises:
            ValueError: For another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"expected z (B, {self.z_dim}), got {tuple(z.shape)}")
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        if truncation_psi != 1:
            x = self.w_avg.lerp(x, truncation_psi)
        return x[:, None].expand(-1, self.num_ws, -1)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU; with ``up`` it doubles the size."""

    def __init__(self, config: GeneratorConfig, in_channels: int, resolution: int, up: bool) -> None:
        super().__init__()
        out_channels = config.channels(resolution)
        self.up, self.clamp = up, config.conv_clamp
        self.affine = EqualLinear(config.w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.noise_const: Tensor
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.fir: Tensor
        self.register_buffer("fir", fir_kernel(gain=4.0), persistent=False)
        self.features: (
            Tensor | None
        )  # a feature residual of one photo, ``(1, O, H, W)``: see ``with_residuals``
        self.register_buffer("features", None, persistent=False)

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        delta: Residual | None,
        affine_delta: Tensor | None,
        noise_mode: str,
        style_shift: Tensor | None = None,
        added_noise: Tensor | None = None,
    ) -> Tensor:
        style = self.affine(w, affine_delta, style_shift)
        factor: Tensor | None
        if isinstance(delta, FactoredResidual):
            x, factor = residual_conv2d(x, self.weight, delta, style, up=self.up, gain=GAIN)
        elif delta is not None:
            x, factor = delta_conv2d(x, self.weight, delta, style, up=self.up, gain=GAIN)
        else:
            x, factor = modulated_conv2d(x, self.weight, style, up=self.up, gain=GAIN)
        noise: Tensor | None = None
        if noise_mode == "const":
            noise = self.noise_const
        elif noise_mode == "random":
            noise = torch.randn(len(x), *self.noise_const.shape, device=x.device)
        strength: Tensor = self.noise_strength
        if added_noise is not None:
            noise, strength = self.with_noise(
                torch.zeros_like(added_noise) if noise is None else noise, added_noise
            )
        fir = self.fir if self.up else None
        return finish(x, fir, factor, self.bias, noise, strength, self.clamp)

    def with_noise(self, noise: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and strength whose product is larger by ``added`` than that of ``noise`` and the stored strength.

        Args:
            noise: ``(H, W)`` or ``(B, H, W)``.
            added: Likewise.

        Returns:
            The noise, and the stored strength, or 1 where that is 0. With zeros the product is the same bit for bit.
        """
        strength: Tensor = self.noise_strength
        silent = strength == 0  # not looked at on the host: a GPU would be waited for
        strength = torch.where(silent, 1, strength)
        return torch.where(silent, 0, noise) + added / strength, strength


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, without demodulation."""

    def __init__(self, config: GeneratorConfig, in_channels: int) -> None:
        super().__init__()
        self.clamp = config.conv_clamp
        self.affine = EqualLinear(config.w_dim, in_channels, bias_init=1.0, gain=1 / math.sqrt(in_channels))
        self.weight = nn.Parameter(torch.randn(config.img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.img_channels))

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        delta: Tensor | None,
        affine_delta: Tensor | None,
        style_shift: Tensor | None = None,
    ) -> Tensor:
        style = self.affine(w, affine_delta, style_shift)
        weight = (self.weight if delta is None else self.weight + delta).flatten(-3)  # (..., 3, C)
        # One matrix product per sample in x's layout: in the other, the gradient makes each pass 4 times slower. (For
        # narrow maps without gradients the other is faster, but whether gradients are wanted should not change images.)
        mixing, bias = (weight * style[:, None]).to(x.dtype), self.bias.to(x.dtype)
        if x.is_contiguous(memory_format=torch.channels_last):
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, C)
            parts = _parts(pixels)
            mixing = mixing.repeat_interleave(parts, dim=0) if parts > 1 else mixing
            pixels = pixels.reshape(len(x) * parts, -1, x.shape[1])
            colours = torch.baddbmm(bias, pixels, mixing.transpose(1, 2))
            colours = colours.view(len(x), -1, len(bias)).transpose(1, 2)
        else:
            colours = torch.baddbmm(bias[:, None], mixing, x.flatten(2))
        image = colours.unflatten(2, x.shape[2:])
        return image if self.clamp is None else image.clamp(-self.clamp, self.clamp)


def _parts(pixels: Tensor) -> int:
    """Into how many parts the policy cuts the pixels ``(B, P, C)`` of each sample."""
    most = policy_of(pixels).colour_pixels
    count = 1 if most is None else max(1, pixels.shape[1] // most)
    return count if pixels.shape[1] % count == 0 else 1


class Block(nn.Module):
    """One resolution of the synthesis network."""

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        channels = config.channels(resolution)
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(torch.randn(channels, 4, 4))
        else:
            self.conv0 = StyledConv(config, config.channels(resolution // 2), resolution, up=True)
        self.conv1 = StyledConv(config, channels, resolution, up=False)
        self.torgb = ToRGB(config, channels)
