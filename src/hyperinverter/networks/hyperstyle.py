"""HyperStyle's hypernetwork: photo and current image -> relative changes of the generator's kernels.

Alaluf et al. 2022, "HyperStyle", section 3.2. One encoder reads both images at once; one change is predicted for each
pair of an output and an input channel. At 1024 px with ResNet-34 and the 17 convolutions it has 332 M parameters.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperinverter.contracts import KernelSpec
from hyperinverter.networks.backbones import Backbone, widen_input
from hyperinverter.networks.layers import EqualLinear

_SLOPE = 0.01  # of the leaky ReLUs


class OwnHead(nn.Module):
    """Feature map -> the change of one kernel, the same for all its taps.

    Args:
        shape: Of the kernel, (O, I, ...).
        channels: C of the feature map.
        side: Of the feature map. Strided convolutions bring it to 2, and their mean is read; of one more step for torgb
            there is no mean to take.
    """

    def __init__(self, shape: tuple[int, ...], channels: int, side: int) -> None:
        super().__init__()
        self.shape = shape
        narrow = max(channels // 2, 1)
        steps = max(int(math.log2(side)) - 1, 1)  # 16 -> 8 -> 4 -> 2
        widths = [channels, *[narrow] * (steps - 1), channels]
        self.net = nn.Sequential(*_strided(widths))
        self.out = nn.Conv2d(channels, shape[0] * shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, S, S)`` -> ``(B, O, I, 1, ...)``, to be broadcast over the taps."""
        delta = self.out(self.net(x).mean((2, 3), keepdim=True))
        return delta.view(len(x), *self.shape[:2], *[1] * (len(self.shape) - 2))


class SharedHead(nn.Module):
    """Feature map -> a vector z for the hypernetwork that layers of equal shape share.

    Args:
        channels: C of the feature map.
        side: Of the feature map; strided convolutions bring it to 1.
        hidden_dim: Width of z.
    """

    def __init__(self, channels: int, side: int, hidden_dim: int) -> None:
        super().__init__()
        narrow = max(channels // 4, 1)
        steps = max(int(math.log2(side)), 1)
        self.net = nn.Sequential(
            nn.Conv2d(channels, narrow, 3, 1, 1),
            nn.LeakyReLU(_SLOPE),
            *_strided([narrow] * steps + [channels]),
        )
        self.linear = EqualLinear(channels, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, S, S)`` -> ``(B, Z)``."""
        return self.linear(self.net(x).flatten(1))


class CommonHypernet(nn.Module):
    """z -> a kernel of changes: two matrices for all layers of one shape (Ha et al. 2017).

    Args:
        shape: (O, I, k, k) of every such layer.
        hidden_dim: Width of z and of the rows between the matrices.
    """

    def __init__(self, shape: tuple[int, ...], hidden_dim: int) -> None:
        super().__init__()
        self.shape, self.hidden_dim = shape, hidden_dim
        rows, columns = shape[0], math.prod(shape[1:])
        self.w2 = nn.Parameter(torch.randn(hidden_dim, rows * hidden_dim) / 40)
        self.b2 = nn.Parameter(torch.randn(rows * hidden_dim) / 40)
        self.w1 = nn.Parameter(torch.randn(hidden_dim, columns) / 40)
        self.b1 = nn.Parameter(torch.randn(columns) / 40)

    def forward(self, z: Tensor) -> Tensor:
        """``(B, Z)`` -> ``(B, O, I, k, k)``."""
        rows = torch.addmm(self.b2, z, self.w2).view(len(z), self.shape[0], self.hidden_dim)
        return (rows @ self.w1 + self.b1).view(len(z), *self.shape)


class HyperStyleNetwork(nn.Module):
    """Photo and current image -> the change d of every kernel, used as theta (1 + d).

    The widest square kernels of one shape share a hypernetwork; every other kernel has a head of its own.

    Args:
        kernels: Which kernels change; in the paper all convolutions (``coverage=convs``).
        backbone: Its coarsest map is read; it is given six channels.
        hidden_dim: Width of z; 512 in the paper.
        scale: Factor of all changes; 1 in the paper. Smaller ones allow larger learning rates, as ``residual_scale``
            does.

    Raises:
        ValueError: Without kernels, for two of one name, or for a scale that is not above 0.
    """

    def __init__(
        self,
        kernels: Sequence[KernelSpec],
        backbone: Backbone,
        hidden_dim: int = 512,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not kernels or len({spec.name for spec in kernels}) < len(kernels):
            raise ValueError("HyperStyle needs kernels, each named once")
        if not 0 < scale < math.inf or hidden_dim < 1:
            raise ValueError(f"scale and hidden_dim must be above 0, got {scale} and {hidden_dim}")
        self.kernels, self.hidden_dim, self.scale = list(kernels), hidden_dim, scale
        widen_input(backbone, 6)
        self.backbone = backbone
        channels, side = backbone.channels[-1], backbone.sizes[-1]
        shape = shared_shape(kernels)
        self.common = None if shape is None else CommonHypernet(shape, hidden_dim)
        self.heads = nn.ModuleDict(
            {
                spec.name.replace(".", "_"): SharedHead(channels, side, hidden_dim)
                if spec.shape == shape
                else OwnHead(spec.shape, channels, side)
                for spec in kernels
            }
        )

    def forward(self, both: Tensor) -> dict[str, Tensor]:
        """Predict all changes.

        Args:
            both: Photo and current image, ``(B, 6, S, S)`` in [-1, 1], S = ``backbone.input_size``.

        Returns:
            ``KernelSpec.name`` -> ``(B, O, I, k, k)``, or ``(B, O, I, 1, 1)`` for one change of all taps.
        """
        features = self.backbone(both)[-1]
        found = {}
        for spec, head in zip(self.kernels, self.heads.values(), strict=True):
            change = head(features)
            if isinstance(head, SharedHead):
                assert self.common is not None
                change = self.common(change)
            found[spec.name] = self.scale * change
        return found


def shared_shape(kernels: Sequence[KernelSpec]) -> tuple[int, ...] | None:
    """The shape of the widest square 3x3 kernels if there are several of it; at 1024 px (512, 512, 3, 3)."""
    square = Counter(
        s.shape for s in kernels if len(s.shape) == 4 and s.shape[0] == s.shape[1] and s.shape[2] > 1
    )
    several = [shape for shape, count in square.items() if count > 1]
    return max(several, default=None)


def _strided(widths: Sequence[int]) -> list[nn.Module]:
    """Convolutions from each width to the next; each halves the side."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(_SLOPE)]
    return layers
