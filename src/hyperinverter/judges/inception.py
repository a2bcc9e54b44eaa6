"""The Inception network behind FID and KID: TensorFlow's of 2015, with the weights others have converted.

It differs from torchvision's Inception-v3 in four places: average pools leave their padding out of the mean, the last
block has a maximum pool in the place of the average pool, there are 1,008 classes, and images are resized to 299 as old
TensorFlow did, without antialiasing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models import inception

from hyperinverter.checkpoints.reading import read_foreign_weights, with_counters
from hyperinverter.judges.sets import SetFeatures
from hyperinverter.networks.frozen import load_strictly

SIDE = 299


def _mean_pool(x: Tensor) -> Tensor:
    """3x3 means of what is there: padding does not count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(inception.InceptionA):
    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(_mean_pool(x))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, pooled], 1)


class _BlockC(inception.InceptionC):
    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_mean_pool(x))], 1)


class _BlockE(inception.InceptionE):
    pool = staticmethod(_mean_pool)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *parts, self.branch_pool(self.pool(x))], 1)


class _LastBlock(_BlockE):
    pool = staticmethod(lambda x: F.max_pool2d(x, 3, stride=1, padding=1))


def _network() -> nn.Module:
    net = models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    net.Mixed_5b, net.Mixed_5c, net.Mixed_5d = _BlockA(192, 32), _BlockA(256, 64), _BlockA(288, 64)
    net.Mixed_6b, net.Mixed_6c = _BlockC(768, 128), _BlockC(768, 160)
    net.Mixed_6d, net.Mixed_6e = _BlockC(768, 160), _BlockC(768, 192)
    net.Mixed_7b, net.Mixed_7c = _BlockE(1280), _LastBlock(2048)
    return net


class InceptionFeatures(SetFeatures):
    """The 2,048 averaged features of FID and KID, of images as their 8-bit files hold them.

    Args:
        path: ``weights-inception-2015-12-05-6726825d.pth``, see ``checkpoints.registry``.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "inception_2015"
    width = 2048

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        weights = read_foreign_weights(path, self.label, "Conv2d_1a_3x3.conv.weight")
        with torch.device("meta"):
            self.net = _network()
        load_strictly(self.net, with_counters(self.net, weights), path)
        self.net.fc, self.net.dropout = nn.Identity(), nn.Identity()
        self.freeze()

    def forward(self, image: Tensor) -> Tensor:
        values = (image.float() + 1) * 127.5
        return self.net((resize_as_tensorflow(values, SIDE) - 128) / 128)


def resize_as_tensorflow(image: Tensor, side: int) -> Tensor:
    """Bilinear as TensorFlow 1 had it: pixel ``i`` comes from ``i * (old / new)``, without half a pixel of shift.

    Args:
        image: ``(B, C, H, W)``.
        side: Of the result, ``(B, C, side, side)``.
    """
    rows, columns = (_weights(size, side).to(image) for size in image.shape[-2:])
    return rows @ image @ columns.T


def _weights(size: int, side: int) -> Tensor:
    """Which old pixels a new one is made of, ``(side, size)``."""
    place = torch.arange(side) * (torch.tensor(float(size)) / side)
    low = place.floor().long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    share = (place - low)[:, None]
    return (1 - share) * F.one_hot(low, size) + share * F.one_hot(high, size)
