"""Three small trained face networks that ship with the package: identity, expression, landmarks.

Weights and their origin are described in ``assets/NOTICE.md``. There is no batch normalisation and no
dropout: every image is independent of its batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperinverter.checkpoints.reading import read_packaged
from hyperinverter.judges.efficientnet import SameConv2d
from hyperinverter.networks.frozen import Frozen, load_strictly
from hyperinverter.ops.policy import fast_layout
from hyperinverter.ops.resample import repeatable

MEAN_RGB = (122.782, 117.001, 104.298)  # of the training pictures, values in 0..255
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")


class Crop(NamedTuple):
    """A box as fractions of a square image, so that it means the same at every resolution."""

    top: float
    bottom: float
    left: float
    right: float

    def cut(self, image: Tensor) -> Tensor:
        """Return the part of ``(B, 3, R, R)`` inside the box, edges rounded to whole pixels."""
        height, width = image.shape[-2:]
        rows = slice(round(self.top * height), round(self.bottom * height))
        columns = slice(round(self.left * width), round(self.right * width))
        return image[..., rows, columns]


# Framing of the built-in digiface domain (64 px: 52x52 and 58x58 pixels). Chosen by measurement; a fixed
# crop beats per-image alignment there, because landmarks jitter on small blurred faces.
CROP52 = Crop(12 / 64, 1.0, 6 / 64, 58 / 64)
CROP58 = Crop(6 / 64, 1.0, 3 / 64, 61 / 64)
FULL = Crop(0.0, 1.0, 0.0, 1.0)


def resize(image: Tensor, size: int) -> Tensor:
    """Resize ``(B, C, H, W)`` to ``size`` bilinearly; shrinking is antialiased."""
    if image.shape[-2:] == (size, size):
        return image
    shrinks = image.shape[-1] > size
    return repeatable(
        lambda x, side: F.interpolate(x, side, mode="bilinear", align_corners=False, antialias=shrinks),
        image,
        (size, size),
    )


class FaceNetwork(Frozen):
    """What the three have in common: framing, scaling and where the weights are.

    Raises:
        UserError: If the packaged weight file is missing or damaged.
    """

    packaged: str  # name of the weights in registry.PACKAGED
    size: int  # side of the square the network sees, in pixels

    def __init__(self, crop: Crop) -> None:
        super().__init__()
        self.crop = crop

    def load(self) -> None:
        """Fill the network from its packaged file and freeze it."""
        load_strictly(self, read_packaged(self.packaged), self.packaged)
        self.freeze()

    def frame(self, image: Tensor) -> Tensor:
        """Cut and resize ``(B, 3, R, R)`` in [-1, 1] to ``(B, 3, size, size)``, values 0..255."""
        return resize((self.crop.cut(image) + 1) * 127.5, self.size)

    def network(self, x: Tensor) -> Tensor:
        """Run the network on what ``frame`` returns."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Read framed faces off images, ``(B, 3, R, R)``, RGB in [-1, 1]."""
        return self.network(self.frame(image))


def normalise(x: Tensor) -> Tensor:
    """Bring values 0..255 to the range the networks were trained on."""
    mean = x.new_tensor(MEAN_RGB).view(1, 3, 1, 1)
    return (x - mean) / 255  # 255 as in the reference of these weights; dlib itself divides by 256


