"""Phase I: learn to place a photo in W."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from hyperinverter.tasks.common import PhaseTask


class PhaseIEncoder(PhaseTask):
    """Phase I: learn the encoder that places a photo in W; the generator stays as it is.

    Dinh et al. 2022, section 3.2: the loss compares the photo with G(w).
    """

    def draw(self, photo: Tensor) -> Tensor:
        """The initial image, G(w)."""
        return cast(Tensor, self.inverter(photo).image)
