"""Phase II: residuals to the generator's kernels restore the detail that w cannot hold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.carrying import RULES, Rule
from hyperinverter.inversion.drawing import Drawing, Strength
from hyperinverter.inversion.given import as_photos
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.backbones import Backbone
from hyperinverter.networks.encoders import FeatureEncoder
from hyperinverter.networks.features import FeatureResiduals
from hyperinverter.networks.frozen import evaluating
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.ops.factored import FactoredResidual, Residual, all_materialised


class PhaseII(Drawing):
    """Base of what uses a frozen phase I and gives residuals to its generator.

    The phase-I inverter is frozen: always in eval mode and without gradients. Its encoder is
    part of ``state_dict()`` (``w_inverter.encoder.*``), so that one file holds the complete method; the
    generator is not (see ``WInverter``).

    Args:
        w_inverter: Frozen in place.
    """

    def __init__(self, w_inverter: WInverter) -> None:
        super().__init__()
        self.w_inverter = w_inverter.requires_grad_(False).eval()
        self._half = False

    @abstractmethod
    def predict(self, photo: Tensor, *, factored: bool) -> tuple[Inversion, dict[str, Residual]]:
        """Phase I's inversion, without gradients, and all residuals; ``factored``: some may stay factors."""

    @property
    @abstractmethod
    def backbone(self) -> Backbone:
        """The network that reads the photo in this phase."""

    def half_precision(self, wanted: bool = True) -> PhaseII:
        """Trade accuracy for time outside training: ``invert`` and everything drawn is computed in bfloat16.

        Weights and results stay in float32. bfloat16 has float32's range, so nothing overflows on any device.
        This holds for phase-I images of this generator, too, and for generators that ``prepare`` returns from now on.
        """
        self._half = self.generator.synthesis.low_precision = wanted
        return self

    def use_checkpointing(self, wanted: bool = True) -> PhaseII:
        """Trade time for memory in training: activations of the synthesis network are computed twice."""
        self.generator.synthesis.checkpointing = wanted
        return self

    def train(self, mode: bool = True) -> PhaseII:
        """Set the mode of the parts that are trained."""
        super().train(mode)
        self.w_inverter.eval()  # its BatchNorms keep the statistics phase I ended with
        return self

    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        return self.w_inverter.generator

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters for the optimizer: those of what predicts residuals."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, photo: Tensor, strength: Strength = 1.0) -> Inversion:
        """Invert photos, RGB ``(B, 3, H, W)`` in [-1, 1].

        Args:
            photo: Of any size, see ``WInverter.forward``; images are ``(B, 3, R, R)``.
            strength: Scales the residuals that draw ``image``, as in ``render``; those returned are not scaled.

        Raises:
            ValueError: If ``photo`` has another shape.
        """
        first, residuals = self.predict(photo, factored=False)
        image = self.draw_unseen(first.w, residuals, strength)
        # not factored: all are tensors
        return Inversion(w=first.w, residuals=residuals, w_image=first.w_image, image=image)  # type: ignore[arg-type]

    def reconstruct(self, photo: Tensor, strength: Strength = 1.0) -> Tensor:
        """Return ``forward(photo, strength).image`` alone, in less memory: for training.

        Residuals of 3x3 kernels stay factors (``HyperNetwork.factors``) and are not returned.
        """
        first, residuals = self.predict(photo, factored=True)
        return self.draw_unseen(first.w, residuals, strength)

    def change_by_edit(
        self, first: Inversion, residuals: Mapping[str, Residual], image: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What an edit changes in the final and in the initial images: for training.

        All residuals are drawn where they are. ``rule``, ``edit_strength`` and ``edit_gain`` belong to finished edits:
        they play no part here and can be set afterwards.

        Args:
            first: Phase I's inversion of N photos or more, of which the first N are edited.
            residuals: As ``predict`` gives them for those photos.
            image: The final images, ``(B, 3, R, R)``.
            shift: What is added to the codes, ``(N, D)``.

        Returns:
            The change in the final images, and that in the initial ones without gradients; ``(N, 3, R, R)`` each.
        """
        few = slice(len(shift))
        some = {name: residual[few] for name, residual in residuals.items()}
        after = first.w[few] + shift
        with torch.no_grad():
            wanted = self.draw_unseen(after) - first.w_image[few]
        return self.draw_unseen(after, some) - image[few], wanted

    def moved_to_mirror(
        self, first: Inversion, residuals: Mapping[str, Residual], mirrored: Tensor
    ) -> Tensor:
        """The last photos, moved to the codes of their mirror images: for training.

        Drawn as a finished edit is, by ``rule`` and ``edit_strength``. ``edit_gain`` plays no part: where the edit ends
        is known.

        Args:
            first: Phase I's inversion of N photos or more, of which the last N are moved.
            residuals: As ``predict`` gives them for those photos.
            mirrored: The last N photos from left to right, ``(N, 3, H, W)``: what the result should look like.

        Returns:
            RGB, ``(N, 3, R, R)``.
        """
        last = slice(len(first.w) - len(mirrored), None)
        with torch.no_grad():
            after = self.w_inverter.encode(mirrored)
        some = {name: residual[last] for name, residual in residuals.items()}
        return self.edited(first.w[last], after, some, w_image=first.w_image[last])

    @torch.no_grad()
    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """``forward`` in eval mode and without gradients; the module's own mode is kept."""
        return self._invert(images, strength, in_factors=False)

    @torch.no_grad()
    def invert_to_factors(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """``invert`` for files: residuals of 3x3 kernels are in ``factors`` alone, and never made for a batch.

        A batch of 16 at 64 px takes 0.94 of the time on a CPU, in less memory. Images differ from those of ``invert``
        by rounding.
        """
        return self._invert(images, strength, in_factors=True)

    def _invert(self, images: Tensor, strength: Strength, *, in_factors: bool) -> Inversion:
        images = as_photos(images, like=self.generator.w_avg)
        with evaluating(self):
            if not self._half:
                return self._inverted(images, strength, in_factors=in_factors)
            with torch.autocast(images.device.type, torch.bfloat16):
                found = self(images, strength)
        residuals = {name: residual.float() for name, residual in found.residuals.items()}
        return Inversion(found.w.float(), residuals, found.w_image.float(), found.image.float())

    def _inverted(self, images: Tensor, strength: Strength, *, in_factors: bool) -> Inversion:
        """``forward`` for ``invert``, which also gives factors of residuals where there are some."""
        return self(images, strength)


class HyperInverter(PhaseII):
    """Photo -> w and residuals -> image (Dinh et al. 2022, Fig. 2).

    Args:
        w_inverter: Frozen in place.
        feature_encoder: Reads the photo and the phase-I image.
        hypernet: Turns the features of both into residuals of weights; None: the weights stay as they are.
        feature_residuals: Turns the difference of both into feature residuals; None: none, as in the paper.
        rule: What an edit does with feature residuals, see ``inversion.carrying``.

    Raises:
        ValueError: With neither, or for an unknown rule.
    """

    def __init__(
        self,
        w_inverter: WInverter,
        feature_encoder: FeatureEncoder,
        hypernet: HyperNetwork | None,
        feature_residuals: FeatureResiduals | None = None,
        rule: Rule = "add",
    ) -> None:
        if hypernet is None and feature_residuals is None:
            raise ValueError("phase II needs a hypernetwork, feature residuals, or both")
        super().__init__(w_inverter)
        self.feature_encoder = feature_encoder
        self.hypernet = hypernet
        self.feature_residuals = feature_residuals
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        self.rule = rule

    @property
    def backbone(self) -> Backbone:
        """The feature encoder's."""
        return self.feature_encoder.backbone

    def use_checkpointing(self, wanted: bool = True) -> HyperInverter:
        """Trade time for memory in training: activations of synthesis and style blocks are computed twice."""
        self.generator.synthesis.checkpointing = self.feature_encoder.checkpointing = wanted
        return self

    def predict(self, photo: Tensor, *, factored: bool) -> tuple[Inversion, dict[str, Residual]]:
        """As ``PhaseII``; residuals of 3x3 kernels are those that stay factors."""
        with torch.no_grad():
            first = self.w_inverter(photo)
        of_photo, of_w_image, differences = self.feature_encoder.read(photo=photo, w_image=first.w_image)
        residuals: dict[str, Residual] = {}
        if self.hypernet is not None:
            predict = self.hypernet.factors if factored else self.hypernet
            residuals.update(predict(photo=of_photo, w_image=of_w_image))  # Dynamo of torch 2.6 follows no |=
        if self.feature_residuals is not None:
            residuals.update(self.feature_residuals(differences))
        return first, residuals

    def _inverted(self, images: Tensor, strength: Strength, *, in_factors: bool) -> Inversion:
        first, predicted = self.predict(images, factored=True)
        factors = {name: found for name, found in predicted.items() if isinstance(found, FactoredResidual)}
        drawn = predicted if in_factors else all_materialised(predicted)
        image = self.draw_unseen(first.w, drawn, strength)
        residuals = {name: found for name, found in drawn.items() if isinstance(found, Tensor)}
        return Inversion(first.w, residuals, first.w_image, image, factors)
