"""Encoders: a photo -> w (phase I), an image -> one feature map per style layer (phase II)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hyperinverter.networks.backbones import Backbone, Taps, widen_input
from hyperinverter.networks.layers import EqualLinear
from hyperinverter.ops.precision import no_autocast

FEATURE_SIZE = 8  # side of every feature map the hypernetwork reads
Heads = Literal["layer", "resolution", "level"]
Initial = Literal["full", "half", "quarter", "joint"]
HEADS: tuple[Heads, ...] = get_args(Heads)
INITIAL: tuple[Initial, ...] = get_args(Initial)
_DIVIDED = {"half": 2, "quarter": 4}  # the side of the phase-I image


def resize(image: Tensor, size: int) -> Tensor:
    """Resize ``(B, C, H, W)`` to a square, bilinear and without antialiasing: what published encoders saw."""
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


class WEncoder(nn.Module):
    """Photo -> w, usually as an offset from the generator's mean w (HyperInverter's phase I).

    Args:
        backbone: Its coarsest map is read.
        w_dim: Width of w.
        head: "pool" averages the map over all positions (the paper's); "flatten" keeps the layout, one weight
            per channel and position, which a small map of a small backbone needs: what is left of a face's
            pose and outline at 8x8 is in the positions.
        from_mean: Whether it gives offsets from the generator's mean w, as in the paper, or w itself
            (``start_from_latent_avg`` of other repositories).
    """

    def __init__(
        self,
        backbone: Backbone,
        w_dim: int,
        head: Literal["pool", "flatten"] = "pool",
        from_mean: bool = True,
    ) -> None:
        super().__init__()
        if head not in ("pool", "flatten"):
            raise ValueError(f"head must be pool or flatten, got {head!r}")
        self.method, self.channels = "w", None  # what encoders to W+ have
        self.backbone = backbone
        self.head, self.from_mean = head, from_mean
        positions = 1 if head == "pool" else backbone.sizes[2] ** 2
        self.linear = EqualLinear(backbone.channels[2] * positions, w_dim)

    def forward(self, photo: Tensor) -> Tensor:
        """Encode RGB ``(B, 3, H, W)`` in [-1, 1], any size; returns ``w - w_avg`` or w, ``(B, D)``."""
        features = self.backbone(resize(photo, self.backbone.input_size))[2]
        features = features.mean(dim=(2, 3)) if self.head == "pool" else features.flatten(1)
        return self.linear(features)


class _StyleBlock(nn.Module):
    """Halve a map with 3x3 convolutions until it is 8x8; one convolution without a stride if it is 8x8 already."""

    def __init__(self, in_channels: int, channels: int, size: int) -> None:
        super().__init__()
        halvings = int(math.log2(size // FEATURE_SIZE))
        layers: list[nn.Module] = []
        for _ in range(max(halvings, 1)):
            # in place: its gradient needs only the sign of the result
            layers += [
                nn.Conv2d(in_channels, channels, 3, 2 if halvings else 1, 1),
                nn.LeakyReLU(0.01, inplace=True),
            ]
            in_channels = channels
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class FeatureEncoder(nn.Module):
    """Image -> one feature map per style layer: backbone, feature pyramid, style blocks.

    Richardson et al. 2021 (pSp) without its final linear layers; HyperInverter's phase-II encoder, called
    once on the photo and once on the phase-I image. Style layers 0-2 read the coarsest level of the pyramid,
    3-6 the middle one, the others the finest.

    Args:
        backbone: Shared by all levels.
        num_styles: L, ``generator.num_ws``.
        channels: C, of every feature map. The paper's is 512.
        used: Style layers that are read (``HyperNetwork.used_styles``). Only these get a block; the maps of the
            others are zero. None means all.
        sides: Sides of the generator's maps that feature residuals are wanted for: the level of the pyramid whose side
            is closest is kept for each (see ``read``).
        heads: "layer": one block per style layer, the paper's. "resolution": the two layers of one resolution of
            the generator share a block, at the pyramid level of the first. "level": all layers of a level do.
        initial: How the phase-I image is read: "full", at the photo's size and with the same weights, the paper's;
            "half" or "quarter" of the side for a quarter or a sixteenth of the arithmetic. It was drawn from one
            vector w, so most of its detail comes from the generator, not from the photo. "joint": photo, phase-I image
            and their difference in one pass of nine channels (as HyperStyle reads six), for half of the arithmetic;
            the backbone is widened in place.

    Raises:
        ValueError: For style layers that do not exist, or unknown ``heads`` or ``initial``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_styles: int,
        channels: int = 512,
        used: Iterable[int] | None = None,
        heads: Heads = "layer",
        initial: Initial = "full",
        sides: Iterable[int] = (),
    ) -> None:
        super().__init__()
        if heads not in HEADS:
            raise ValueError(f"heads must be one of {', '.join(HEADS)}, got {heads!r}")
        if initial not in INITIAL:
            raise ValueError(f"initial must be one of {', '.join(INITIAL)}, got {initial!r}")
        if initial == "joint":
            widen_input(backbone, 9)
        self.backbone = backbone
        self.heads, self.initial = heads, initial
        self.num_styles, self.channels = num_styles, channels
        self.checkpointing = (
            False  # compute the style blocks again in the backward pass; the backbone may hold BatchNorm
        )
        indices = sorted(set(range(num_styles) if used is None else used))
        self._kept = {side: self._closest(side) for side in sides}  # side of a map -> level
        if not (indices or self._kept) or any(not 0 <= index < num_styles for index in indices):
            raise ValueError(f"used must name style layers 0 to {num_styles - 1}, got {indices}")
        fine, middle, coarse = backbone.channels
        self._head = {index: self._head_of(index) for index in indices}
        blocks = sorted(set(self._head.values()))
        # Levels below the finest in use are not built.
        finest = min([self._level(index) for index in blocks] + [*self._kept.values()])
        # The paper's coarsest map is as wide as its pyramid; a smaller backbone's is brought to that width.
        self.toplayer = None if coarse == channels else nn.Conv2d(coarse, channels, 1)
        self.latlayer1 = nn.Conv2d(middle, channels, 1) if finest <= 1 else None
        self.latlayer2 = nn.Conv2d(fine, channels, 1) if finest <= 0 else None
        sizes = backbone.sizes
        # A dictionary, as indices may be missing; its tensor names are those of a list.
        self.styles = nn.ModuleDict(
            {str(index): _StyleBlock(channels, channels, sizes[self._level(index)]) for index in blocks}
        )

    def _head_of(self, index: int) -> int:
        """The style layer whose block a layer reads: the first of those that share it."""
        if self.heads == "layer":
            return index
        if self.heads == "resolution":
            return index // 2 * 2  # KernelSpec.style_index counts two per resolution
        return {2: 0, 1: 3, 0: 7}[self._level(index)]

    @staticmethod
    def _level(index: int) -> int:
        """Level of the pyramid a style layer reads; 0 is the finest."""
        return 2 if index < 3 else 1 if index < 7 else 0

    def _closest(self, side: int) -> int:
        """The level of the pyramid whose side is closest to this one, by ratio."""
        return min(range(3), key=lambda level: abs(math.log2(self.backbone.sizes[level] / side)))

    def forward(self, image: Tensor) -> Tensor:
        """Encode RGB ``(B, 3, H, W)`` in [-1, 1], any size; returns ``(B, L, C, 8, 8)``."""
        return self._encode(resize(image, self.backbone.input_size))

    def encode_w_image(self, w_image: Tensor) -> Tensor:
        """As ``forward``, for the phase-I image ``(B, 3, R, R)``, at the size given by ``initial``."""
        return self._encode(self._resized(w_image))

    def _resized(self, w_image: Tensor) -> Tensor:
        size = self.backbone.input_size // _DIVIDED.get(self.initial, 1)
        if self.initial in _DIVIDED:  # antialiased: without, every second pixel would be skipped
            w_image = F.interpolate(w_image, size=(size, size), mode="bilinear", antialias=True)
        return resize(w_image, size)

    def _encode(self, image: Tensor) -> Tensor:
        return self._maps(self._pyramid(self.backbone(image)))

    def _pyramid(self, taps: Taps) -> dict[int, Tensor]:
        """Level -> ``(B, C, S, S)``; 0 is the finest."""
        c1, c2, c3 = taps
        levels = {2: c3 if self.toplayer is None else self.toplayer(c3)}
        if self.latlayer1 is not None:
            levels[1] = _upsample_add(levels[2], self.latlayer1(c2))
        if self.latlayer2 is not None:
            levels[0] = _upsample_add(levels[1], self.latlayer2(c1))
        return levels

    def _maps(self, levels: dict[int, Tensor]) -> Tensor:
        """A map of every style layer, ``(B, L, C, 8, 8)``; without style blocks L is 0."""
        if not self.styles:
            return levels[2].new_zeros(len(levels[2]), 0, self.channels, FEATURE_SIZE, FEATURE_SIZE)
        blocks = {
            int(index): resize(self._run(block, levels[self._level(int(index))]), FEATURE_SIZE)
            for index, block in self.styles.items()
        }
        unused = torch.zeros_like(next(iter(blocks.values())))
        maps = [
            blocks[self._head[index]] if index in self._head else unused for index in range(self.num_styles)
        ]
        return torch.stack(maps, dim=1)

    def _run(self, block: nn.Module, level: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, level, use_reentrant=False)
        return block(level)

    def pair(self, *, photo: Tensor, w_image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the photo ``(B, 3, H, W)`` and the phase-I image ``(B, 3, R, R)``, in one pass if that is equal.

        A BatchNorm in train mode takes its statistics from the images of one call: such a backbone is called
        twice, as in the paper, and the layers after it once. Images of two sizes are encoded one after the other.

        Returns:
            Features of the photo and of the phase-I image, ``(B, L, C, 8, 8)`` each.
        """
        photo_maps, w_image_maps, _ = self.read(photo=photo, w_image=w_image)
        return photo_maps, w_image_maps

    def read(self, *, photo: Tensor, w_image: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """As ``pair``, and what the photo has and the phase-I image lacks at the levels of ``sides``.

        Returns:
            Features of the photo and of the phase-I image, ``(B, L, C, 8, 8)`` each; and for each of ``sides`` the
            difference of the two at the level kept for it, ``(B, C, side, side)``. With "joint" all is found in the
            first, the second is zero, and the level stands for the difference.
        """
        if self.initial == "joint":
            return self._read_jointly(photo, w_image)
        if self.initial in _DIVIDED:
            ours = self._pyramid(self.backbone(resize(photo, self.backbone.input_size)))
            theirs = self._pyramid(self.backbone(self._resized(w_image)))
            return self._maps(ours), self._maps(theirs), self._differences(ours, theirs)
        both = [resize(image, self.backbone.input_size) for image in (photo, w_image)]
        if any(isinstance(part, _BatchNorm) and part.training for part in self.backbone.modules()):
            c1, c2, c3 = (torch.cat(maps) for maps in zip(*map(self.backbone, both), strict=True))
            levels = self._pyramid((c1, c2, c3))
        else:
            levels = self._pyramid(self.backbone(torch.cat(both)))
        photo_maps, w_image_maps = self._maps(levels).chunk(2)  # (2B, L, C, 8, 8) -> (B, L, C, 8, 8) twice
        halves = {level: x.chunk(2) for level, x in levels.items()}
        ours, theirs = ({level: pair[k] for level, pair in halves.items()} for k in (0, 1))
        return photo_maps, w_image_maps, self._differences(ours, theirs)

    def _read_jointly(self, photo: Tensor, w_image: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        ours, theirs = (resize(image, self.backbone.input_size) for image in (photo, w_image))
        levels = self._pyramid(self.backbone(torch.cat([ours, theirs, ours - theirs], dim=1)))
        maps = self._maps(levels)
        kept = {side: resize(levels[k], side) for side, k in self._kept.items()}
        return maps, torch.zeros_like(maps), kept

    def _differences(self, ours: dict[int, Tensor], theirs: dict[int, Tensor]) -> dict[int, Tensor]:
        """Side -> photo minus phase-I image, ``(B, C, side, side)``."""
        sized = {side: (resize(ours[k], side), resize(theirs[k], side)) for side, k in self._kept.items()}
        return {side: photo - w_image for side, (photo, w_image) in sized.items()}


def _upsample_add(coarse: Tensor, lateral: Tensor) -> Tensor:
    # align_corners=True in the pyramid, False for images: published weights depend on both
    with no_autocast(coarse):  # it would make everything behind it float32
        large = F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=True)
    return large + lateral
