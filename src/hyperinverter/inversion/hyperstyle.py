"""HyperStyle: relative changes of the generator's kernels, in several looks (Alaluf et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Iterative
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import PhaseII
from hyperinverter.networks.backbones import Backbone
from hyperinverter.networks.encoders import resize
from hyperinverter.networks.hyperstyle import HyperStyleNetwork
from hyperinverter.ops.factored import Residual


class HyperStyle(PhaseII, Iterative):
    """Photo -> w and theta (1 + d): every step sees the photo and the image so far, and adds to d.

    The residuals are theta d, so that everything that takes residuals takes these. Phase I's image is the first that is
    looked at.

    Args:
        w_inverter: Frozen in place.
        network: Predicts the changes.
        iterations: Steps, in training and afterwards; 5 in the paper.

    Raises:
        ValueError: For no step.
    """

    def __init__(self, w_inverter: WInverter, network: HyperStyleNetwork, iterations: int = 5) -> None:
        super().__init__(w_inverter)
        if iterations < 1:
            raise ValueError("HyperStyle needs at least one step")
        self.network, self.iterations = network, iterations

    @property
    def backbone(self) -> Backbone:
        """The network that reads both images."""
        return self.network.backbone

    def steps(self, photo: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Residuals and image after every step; each starts from numbers, as in the paper."""
        with torch.no_grad():
            first = self.w_inverter(photo)
        image, changes = first.w_image, dict[str, Tensor]()
        for _ in range(self.iterations):
            changes = self.look(photo, image, changes)
            residuals = self.residuals(changes)
            image = self.draw_unseen(first.w, residuals)
            yield residuals, image

    def predict(self, photo: Tensor, *, factored: bool) -> tuple[Inversion, dict[str, Residual]]:
        """As ``PhaseII``; nothing is a factor here."""
        with torch.no_grad():
            first = self.w_inverter(photo)
            image, changes = first.w_image, dict[str, Tensor]()
            for _ in range(self.iterations - 1):
                changes = self.look(photo, image, changes)
                image = self.draw_unseen(first.w, self.residuals(changes))
        return first, dict(self.residuals(self.look(photo, image, changes)))

    def look(self, photo: Tensor, image: Tensor, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """d after one more step."""
        side = self.network.backbone.input_size
        both = torch.cat([resize(photo, side), resize(image.detach(), side)], dim=1)  # (B, 6, S, S)
        found = self.network(both)
        return {name: changes[name].detach() + d for name, d in found.items()} if changes else found

    def residuals(self, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """theta d, ``(B, *shape)``."""
        synthesis = self.generator.synthesis
        return {name: synthesis.get_parameter(name) * d for name, d in changes.items()}
