"""A way to invert that needs no training, and a protocol that needs no networks."""

from __future__ import annotations

from torch import Tensor

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Drawing, Strength
from hyperinverter.networks.generator import Generator

QUICK = {
    "name": "quick",
    "version": 1,
    "range": [-1, 1],
    "rounding": "8 bits",
    "flips": False,
    "resize": "bilinear",
    "photo": {"l2": {"side": None}, "psnr": {"side": None}, "ssim": {"side": None}},
    "sets": {},
}


class Blurring(Drawing):
    """A way to invert that needs no training: it gives every photo back with an error of its own.

    Args:
        generator: That it pretends to draw with.
        error: Added to every other column of pixels.
    """

    def __init__(self, generator: Generator, error: float = 0.1) -> None:
        super().__init__()
        self._generator, self.error, self.calls = (generator,), error, 0
        self.source, self.sha256 = f"blurring by {error}", ""

    @property
    def generator(self) -> Generator:
        return self._generator[0]

    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        self.calls += 1
        image = images.clone()
        image[..., ::2] += self.error
        w = self.generator.w_avg.expand(len(images), -1)
        return Inversion(w=w, residuals={}, w_image=image, image=image)
