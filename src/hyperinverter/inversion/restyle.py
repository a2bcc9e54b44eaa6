"""ReStyle: an encoder to W+ that looks again at what it has drawn (Alaluf et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Iterative
from hyperinverter.inversion.given import check_photo
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.encoders import WEncoder, resize
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.wplus import WPlusEncoder


class ReStyle(WInverter, Iterative):
    """Photo -> W+ in several steps, each from the photo and the image so far; the first image is that of the mean w.

    Args:
        generator: Put into eval mode and frozen in place.
        encoder: A ``WPlusEncoder`` of the method "restyle".
        iterations: Steps.

    Raises:
        ValueError: For another encoder, or no step.
    """

    def __init__(self, generator: Generator, encoder: WEncoder | WPlusEncoder, iterations: int = 5) -> None:
        super().__init__(generator, encoder)
        if not isinstance(encoder, WPlusEncoder) or encoder.method != "restyle" or iterations < 1:
            raise ValueError("ReStyle needs an encoder of six channels and at least one step")
        self.iterations = iterations

    def steps(self, photo: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Codes ``(B, L, D)`` and image ``(B, 3, R, R)`` after every step.

        Gradients reach the step that made them and no earlier one, as in the paper: every step starts from numbers.
        """
        check_photo(photo)
        generator = self.generator
        w = generator.w_avg.expand(len(photo), generator.num_ws, -1)
        with torch.no_grad():
            image = self.draw_unseen(w[:1]).expand(len(photo), -1, -1, -1)  # the same for all photos
        for _ in range(self.iterations):
            side = (
                photo.shape[-1] if photo.shape[-2:] == image.shape[-2:] else self.encoder.backbone.input_size
            )
            both = torch.cat([resize(photo, side), resize(image.detach(), side)], dim=1)  # (B, 6, H, W)
            w = w.detach() + self.encoder(both)
            image = self.draw_unseen(w)
            yield w, image

    def encode(self, photo: Tensor) -> Tensor:
        """Place photos in W+, ``(B, L, D)``: the codes after the last step."""
        return list(self.steps(photo))[-1][0]

    def forward(self, photo: Tensor) -> Inversion:
        """As ``WInverter``; the image is that of the last step."""
        w, image = list(self.steps(photo))[-1]
        return Inversion(w=w, residuals={}, w_image=image, image=image)
