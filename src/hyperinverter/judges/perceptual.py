"""Perceptual distances: EfficientNet features, shift-tolerant LPIPS, LPIPS."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from hyperinverter.checkpoints.reading import read_foreign_weights, read_packaged
from hyperinverter.contracts import UserError
from hyperinverter.judges.base import Embedding, Judge
from hyperinverter.judges.efficientnet import EfficientNetLite0Features
from hyperinverter.networks.frozen import load_strictly
from hyperinverter.ops import winograd
from hyperinverter.ops.policy import fast_layout
from hyperinverter.ops.resample import reflected


class PerceptualJudge(Judge):
    """Zhang et al. 2018 (LPIPS), Eq. 1: squared distance of unit-length features, weighted per channel.

    ``d(a, b) = sum_l mean_hw sum_c weight_lc (a_lchw - b_lchw)^2`` with ``a_l`` of unit length over c.
    """

    higher_is_closer = False

    def features(self, image: Tensor) -> list[Tensor]:
        """Return feature maps, ``(B, C_l, H_l, W_l)``, of images in [-1, 1]."""
        raise NotImplementedError

    def channel_scales(self) -> list[Tensor] | None:
        """Return the square roots of the channel weights, ``(C_l, 1, 1)`` each, or None for all one."""
        return None

    def _embed(self, image: Tensor) -> Embedding:
        units = [unit_length(feature) for feature in self.features(image)]
        scales = self.channel_scales()
        return units if scales is None else [u * s for u, s in zip(units, scales, strict=True)]

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        parts = [(x - y).square().sum(dim=1).mean(dim=(1, 2)) for x, y in zip(a, b, strict=True)]
        return torch.stack(parts).sum(dim=0)


def unit_length(feature: Tensor) -> Tensor:
    """Divide ``(B, C, H, W)`` by its length over C; a zero vector stays zero and has gradient zero."""
    # clamped before the root, whose derivative at zero would turn the gradient into NaN
    norm = feature.square().sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
    return feature / (norm + 1e-10)


class EffNetPerceptual(PerceptualJudge):
    """Distance of EfficientNet-lite0 features (ImageNet), all six taps with equal weight, divided by 16.

    Cheap enough to be a training loss on a CPU. Not calibrated on human judgements: it is not LPIPS. The
    divisor brings it to LPIPS's size (photo against phase-I image: about 4.3 before, LPIPS 0.2 to 0.3), so
    that the paper's weight of 0.8 keeps the paper's balance between the terms.

    Args:
        enlarge: Factor by which images are enlarged first (bilinear); 2 lets the network see the detail of
            64-pixel images at four times the cost.
    """

    label = "effnet_lite0"

    def __init__(self, enlarge: float = 1) -> None:
        super().__init__()
        if not enlarge >= 1:
            raise ValueError(f"enlarge must be 1 or more, got {enlarge}")
        self.enlarge = enlarge
        self.net = EfficientNetLite0Features()
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        if self.enlarge > 1:
            image = F.interpolate(image, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
        return self.net(image)

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        return super()._compare(a, b) / 16


def lpips_scale(image: Tensor) -> Tensor:
    """Shift and scale [-1, 1] to the range ImageNet networks were trained on (constants of LPIPS 0.1)."""
    shift = image.new_tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = image.new_tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    return fast_layout((image - shift) / scale)


class STLPIPS(PerceptualJudge):
    """Shift-tolerant LPIPS (Ghildyal & Liu, ECCV 2022), AlexNet variant, at version ST0.0.

    An AlexNet without stride in its first convolution, every reduction a blur after reflection padding.
    Input as in its authors' package called with default arguments, images in [-1, 1] of 32 pixels or more.
    """

    label = "st_lpips_alex"
    packaged = "stlpips_alex"
    min_size = 32

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.net = ShiftTolerantAlexNet()
        load_strictly(self.net, read_packaged(self.packaged), self.packaged)
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        if min(image.shape[-2:]) < self.min_size:
            raise ValueError(
                f"{self.label} needs images of {self.min_size} pixels or more, got {image.shape}"
            )
        return self.net(lpips_scale(image))

    def channel_scales(self) -> list[Tensor]:
        return [head.sqrt().view(-1, 1, 1) for head in self.net.heads]

    def for_reports(self) -> STLPIPS:
        """As ``Judge``: 0.55 to 0.6 of the time on a CPU, at 64 pixels."""
        self.net.prepare()
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """As ``Judge``; for reports both go through the network at once, so that its weights are read once."""
        if not self.net.prepared or a.shape != b.shape:
            return super().forward(a, b)
        of_a, of_b = zip(*(x.chunk(2) for x in self.embed(torch.cat([a, b]))), strict=True)
        return self.compare([*of_a], [*of_b])


class ShiftTolerantAlexNet(nn.Module):
    """The convolutions of ``STLPIPS`` and its channel weights (``heads``)."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared = False
        self.conv1 = nn.Conv2d(3, 64, 11, padding=2)
        self.conv2 = nn.Conv2d(64, 192, 5, padding=2)
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.heads = nn.ParameterList([torch.zeros(c) for c in (64, 192, 384, 256, 256)])

    def forward(self, x: Tensor) -> list[Tensor]:
        x1 = F.relu(self._first_merged(x) if self.prepared else blur_down(self.conv1(x)))
        x2 = F.relu(self.conv2(blur_down(self._largest(x1))))
        x3 = F.relu(self._conv3x3(blur_down(self._largest(x2)), "conv3"))
        x4 = F.relu(self._conv3x3(x3, "conv4"))
        x5 = F.relu(self._conv3x3(x4, "conv5"))
        return [x1, x2, x3, x4, x5]

    def prepare(self) -> None:
        """Make from the weights as they are now what takes less time; they must not change from then on."""
        self._merge_first()
        for name in ("conv3", "conv4", "conv5"):
            kernels = winograd.transformed(self.get_submodule(name).get_parameter("weight").detach())
            self.register_buffer(_transformed(name), kernels, persistent=False)
        self.prepared = True

    def _largest(self, x: Tensor) -> Tensor:
        """The largest of every 3x3 numbers, ``(B, C, H - 2, W - 2)``."""
        if not self.prepared:
            return F.max_pool2d(x, 3, stride=1)
        # The same numbers in 0.3 to 0.4 of the time on a CPU: PyTorch's compares all nine and keeps where each was.
        for _ in range(2):
            x = torch.maximum(x[:, :, :-1], x[:, :, 1:])
        for _ in range(2):
            x = torch.maximum(x[..., :-1], x[..., 1:])
        return x

    def _conv3x3(self, x: Tensor, name: str) -> Tensor:
        """What the convolution of this name gives."""
        layer = self.get_submodule(name)
        if not self.prepared:
            found: Tensor = layer(x)
            return found
        out = winograd.conv3x3_by(x, self.get_buffer(_transformed(name)))
        return out + layer.get_parameter("bias")[:, None, None]

    def _merge_first(self) -> None:
        """Make kernels of the first convolution and its blur together.

        Both are linear, so that one convolution with stride 2 takes a third of the multiplications. The last row and
        column of an even number are blurred with their reflection, 2 2 instead of 1 2 1, and have kernels of their own.
        """
        weight = self.conv1.weight.detach()
        taps = [weight.new_tensor(line) / 4 for line in ((1.0, 2.0, 1.0), (2.0, 2.0))]
        for down, column in enumerate(taps):
            for along, row in enumerate(taps):
                blur = torch.outer(column, row)[None, None]
                planes = weight.reshape(-1, 1, *weight.shape[2:])
                whole = F.conv2d(planes, blur.flip(2, 3), padding=(len(column) - 1, len(row) - 1))
                kernel = fast_layout(whole.view(*weight.shape[:2], *whole.shape[2:]))
                self.register_buffer(_merged(down, along), kernel, persistent=False)

    def _first_merged(self, x: Tensor) -> Tensor:
        """``blur_down(self.conv1(x))``; its first two rows are equal, and its last two of an odd number."""
        padded = F.pad(x, (2, 2, 2, 2))
        sides = [side - 6 for side in x.shape[2:]]  # of what the convolution gives

        def parts(side: int) -> list[tuple[int, slice]]:
            return [(0, slice(None)), *([(1, slice(side - 2, None))] if side % 2 == 0 else [])]

        def piece(down: int, along: int, high: slice, wide: slice) -> Tensor:
            kernel = self.get_buffer(_merged(down, along))
            return F.conv2d(padded[:, :, high, wide], kernel, self.conv1.bias, stride=2)

        def closed(pieces: list[Tensor], dim: int) -> Tensor:
            first, *last = pieces
            last = last or [first.narrow(dim, -1, 1)]
            return torch.cat([first.narrow(dim, 0, 1), first, *last], dim)

        rows = [
            closed([piece(down, along, high, wide) for along, wide in parts(sides[1])], 3)
            for down, high in parts(sides[0])
        ]
        return closed(rows, 2)


