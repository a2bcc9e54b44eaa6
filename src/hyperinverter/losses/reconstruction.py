"""Terms that compare an image with its photo: pixels, perception, identity.

A term works in two steps, so that what depends on the photo alone is computed once and without gradients:
``target = term.target(photo)``, then ``term(image, target)`` for each image compared with it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperinverter.judges.base import Judge
from hyperinverter.ops.precision import at_least_float32


class PixelLoss(nn.Module):
    """Mean squared error over all pixels and channels of images in [-1, 1]."""

    def target(self, photo: Tensor) -> Tensor:
        return photo.detach()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(at_least_float32(image), at_least_float32(target))


class JudgeLoss(nn.Module):
    """A term that asks a judge; see ``judges``.

    Args:
        judge: The network.
        share: Part of a batch that is judged, the first ``ceil(share B)`` images; batches are shuffled, so the
            expectation stays and the judge's time shrinks.

    Raises:
        ValueError: If ``share`` is not in (0, 1].
    """

    def __init__(self, judge: Judge, share: float = 1.0) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        self.judge = judge
        self.share = share

    @torch.no_grad()
    def target(self, photo: Tensor) -> Any:
        return [feature.detach() for feature in self.judge.embed(self._judged(photo))]

    def values(self, image: Tensor, target: Any) -> Tensor:
        """Return what the judge says of each image it judges, ``(ceil(share B),)``."""
        return self.judge.compare(self.judge.embed(self._judged(image)), target)

    def _judged(self, images: Tensor) -> Tensor:
        return images[: math.ceil(self.share * len(images))]


class PerceptualLoss(JudgeLoss):
    """Mean distance of a judge such as ``LPIPS`` or ``EffNetPerceptual``; arguments as ``JudgeLoss``.

    Raises:
        ValueError: If the judge measures similarity, which must not be minimised.
    """

    def __init__(self, judge: Judge, share: float = 1.0) -> None:
        if judge.higher_is_closer:
            raise ValueError(f"PerceptualLoss needs a distance, {judge.label} measures similarity")
        super().__init__(judge, share)

    def forward(self, image: Tensor, target: Any) -> Tensor:
        return self.values(image, target).mean()


class IdentityLoss(JudgeLoss):
    """Mean of 1 - similarity of an identity judge, in [0, 2].

    Raises:
        ValueError: If the judge measures distance.
    """

    def __init__(self, judge: Judge) -> None:
        if not judge.higher_is_closer:
            raise ValueError(f"IdentityLoss needs a similarity, {judge.label} measures distance")
        super().__init__(judge)

    def forward(self, image: Tensor, target: Any) -> Tensor:
        return (1 - self.values(image, target)).mean()
