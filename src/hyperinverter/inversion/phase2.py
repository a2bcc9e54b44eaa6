"""Phase II: residuals to the generator's kernels bring back what W could not say."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.encoders import FeatureEncoder
from hyperinverter.networks.frozen import evaluating
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork


class HyperInverter(nn.Module):
    """Photo -> w and residuals -> image (Dinh et al. 2022, Fig. 2).

    The phase-I inverter is finished: frozen, in eval mode for good, run without gradients. Its encoder is
    part of ``state_dict()`` (``w_inverter.encoder.*``), so that one file holds the whole method; the
    generator is not (see ``WInverter``).

    Args:
        w_inverter: Frozen in place.
        feature_encoder: Reads the photo and the phase-I image.
        hypernet: Turns both readings into residuals.
    """

    def __init__(
        self, w_inverter: WInverter, feature_encoder: FeatureEncoder, hypernet: HyperNetwork
    ) -> None:
        super().__init__()
        self.w_inverter = w_inverter.requires_grad_(False).eval()
        self.feature_encoder = feature_encoder
        self.hypernet = hypernet

    def train(self, mode: bool = True) -> HyperInverter:
        """Set the mode of the parts that learn."""
        super().train(mode)
        self.w_inverter.eval()  # its BatchNorms keep the statistics phase I ended with
        return self

    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        return self.w_inverter.generator

    @property
    def resolution(self) -> int:
        """R: side of the images that are drawn."""
        return self.w_inverter.resolution

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimizer should get: the feature encoder's and the hypernetwork's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, photo: Tensor, strength: float | Tensor = 1.0) -> Inversion:
        """Invert photos, RGB ``(B, 3, H, W)`` in [-1, 1].

        Args:
            photo: Of any size, see ``WInverter.forward``; images are ``(B, 3, R, R)``.
            strength: Scales the residuals that draw ``image``, as in ``render``; those returned are whole.

        Raises:
            ValueError: If ``photo`` has another shape.
        """
        with torch.no_grad():
            first = self.w_inverter(photo)
        photo_features, initial_features = self.feature_encoder.pair(photo, first.w_image)
        residuals = self.hypernet(initial_features, photo_features)
        image = self.render(first.w, residuals, strength)
        return Inversion(w=first.w, residuals=residuals, w_image=first.w_image, image=image)

    @torch.no_grad()
    def invert(self, images: Tensor, strength: float | Tensor = 1.0) -> Inversion:
        """``forward`` in eval mode and without gradients; the module's own mode is kept."""
        with evaluating(self):
            return self(images, strength)

    def render(self, w: Tensor, residuals: Mapping[str, Tensor], strength: float | Tensor = 1.0) -> Tensor:
        """Draw images from codes and residuals.

        Args:
            w: ``(B, D)`` or ``(B, L, D)``; may have been edited.
            residuals: ``KernelSpec.name`` -> ``(B, *shape)``.
            strength: Times the residuals: 0 draws the phase-I image, 1 the full inversion, values between
                trade detail against w's own look. One number, or one per sample, ``(B,)``.

        Returns:
            RGB, ``(B, 3, R, R)``.
        """
        return self.generator.synthesis(w, scale_residuals(residuals, strength), noise_mode="const")


def scale_residuals(residuals: Mapping[str, Tensor], strength: float | Tensor) -> dict[str, Tensor]:
    """Multiply every residual ``(B, ...)`` by a number, or by one number per sample ``(B,)``."""
    if isinstance(strength, Tensor) and strength.ndim == 1:
        return {
            name: residual * strength.view(-1, *[1] * (residual.ndim - 1)).to(residual)
            for name, residual in residuals.items()
        }
    if isinstance(strength, (int, float)) and strength == 1:
        return dict(residuals)
    return {name: residual * strength for name, residual in residuals.items()}
