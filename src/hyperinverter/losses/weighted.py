"""The sum of named loss terms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.ops.resample import shrink


class WeightedLoss(nn.Module):
    """Sum of terms, each times its weight; see ``losses.reconstruction`` for what a term is.

    Args:
        terms: Name -> (weight, term). A term that should not count is left out, not given weight zero.
        size: Images larger than this are average-pooled to it first (HyperInverter compares at 256 pixels,
            whatever the generator's resolution). None compares as they are.

    Raises:
        ValueError: For no terms, or a weight that is not above zero.
    """

    def __init__(self, terms: Mapping[str, tuple[float, nn.Module]], size: int | None = 256) -> None:
        super().__init__()
        if not terms:
            raise ValueError("a loss needs at least one term")
        for name, (weight, _) in terms.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of loss term {name!r} must be above zero, got {weight}")
        self.weights = {name: float(weight) for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.size = size

    def target(self, photo: Tensor) -> dict[str, Any]:
        """Return what all terms need of the photos, without gradients, for several calls."""
        with torch.no_grad():
            photo = self._pool(photo)
            return {name: term.target(photo) for name, term in self.terms.items()}  # type: ignore[operator]

    def forward(
        self, image: Tensor, photo: Tensor, target: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare images with photos.

        Args:
            image: ``(B, 3, R, R)``, RGB, meant for [-1, 1].
            photo: The same shape, in [-1, 1].
            target: ``self.target(photo)`` where it is already there; then ``photo`` is not looked at.

        Returns:
            The weighted sum, and each term without its weight and without gradients.

        Raises:
            ValueError: If the shapes differ (broadcasting would hide it).
        """
        if image.shape != photo.shape:
            raise ValueError(f"image {tuple(image.shape)} and photo {tuple(photo.shape)} differ in shape")
        if target is None:
            target = self.target(photo)
        image = self._pool(image)
        parts = {name: term(image, target[name]) for name, term in self.terms.items()}
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def _pool(self, image: Tensor) -> Tensor:
        if self.size is None or image.shape[-1] <= self.size:
            return image
        return shrink(image, self.size)
