"""Fusion: the phase-I image's features and the photo's -> one map that says what is missing.

Every operator is a ``mix`` followed by the same 1x1 convolution, InstanceNorm and ReLU, so that exchanging
one for another changes nothing but the operator. Both maps come in, and one goes out, as ``(B, C, H, W)``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def instance_norm(x: Tensor) -> Tensor:
    """Bring every map of ``(B, C, H, W)`` to zero mean and unit variance, as ``F.instance_norm``.

    Groups of one channel are the same, in one operator instead of four; in the other layout they take much longer.
    """
    return F.group_norm(x.contiguous(), x.shape[1])


class Fusion(nn.Module):
    """``mix``, then 1x1 convolution, InstanceNorm without parameters, ReLU.

    Args:
        channels: C.
        mixed_channels: Channels that ``mix`` returns, if not C.
    """

    def __init__(self, channels: int, mixed_channels: int | None = None) -> None:
        super().__init__()
        # published files call this convolution "fusion.0"
        self.add_module("0", nn.Conv2d(mixed_channels or channels, channels, 1))

    def arguments(self) -> dict[str, object]:
        """What its class was called with besides ``channels``, as plain values."""
        return {}

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        """Bring two maps ``(B, C, H, W)`` together."""
        raise NotImplementedError

    def forward(self, initial: Tensor, photo: Tensor) -> Tensor:
        """Merge ``(B, C, H, W)`` of the phase-I image with the photo's; returns ``(B, C, H, W)``."""
        mixed = self.get_submodule("0")(self.mix(initial, photo))
        return F.relu(instance_norm(mixed))


class ConcatFusion(Fusion):
    """Both maps side by side, the phase-I image's first: any linear mix can be learnt (the paper's)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, mixed_channels=2 * channels)

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        return torch.cat([initial, photo], dim=1)


class AddFusion(Fusion):
    """Their sum: which map a feature came from is forgotten."""

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        return initial + photo


class DifferenceFusion(Fusion):
    """Photo minus phase-I image: only what phase I got wrong is seen."""

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        return photo - initial


class MultiplyFusion(Fusion):
    """Their product, each normalised first: where both agree in sign is positive, where not negative."""

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        # un-normalised, the product of two small young features would vanish under InstanceNorm's eps
        return instance_norm(initial) * instance_norm(photo)


class GatedFusion(Fusion):
    """A gate read from both chooses between them, for every channel and position."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gate = nn.Conv2d(2 * channels, channels, 1)

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        gate = self.gate(torch.cat([initial, photo], dim=1)).sigmoid()
        return initial + gate * (photo - initial)


class AttentionFusion(Fusion):
    """Every position of the photo looks over all positions of the phase-I image; what it finds is added.

    One head of scaled dot-product attention (Vaswani et al. 2017), queries from the photo, keys and values
    from the phase-I image.

    Args:
        channels: C.
        key_channels: Width of queries and keys.
    """

    def __init__(self, channels: int, key_channels: int = 64) -> None:
        super().__init__(channels)
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1, bias=False)  # a bias would move all scores alike
        self.value = nn.Conv2d(channels, channels, 1)

    def arguments(self) -> dict[str, object]:
        return {"key_channels": self.key.out_channels}

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        # normalised: young features are so small that attention would be flat for long
        query = self.query(instance_norm(photo)).flatten(2).transpose(1, 2)  # (B, HW, K)
        key = self.key(instance_norm(initial)).flatten(2)  # (B, K, HW)
        value = self.value(initial).flatten(2).transpose(1, 2)  # (B, HW, C)
        weights = (query @ key / math.sqrt(query.shape[-1])).softmax(dim=-1)
        return photo + (weights @ value).transpose(1, 2).reshape(photo.shape)


class FilmFusion(Fusion):
    """The photo scales and shifts the phase-I image's features at every position (Perez et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.modulation = nn.Conv2d(channels, 2 * channels, 1)

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        scale, shift = self.modulation(photo).chunk(2, dim=1)
        return initial * (1 + scale) + shift


class PhotoOnlyFusion(Fusion):
    """The photo alone: a control that never learns what phase I already got right."""

    def mix(self, initial: Tensor, photo: Tensor) -> Tensor:
        return photo


FUSIONS: dict[str, type[Fusion]] = {
    kind.__name__: kind
    for kind in (
        ConcatFusion,
        AddFusion,
        DifferenceFusion,
        MultiplyFusion,
        GatedFusion,
        AttentionFusion,
        FilmFusion,
        PhotoOnlyFusion,
    )
}
