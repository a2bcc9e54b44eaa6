"""Phase I: photo -> w -> image, with the generator as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Drawing, Strength
from hyperinverter.inversion.given import as_photos, check_photo
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.networks.frozen import Held, evaluating
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.wplus import WPlusEncoder


class WInverter(Drawing):
    """Photo -> w -> image; with an encoder to W+ one code per style layer.

    The generator is in a ``Held``: it moves with this module, but ``state_dict()``, ``parameters()`` and
    ``train()`` do not include it. A checkpoint holds the encoder alone and loads strictly; the generator
    comes from its own file.

    Args:
        generator: Put into eval mode and frozen in place.
        encoder: Gives offsets from the generator's mean w.
    """

    def __init__(self, generator: Generator, encoder: WEncoder | WPlusEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self._frozen_generator = Held(generator)

    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        return self._frozen_generator.network

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters for the optimizer: the encoder's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def encode(self, photo: Tensor) -> Tensor:
        """Place photos ``(B, 3, H, W)`` in W: ``w_avg + encoder(photo)``, ``(B, D)``, or ``(B, L, D)`` in W+."""
        check_photo(photo)
        w = self.encoder(photo)
        return self.generator.w_avg + w if self.encoder.from_mean else w

    def forward(self, photo: Tensor) -> Inversion:
        """Invert photos, RGB ``(B, 3, H, W)`` in [-1, 1]; gradients reach the encoder.

        Photos may have any size: the encoder resizes them to its own, bilinear and without antialiasing, as published
        encoders do (a photo that is not square is squeezed). Images are ``(B, 3, R, R)``.

        Raises:
            ValueError: If ``photo`` has another shape.
        """
        w = self.encode(photo)
        image = self.draw_unseen(w)
        return Inversion(w=w, residuals={}, w_image=image, image=image)

    @torch.no_grad()
    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """``forward`` in eval mode and without gradients; the module's own mode is kept.

        ``strength`` is that of every way to invert; there are no residuals here, so it changes nothing.
        """
        with evaluating(self):
            return self(as_photos(images, like=self.generator.w_avg))