def _merged(down: int, along: int) -> str:
    """Name of a kernel: 1 for the last row, or column."""
    return f"merged_{down}{along}"


def _transformed(name: str) -> str:
    """Name of what ``winograd.transformed`` makes of a convolution's kernels."""
    return f"transformed_{name}"


def blur_down(x: Tensor) -> Tensor:
    """Reflect-pad by two, blur with [1, 2, 1] x [1, 2, 1] / 16, keep every second position."""
    # two box filters of width two make the triangle, and pooling is faster than a depthwise convolution
    return F.avg_pool2d(F.avg_pool2d(reflected(x, 2), 2, stride=1), 2, stride=2)


class LPIPS(PerceptualJudge):
    """LPIPS version 0.1 (Zhang et al. 2018), as the ``lpips`` package computes it, with local weights.

    The package downloads its backbone when constructed; here it is torchvision's, filled from a given file.
    The channel weights come from the installed ``lpips`` package.

    Args:
        path: torchvision's ImageNet weights of the backbone, see ``checkpoints.registry``.
        net: ``"alex"`` or ``"vgg"``.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    _last_layers: Mapping[str, tuple[int, ...]] = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}

    def __init__(self, path: str | Path, net: str = "alex") -> None:
        super().__init__()
        if net not in self._last_layers:
            raise ValueError(f"net must be one of {', '.join(self._last_layers)}, got {net!r}")
        self.label = f"lpips_{net}"
        weights = read_foreign_weights(path, self.label, "features.0.weight")
        build = models.alexnet if net == "alex" else models.vgg16
        with torch.device("meta"):  # no download, and no random numbers for a classifier nobody needs
            layers = build(weights=None).features[: self._last_layers[net][-1] + 1]
        features = {k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")}
        wanted = layers.state_dict().keys()
        # layers behind the last tap (a pooling, a classifier) are not part of the distance
        load_strictly(layers, {k: v for k, v in features.items() if k in wanted}, path)
        self.layers = layers
        self.heads = nn.ParameterList(read_lpips_heads(net))
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        x = lpips_scale(image)
        taps = []
        for index, layer in enumerate(self.layers):
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)  # torchvision's ReLU works in place
            if index in self._last_layers[self.label.removeprefix("lpips_")]:
                taps.append(x)
        return taps

    def channel_scales(self) -> list[Tensor]:
        return [head.sqrt().view(-1, 1, 1) for head in self.heads]


def read_lpips_heads(net: str) -> list[Tensor]:
    """Read the five channel weights of LPIPS 0.1 from the installed ``lpips`` package, ``(C_l,)`` each."""
    spec = importlib.util.find_spec("lpips")  # found, not imported: importing it is slow
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the lpips package is not installed; install hyperinverter with its dependencies")
    path = Path(spec.submodule_search_locations[0], "weights", "v0.1", f"{net}.pth")
    heads = torch.load(path, map_location="cpu", weights_only=True)
    return [heads[f"lin{index}.model.1.weight"].flatten() for index in range(5)]
