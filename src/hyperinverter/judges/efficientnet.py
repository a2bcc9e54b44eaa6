"""EfficientNet-lite0 as a feature extractor, with ImageNet weights that ship with the package."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperinverter.checkpoints.reading import read_packaged
from hyperinverter.networks.frozen import Frozen, load_strictly
from hyperinverter.ops.policy import fast_layout

# (repeats, kernel, stride of the first block, expansion, output channels): Tan & Le 2019, table 1, with
# the changes of the "lite" family: no squeeze-and-excitation, ReLU6 instead of swish.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero-pad as TensorFlow's "same" convolution does: an odd row or column goes to the bottom or right."""
    pads: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        # at stride 1 the padding is symmetric, so the convolution can do it without a copy
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        return super().forward(x)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv2d(hidden, outputs, 1)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        hidden = F.relu6(self.depthwise(hidden))
        out = self.project(hidden)
        return x + out if self.has_shortcut else out


class EfficientNetLite0(Frozen):
    """The convolutional part of EfficientNet-lite0 with random weights, seen through six taps.

    ``EfficientNetLite0Features`` is the same network with its ImageNet weights.

    A tap is the output of a stage (before the next expansion, so without activation). With an input of
    side R (any size from 32 up), taps have ``channels`` and sides R / ``strides``:

    ========  ===  ===  ===  ===  ====  ====
    channels   16   24   40   80   112   320
    stride      2    4    8   16    16    32
    ========  ===  ===  ===  ===  ====  ====
    """

    channels = (16, 24, 40, 80, 112, 320)
    strides = (2, 4, 8, 16, 16, 32)
    _tap_stages = (0, 1, 2, 3, 4, 6)  # stage 5 feeds stage 6 at the same side: one tap for both

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv2d(3, STEM_CHANNELS, 3, 2)
        self.stages = nn.ModuleList()
        inputs = STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in STAGES:
            blocks = [InvertedBottleneck(inputs, outputs, kernel, stride, expansion)]
            blocks += [InvertedBottleneck(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.freeze()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the six taps, finest first.

        Args:
            x: Images, ``(B, 3, H, W)``, RGB in [-1, 1].

        Returns:
            Features, ``(B, channels[i], H / strides[i], W / strides[i])``, sides rounded up.
        """
        x = fast_layout(x)
        x = (x * 127.5 + 0.5) / 128  # the training pipeline was (v - 127) / 128 on values v in 0..255
        x = F.relu6(self.stem(x))
        taps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._tap_stages:
                taps.append(x)
        return taps


class EfficientNetLite0Features(EfficientNetLite0):
    """EfficientNet-lite0 with ImageNet weights from the packaged file; see ``assets/NOTICE.md``.

    Raises:
        UserError: If the packaged file is missing or damaged.
    """

    packaged = "efficientnet_lite0"

    def __init__(self) -> None:
        with torch.device("meta"):  # no random numbers are drawn for weights that are replaced at once
            super().__init__()
        load_strictly(self, read_packaged(self.packaged), self.packaged)
