"""Networks in whose features two sets of images are compared: one vector per image."""

from __future__ import annotations

from torch import Tensor

from hyperinverter.judges.efficientnet import EfficientNetLite0Features
from hyperinverter.networks.frozen import Frozen


class SetFeatures(Frozen):
    """Images, ``(B, 3, R, R)``, RGB in [-1, 1] -> features, ``(B, width)``, float32."""

    label: str  # how tables name it
    width: int

    def forward(self, image: Tensor) -> Tensor:
        """Describe each image by one vector."""
        raise NotImplementedError


class EffNetFeatures(SetFeatures):
    """EfficientNet-lite0 (ImageNet): its last tap, averaged over positions, images at their own side.

    A distance in these features is not an FID: another network, another number. They are divided by 4, which brings
    their mean square on faces near 1, as the kernel expects it.
    """

    label = "effnet_lite0"
    width = 320

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNetLite0Features()
        self.freeze()

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image.float())[-1].mean(dim=(2, 3)) / 4
