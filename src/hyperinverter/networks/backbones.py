"""Image -> feature maps at three scales: IR-SE-50 and ResNet-34 as in the paper, and a small one.

Every backbone has ``input_size`` (the side of the square it expects), ``channels`` and ``strides`` (of its
three taps) and returns ``(c1, c2, c3)``, finest first. The two large ones carry the tensor names
of their published weight files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.ops.policy import fast_layout
from hyperinverter.ops.winograd import Conv3x3

Taps = tuple[Tensor, Tensor, Tensor]


class Backbone(nn.Module):
    """What encoders need to know about a backbone."""

    input_size: int
    channels: tuple[int, int, int]
    strides: tuple[int, int, int]

    def arguments(self) -> dict[str, object]:
        """What its class was called with, as plain values: with the class's name, enough to build it again."""
        return {}

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sides of the three feature maps."""
        c1, c2, c3 = self.strides
        return self.input_size // c1, self.input_size // c2, self.input_size // c3

    def forward(self, x: Tensor) -> Taps:
        """Turn RGB ``(B, 3, S, S)`` in [-1, 1], S = ``input_size``, into three maps.

        Their shapes are ``(B, channels[i], sizes[i], sizes[i])``.
        """
        raise NotImplementedError


def _through(body: nn.ModuleList, x: Tensor, taps: tuple[int, int, int]) -> Taps:
    """Run ``x`` through ``body`` and keep what comes out of the three units in ``taps``."""
    x = fast_layout(x)  # 2 to 5 % of a training step
    kept = []
    for index, unit in enumerate(body):
        x = unit(x)
        if index in taps:
            kept.append(x)
    c1, c2, c3 = kept
    return c1, c2, c3


class _SqueezeExcite(nn.Module):
    """Scale every channel by a number in (0, 1) read from all channel means (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return x * scale.sigmoid()


class _IRSEUnit(nn.Module):
    """Residual unit of ArcFace's IR-SE networks (Deng et al. 2019): no activation after the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = (
            None
            if in_channels == channels
            else nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            Conv3x3(in_channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            Conv3x3(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            _SqueezeExcite(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut_layer is None:
            shortcut = x[:, :, :: self.stride, :: self.stride]
        else:
            shortcut = self.shortcut_layer(x)
        return self.res_layer(x) + shortcut


class IRSE50(Backbone):
    """IR-SE-50, the face recognition network the paper starts its face encoders from.

    The first unit of every stage halves the side, the first stage included.
    """

    input_size = 256
    channels = (128, 256, 512)
    strides = (4, 8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            Conv3x3(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        units, width = [], 64
        for channels, count in ((64, 3), (128, 4), (256, 14), (512, 3)):
            for index in range(count):
                units.append(_IRSEUnit(width, channels, stride=2 if index == 0 else 1))
                width = channels
        self.body = nn.ModuleList(units)

    def forward(self, x: Tensor) -> Taps:
        return _through(self.body, self.input_layer(x), taps=(6, 20, 23))


class _BasicUnit(nn.Module):
    """Residual unit of ResNet-18 and -34 (He et al. 2016), named as in torchvision."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv3x3(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            None
            if stride == 1 and in_channels == channels
            else nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet34(Backbone):
    """ResNet-34 as the paper uses it: a PReLU in the stem and no max-pool, so taps are twice as fine.

    ``body`` counts all units through; torchvision's ``layer1`` is ``body.0`` to ``body.2`` and so on.
    """

    input_size = 256
    channels = (128, 256, 512)
    strides = (4, 8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.PReLU(64)
        units, width = [], 64
        for channels, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(count):
                units.append(_BasicUnit(width, channels, stride if index == 0 else 1))
                width = channels
        self.body = nn.ModuleList(units)

    def forward(self, x: Tensor) -> Taps:
        return _through(self.body, self.relu(self.bn1(self.conv1(x))), taps=(6, 12, 15))


class _TinyUnit(nn.Module):
    """Residual unit with normalisation and activation before each convolution (He et al. 2016b)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = Conv3x3(in_channels, channels, 3, stride, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = Conv3x3(channels, channels, 3, 1, 1)
        self.skip = None if in_channels == channels else nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.stride == 1 else F.avg_pool2d(x, self.stride)
        if self.skip is not None:
            shortcut = self.skip(shortcut)
        x = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(x))) + shortcut


class TinyBackbone(Backbone):
    """A residual network for 64-pixel faces on a CPU: 0.19 GMAC per image at the default widths.

    GroupNorm instead of BatchNorm: an image's features never depend on its batch or on what was seen before,
    photos and phase-I images can share one pass, and on a CPU it costs no more (measured: 75 ms for
    either, 16 images on one thread).

    Args:
        widths: Channels of the three taps, multiples of 8.
        units: Number of residual units at each scale.
    """

    input_size = 64
    strides = (2, 4, 8)

    def __init__(
        self, widths: tuple[int, int, int] = (48, 96, 192), units: tuple[int, int, int] = (1, 2, 2)
    ) -> None:
        super().__init__()
        if len(widths) != 3 or len(units) != 3 or not all(1 <= count <= 100 for count in units):
            raise ValueError(
                f"a backbone has three widths and 1 to 100 units at each, got {widths} and {units}"
            )
        self.channels = (widths[0], widths[1], widths[2])
        self.units = (units[0], units[1], units[2])
        self.stem = nn.Conv2d(3, widths[0], 4, 2, 1)
        body, width = [], widths[0]
        for stage, (channels, count) in enumerate(zip(widths, units, strict=True)):
            for index in range(count):
                body.append(_TinyUnit(width, channels, stride=2 if stage > 0 and index == 0 else 1))
                width = channels
        self.body = nn.ModuleList(body)
        self._taps = (units[0] - 1, units[0] + units[1] - 1, sum(units) - 1)

    def arguments(self) -> dict[str, object]:
        return {"widths": list(self.channels), "units": list(self.units)}

    def forward(self, x: Tensor) -> Taps:
        return _through(self.body, self.stem(x), self._taps)


BACKBONES: dict[str, type[Backbone]] = {kind.__name__: kind for kind in (IRSE50, ResNet34, TinyBackbone)}


def widen_input(backbone: Backbone, channels: int) -> None:
    """Let a backbone read several images at once: its first convolution keeps its weights for the first (ReStyle).

    The others begin near zero, so that a backbone that has learnt to look at photos still sees one.

    Args:
        backbone: Reads three channels; changed in place.
        channels: That it is to read.

    Raises:
        ValueError: If it reads another number of channels.
    """
    name, old = next((n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    if old.in_channels != 3:
        raise ValueError(f"expected a backbone that reads three channels, got {old.in_channels}")
    kernel, stride, padding = old.kernel_size[0], old.stride[0], old.padding[0]
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=old.bias is not None)
    with torch.no_grad():
        new.weight[:, 3:].mul_(0.1)
        new.weight[:, :3].copy_(old.weight)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    owner, _, last = name.rpartition(".")
    setattr(backbone.get_submodule(owner), last, new)


def for_widened(weights: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of a backbone of three channels, for one that may have been widened: the others stay as they are."""
    found, own = dict(weights), backbone.state_dict()
    for name, old in weights.items():
        wide = own.get(name)
        if wide is None or old.ndim != 4 or wide.ndim != 4 or not wide.shape[1] > old.shape[1] == 3:
            continue
        if old.shape[::2] == wide.shape[::2] and old.shape[3] == wide.shape[3]:
            found[name] = torch.cat([old.to(wide), wide[:, 3:]], dim=1)
    return found