class ResidualBlock(nn.Module):
    """Two convolutions and a parameter-free shortcut; ``down`` halves the side."""

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=0 if down else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        if self.down:
            x = F.avg_pool2d(x, 2)
            # the unpadded stride can lose a row and a column against the pooled shortcut ...
            out = F.pad(out, (0, x.shape[-1] - out.shape[-1], 0, x.shape[-2] - out.shape[-2]))
            # ... and new channels start at zero, after the old ones
            x = F.pad(x, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        return F.relu(x + out)


# (channels, does the block halve the side) of the 14 residual blocks, after a stem of 32 channels
DESCRIPTOR_BLOCKS = (
    *[(32, False)] * 3,
    (64, True),
    *[(64, False)] * 3,
    (128, True),
    *[(128, False)] * 2,
    (256, True),
    *[(256, False)] * 2,
    (256, True),
)


class FaceDescriptor(FaceNetwork):
    """Identity as a 128-vector: dlib's face recognition network (29 convolutions).

    ``forward`` returns ``(B, 128)``, not normalised (norms are about 1.4): Euclidean distance is what it
    was trained for. ``stats.mean_crop52`` is the mean descriptor of the digiface domain.
    """

    packaged = "face_descriptor"
    size = 150

    def __init__(self, crop: Crop = CROP52) -> None:
        with torch.device("meta"):  # no random numbers are drawn for weights that are replaced at once
            super().__init__(crop)
            self.stem = nn.Conv2d(3, 32, 7, stride=2)
            self.blocks = nn.Sequential()
            inputs = 32
            for outputs, down in DESCRIPTOR_BLOCKS:
                self.blocks.append(ResidualBlock(inputs, outputs, down))
                inputs = outputs
            self.fc = nn.Linear(inputs, 128, bias=False)
            self.stats = nn.Module()
            self.stats.register_buffer("mean_crop52", torch.zeros(128))
        self.load()

    def network(self, x: Tensor) -> Tensor:
        """Return descriptors ``(B, 128)`` of faces ``(B, 3, 150, 150)``, values 0..255."""
        x = F.max_pool2d(F.relu(self.stem(fast_layout(normalise(x)))), 3, stride=2)
        return self.fc(self.blocks(x).mean(dim=(2, 3)))


class SeparableConv(nn.Module):
    """Depthwise 3x3 (no bias), then 1x1 with bias; no activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.dw = SameConv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pw = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))


class DenseBlock(nn.Module):
    """Four convolutions, each fed with the sum of all before it; the first halves the side."""

    def __init__(self, inputs: int, outputs: int, plain_entry: bool) -> None:
        super().__init__()
        self.conv0: nn.Module
        if plain_entry:
            self.conv0 = SameConv2d(inputs, outputs, 3, stride=2)
        else:
            self.conv0 = SeparableConv(inputs, outputs, stride=2)
        self.conv1 = SeparableConv(outputs, outputs)
        self.conv2 = SeparableConv(outputs, outputs)
        self.conv3 = SeparableConv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        total = F.relu(self.conv0(x))
        total = total + self.conv1(total)  # the first argument is already activated, the others are not
        total = total + self.conv2(F.relu(total))
        total = total + self.conv3(F.relu(total))
        return F.relu(total)


class DenseFaceNetwork(FaceNetwork):
    """Four dense blocks, 112 -> 7 pixels, their mean, and one linear layer."""

    size = 112
    outputs: int

    def __init__(self, crop: Crop) -> None:
        with torch.device("meta"):
            super().__init__(crop)
            self.dense0 = DenseBlock(3, 32, plain_entry=True)
            self.dense1 = DenseBlock(32, 64, plain_entry=False)
            self.dense2 = DenseBlock(64, 128, plain_entry=False)
            self.dense3 = DenseBlock(128, 256, plain_entry=False)
            self.fc = nn.Linear(256, self.outputs)
        self.load()

    def network(self, x: Tensor) -> Tensor:
        """Return the linear layer's output, ``(B, outputs)``, for ``(B, 3, 112, 112)``, values 0..255."""
        x = fast_layout(normalise(x))
        x = self.dense3(self.dense2(self.dense1(self.dense0(x))))
        return self.fc(x.mean(dim=(2, 3)))


class FaceExpression(DenseFaceNetwork):
    """Logits of the seven ``EXPRESSIONS``, ``(B, 7)``; softmax gives (uncalibrated) probabilities.

    Of the seven, "happy" and "surprised" were validated on the digiface domain; for regression use the
    logit, because probabilities saturate.
    """

    packaged = "face_expression"
    outputs = len(EXPRESSIONS)

    def __init__(self, crop: Crop = CROP58) -> None:
        super().__init__(crop)


class FaceLandmarks68(DenseFaceNetwork):
    """68 points as fractions (x, y) of the framed square, origin top left, not clamped.

    Order: 0-16 jaw (image left to right), 17-21 and 22-26 brows, 27-35 nose, 36-41 eye at image left,
    42-47 eye at image right, 48-67 mouth. Coarse on profiles, sunglasses and dark images.
    """

    packaged = "face_landmarks68"
    outputs = 2 * 68

    def __init__(self, crop: Crop = FULL) -> None:
        super().__init__(crop)

    def network(self, x: Tensor) -> Tensor:
        """Return points ``(B, 68, 2)`` for faces ``(B, 3, 112, 112)``, values 0..255."""
        return super().network(x).unflatten(1, (68, 2))
