"""Phase II: residuals to the generator's kernels restore the detail that w cannot hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.encoders import FeatureEncoder
from hyperinverter.networks.frozen import evaluating
from hyperinverter.networks.generator import Generator, Synthesis
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.ops.factored import FactoredResidual, Residual


class HyperInverter(nn.Module):
    """Photo -> w and residuals -> image (Dinh et al. 2022, Fig. 2).

    The phase-I inverter is frozen: always in eval mode and without gradients. Its encoder is
    part of ``state_dict()`` (``w_inverter.encoder.*``), so that one file holds the whole method; the
    generator is not (see ``WInverter``).

    Args:
        w_inverter: Frozen in place.
        feature_encoder: Reads the photo and the phase-I image.
        hypernet: Turns the features of both into residuals.
    """

    def __init__(
        self, w_inverter: WInverter, feature_encoder: FeatureEncoder, hypernet: HyperNetwork
    ) -> None:
        super().__init__()
        self.w_inverter = w_inverter.requires_grad_(False).eval()
        self.feature_encoder = feature_encoder
        self.hypernet = hypernet
        self._half = False

    def half_precision(self, wanted: bool = True) -> HyperInverter:
        """Trade accuracy for time outside training: ``invert`` and everything drawn is computed in bfloat16.

        Weights and results stay in float32. bfloat16 has float32's range, so nothing overflows on any device.
        This holds for phase-I images of this generator, too, and for generators that ``prepare`` returns from now on.
        """
        self._half = self.generator.synthesis.low_precision = wanted
        return self

    def use_checkpointing(self, wanted: bool = True) -> HyperInverter:
        """Trade time for memory in training: activations of synthesis and style blocks are computed twice."""
        self.generator.synthesis.checkpointing = self.feature_encoder.checkpointing = wanted
        return self

    def train(self, mode: bool = True) -> HyperInverter:
        """Set the mode of the parts that are trained."""
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
        """Parameters for the optimizer: the feature encoder's and the hypernetwork's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, photo: Tensor, strength: float | Tensor = 1.0) -> Inversion:
        """Invert photos, RGB ``(B, 3, H, W)`` in [-1, 1].

        Args:
            photo: Of any size, see ``WInverter.forward``; images are ``(B, 3, R, R)``.
            strength: Scales the residuals that draw ``image``, as in ``render``; those returned are not scaled.

        Raises:
            ValueError: If ``photo`` has another shape.
        """
        first, features = self._read(photo)
        residuals = self.hypernet(**features)
        image = self.render(first.w, residuals, strength)
        return Inversion(w=first.w, residuals=residuals, w_image=first.w_image, image=image)

    def reconstruct(self, photo: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        """Return ``forward(photo, strength).image`` alone, in less memory: for training.

        Residuals of 3x3 kernels stay factors (``HyperNetwork.factors``) and are not returned.
        """
        first, features = self._read(photo)
        return self.render(first.w, self.hypernet.factors(**features), strength)

    def _read(self, photo: Tensor) -> tuple[Inversion, dict[str, Tensor]]:
        """Phase I, without gradients, and what the hypernetwork reads: two sets of features ``(B, L, C, 8, 8)``."""
        with torch.no_grad():
            first = self.w_inverter(photo)
        of_photo, of_w_image = self.feature_encoder.pair(photo=photo, w_image=first.w_image)
        return first, {"photo": of_photo, "w_image": of_w_image}

    @torch.no_grad()
    def invert(self, images: Tensor, strength: float | Tensor = 1.0) -> Inversion:
        """``forward`` in eval mode and without gradients; the module's own mode is kept."""
        with evaluating(self):
            if not self._half:
                return self(images, strength)
            with torch.autocast(images.device.type, torch.bfloat16):
                found = self(images, strength)
        residuals = {name: residual.float() for name, residual in found.residuals.items()}
        return Inversion(found.w.float(), residuals, found.w_image.float(), found.image.float())

    def prepare(self, residuals: Mapping[str, Residual], strength: float = 1.0) -> Synthesis:
        """Return the generator with one photo's residuals in its weights, to draw that photo's edits.

        All codes of a batch then share their kernels, so that an edit costs as much as a plain image, and many
        edits can be one batch.

        Args:
            residuals: Of one photo, ``KernelSpec.name`` -> ``(1, *shape)``.
            strength: As in ``render``.

        Returns:
            w ``(B, D)`` or ``(B, L, D)`` -> RGB ``(B, 3, R, R)``.

        Raises:
            ValueError: For residuals of several photos.
        """
        return self.generator.synthesis.with_residuals(scale_residuals(residuals, strength))

    def render(self, w: Tensor, residuals: Mapping[str, Residual], strength: float | Tensor = 1.0) -> Tensor:
        """Draw images from codes and residuals.

        Args:
            w: ``(B, D)`` or ``(B, L, D)``; may have been edited.
            residuals: ``KernelSpec.name`` -> ``(B, *shape)``.
            strength: Factor of the residuals: 0 draws the phase-I image, 1 the full inversion, values between
                something between both. One number, or one per sample, ``(B,)``.

        Returns:
            RGB, ``(B, 3, R, R)``.
        """
        return self.generator.synthesis(w, scale_residuals(residuals, strength), noise_mode="const")


def scale_residuals(residuals: Mapping[str, Residual], strength: float | Tensor) -> dict[str, Residual]:
    """Multiply every residual ``(B, ...)`` by a number, or by one number per sample ``(B,)``."""
    if isinstance(strength, (int, float)) and strength == 1:
        return dict(residuals)
    return {name: _scaled(residual, strength) for name, residual in residuals.items()}


def _scaled(residual: Residual, strength: float | Tensor) -> Residual:
    if isinstance(residual, FactoredResidual):
        return residual.scaled(strength)
    if isinstance(strength, Tensor) and strength.ndim == 1:
        strength = strength.view(-1, *[1] * (residual.ndim - 1)).to(residual)
    return residual * strength
