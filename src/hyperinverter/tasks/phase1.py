"""Phase I: learn to place a photo in W."""

from __future__ import annotations

from torch import Tensor

from hyperinverter.contracts import Batch
from hyperinverter.tasks.common import PhaseTask


class PhaseIEncoder(PhaseTask):
    """Phase I: learn the encoder that places a photo in W; the generator stays as it is.

    Dinh et al. 2022, section 3.2: the loss compares the photo with G(w).
    """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        photo = batch["image"]
        total, parts = self.loss(self.inverter(photo).image, photo)
        self.log_training(total, parts, batch)
        self.count(batch)
        return total
