"""Fusion: features of the photo and of the phase-I image -> one map that says what is missing.

Every operator is a ``mix`` followed by the same 1x1 convolution, InstanceNorm and ReLU, so that exchanging
one for another changes nothing but the operator.

Letters: p are the photo's features, i those of the phase-I image (``w_image``), both ``(B, C, H, W)`` with H = W = 8;
[ , ] puts channels one after the other, * goes element by element. Both are given by keyword: swapped, a difference
would change its sign.
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

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        """Bring two maps ``(B, C, H, W)`` together; returns ``(B, mixed_channels, H, W)``."""
        raise NotImplementedError

    def forward(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        """Merge features of the photo with those of the phase-I image; all maps are ``(B, C, H, W)``."""
        # ReLU(InstanceNorm(conv1x1(mix(p, i))))
        mixed = self.get_submodule("0")(self.mix(photo=photo, w_image=w_image))
        return F.relu(instance_norm(mixed))


class ConcatFusion(Fusion):
    """Both maps, the phase-I image's first: the convolution behind can learn any linear mix (the paper's)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, mixed_channels=2 * channels)

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # [i, p]
        return torch.cat([w_image, photo], dim=1)


class AddFusion(Fusion):
    """Their sum: which map a feature came from is forgotten."""

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # p + i
        return w_image + photo


class DifferenceFusion(Fusion):
    """Photo minus phase-I image: only what phase I got wrong is seen."""

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # p - i
        return photo - w_image


class MultiplyFusion(Fusion):
    """Their product, each normalised first: positive where both have the same sign, negative where they differ."""

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # N(p) * N(i), N the InstanceNorm: early in training features are so small that their product would vanish
        # under the eps of the InstanceNorm that follows
        return instance_norm(w_image) * instance_norm(photo)


class GatedFusion(Fusion):
    """A gate read from both chooses between them, for every channel and position."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gate = nn.Conv2d(2 * channels, channels, 1)

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # g = sigmoid(conv1x1([i, p]));  g * p + (1 - g) * i
        gate = self.gate(torch.cat([w_image, photo], dim=1)).sigmoid()
        return w_image + gate * (photo - w_image)


class AttentionFusion(Fusion):
    """Every position of the photo looks at all positions of the phase-I image; what it finds is added.

    One head of scaled dot-product attention (Vaswani et al. 2017), queries from the photo, keys and values
    from the phase-I image.

    Args:
        channels: C.
        key_channels: K, width of queries and keys.
    """

    def __init__(self, channels: int, key_channels: int = 64) -> None:
        super().__init__(channels)
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1, bias=False)  # softmax would cancel a bias
        self.value = nn.Conv2d(channels, channels, 1)

    def arguments(self) -> dict[str, object]:
        return {"key_channels": self.key.out_channels}

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # p + softmax(Q(N(p)) K(N(i))^T / sqrt(K)) V(i), N the InstanceNorm: early in training features are so small
        # that attention would stay flat for long
        query = self.query(instance_norm(photo)).flatten(2).transpose(1, 2)  # (B, HW, K)
        key = self.key(instance_norm(w_image)).flatten(2)  # (B, K, HW)
        value = self.value(w_image).flatten(2).transpose(1, 2)  # (B, HW, C)
        weights = (query @ key / math.sqrt(query.shape[-1])).softmax(dim=-1)  # (B, HW, HW)
        return photo + (weights @ value).transpose(1, 2).reshape(photo.shape)  # (B, C, H, W)


class FilmFusion(Fusion):
    """The photo scales and shifts the phase-I image's features at every position (Perez et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.modulation = nn.Conv2d(channels, 2 * channels, 1)

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # [s, t] = conv1x1(p);  i * (1 + s) + t
        scale, shift = self.modulation(photo).chunk(2, dim=1)
        return w_image * (1 + scale) + shift


class PhotoOnlyFusion(Fusion):
    """The photo alone: a control that never learns what phase I already got right."""

    def mix(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        # p
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
