"""What every judge promises: embed each image once, then compare."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperinverter.networks.frozen import Frozen

Embedding = list[Tensor]


class Judge(Frozen):
    """Compares images, ``(B, 3, R, R)``, RGB in [-1, 1], in two steps: ``embed`` each, then ``compare``.

    Always float32, also under autocast: differences of nearly equal features are what is measured.
    """

    label: str  # how tables name it
    higher_is_closer: bool

    def embed(self, image: Tensor) -> Embedding:
        """Return what is needed of one image, so that a target is embedded once for many comparisons."""
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"{self.label} judges float images (B, 3, R, R) in [-1, 1], "
                f"got {tuple(image.shape)} of {image.dtype}"
            )
        with torch.autocast(image.device.type, enabled=False):
            return self._embed(image.float())

    def compare(self, a: Embedding, b: Embedding) -> Tensor:
        """Return one number per pair of embedded images, ``(B,)``."""
        with torch.autocast(a[0].device.type, enabled=False):
            return self._compare(a, b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare images pairwise, ``(B,)``; differentiable in both."""
        return self.compare(self.embed(a), self.embed(b))

    def for_reports(self) -> Judge:
        """Compare in less time from now on, where there is such a way; results change by rounding alone.

        For numbers that are read, not trained on: training keeps its digits.
        """
        return self

    def _embed(self, image: Tensor) -> Embedding:
        raise NotImplementedError

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        raise NotImplementedError
