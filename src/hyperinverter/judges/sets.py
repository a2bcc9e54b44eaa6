"""Networks in whose features two sets of images are compared: one vector per image."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from hyperinverter.contracts import UserError
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


def build_features(label: str, path: str | Path | None = None, cache_dir: str | Path = ".") -> SetFeatures:
    """Build the network of this label, on the CPU and frozen.

    Args:
        label: As in protocols.
        path: Its weight file; default: where ``weights fetch`` puts it. Networks that ship need none.
        cache_dir: Folder of fetched files.

    Raises:
        UserError: For a label that no network has, or a weight file that is missing or of something else.
    """
    if label == EffNetFeatures.label:
        return EffNetFeatures()
    raise UserError(f"sets of images cannot be compared in {label!r}; there is: {EffNetFeatures.label}")
