"""Encoders to W+, one code per style layer: pSp, and e4e, whose codes stay near W.

Richardson et al. 2021, "Encoding in Style"; Tov et al. 2021, "Designing an Encoder for StyleGAN Image Manipulation".
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hyperinverter.networks.backbones import Backbone, widen_input
from hyperinverter.networks.encoders import FEATURE_SIZE, FeatureEncoder
from hyperinverter.networks.layers import EqualLinear

Head = Literal["pool", "flatten"]
Method = Literal["psp", "e4e", "restyle"]
METHODS: tuple[Method, ...] = get_args(Method)


class WPlusEncoder(nn.Module):
    """Photo -> one code per style layer, as offsets from the generator's mean w.

    Args:
        backbone: Its three taps make the pyramid.
        w_dim: Width of w.
        num_ws: L, number of style layers.
        method: "psp": L offsets that know nothing of each other. "e4e": the first is the code of all layers, the others
            are deltas to it, of which the first ``stage`` are in use. "restyle": as pSp, on six channels: the photo and
            what was drawn so far.
        head: How a map becomes a code. "pool": strided convolutions down to one position, as published. "flatten": one
            weight per channel and position, for small maps of small backbones.
        channels: C, of the pyramid. 512 in both papers.
        from_mean: Whether codes are offsets from the mean w, as in both papers.

    Raises:
        ValueError: For an unknown ``method`` or ``head``.
    """

    stage: Tensor

    def __init__(
        self,
        backbone: Backbone,
        w_dim: int,
        num_ws: int,
        method: Method = "psp",
        head: Head = "pool",
        channels: int = 512,
        from_mean: bool = True,
    ) -> None:
        super().__init__()
        if method not in METHODS or head not in get_args(Head):
            raise ValueError(
                f"method is one of {', '.join(METHODS)} and head is pool or flatten, got {method!r} and {head!r}"
            )
        self.method, self.head, self.from_mean = method, head, from_mean
        self.channels, self.num_ws = channels, num_ws
        if method == "restyle":
            widen_input(backbone, 6)
        self.features = FeatureEncoder(backbone, num_ws, channels)
        self.heads = nn.ModuleList([_head(channels, w_dim, head) for _ in range(num_ws)])
        # Deltas in use; a checkpoint of an unfinished training keeps it.
        self.register_buffer("stage", torch.tensor(num_ws - 1))

    @property
    def backbone(self) -> Backbone:
        """The network under the pyramid."""
        return self.features.backbone

    def forward(self, photo: Tensor) -> Tensor:
        """Encode RGB ``(B, 3, H, W)`` in [-1, 1], any size; returns offsets from the mean w or codes, ``(B, L, D)``.

        For ReStyle ``(B, 6, H, W)``: the photo, then the image so far; returns a step of the codes.
        """
        maps = self.features(photo).unbind(1)  # L times (B, C, 8, 8)
        offsets = torch.stack([head(x) for head, x in zip(self.heads, maps, strict=True)], dim=1)
        if self.method != "e4e":
            return offsets
        # Multiplied, not left out: every delta then has a gradient, which DDP waits for, and no device is asked.
        in_use = torch.arange(self.num_ws, device=offsets.device) <= self.stage
        first = offsets[:, :1]
        return first + torch.cat([torch.zeros_like(first), offsets[:, 1:]], dim=1) * in_use.view(1, -1, 1)


def _head(channels: int, w_dim: int, head: Head) -> nn.Module:
    if head == "flatten":
        return nn.Sequential(nn.Flatten(), EqualLinear(channels * FEATURE_SIZE**2, w_dim))
    layers: list[nn.Module] = []
    for _ in range(3):  # 8 -> 4 -> 2 -> 1: what a style block of pSp does after the 8x8 map
        layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), EqualLinear(channels, w_dim))


class LatentDiscriminator(nn.Module):
    """Tells codes of the mapping network from those of an encoder (Tov et al. 2021): one code, one number.

    Args:
        w_dim: Width of w, and of the three hidden layers.
        pool: Codes of either kind that are kept, so that it judges the encoder's past as well.
    """

    real: Tensor
    fake: Tensor
    filled: Tensor

    def __init__(self, w_dim: int, pool: int = 50) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Linear(w_dim, w_dim), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Linear(w_dim, 1))
        self.register_buffer("real", torch.zeros(pool, w_dim))
        self.register_buffer("fake", torch.zeros(pool, w_dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, w: Tensor) -> Tensor:
        """Logits ``(...,)`` of codes ``(..., D)``: high for codes of the mapping network."""
        return self.net(w).squeeze(-1)

    @torch.no_grad()
    def pooled(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange codes ``(B, D)`` with the pools: half of them for stored ones, once the pools are full.

        Nothing here looks at numbers on the device: places are drawn, and while the pool fills they are the next ones.
        """
        size, count = len(self.real), len(real)
        places = torch.randperm(size, device=real.device).repeat(-(-count // size))[:count]
        next_ones = (self.filled + torch.arange(count, device=real.device)) % size
        filling = self.filled + torch.arange(count, device=real.device) < size
        places = torch.where(filling, next_ones, places)
        exchanged = (torch.rand(count, device=real.device) < 0.5) & ~filling
        given = []
        for pool, codes in ((self.real, real), (self.fake, fake)):
            stored = pool[places]
            pool[places] = torch.where((exchanged | filling)[:, None], codes, stored)
            given.append(torch.where(exchanged[:, None], stored, codes))
        self.filled += count
        return given[0], given[1]
