"""What every way to invert shares: draw again, edit, and give the generator of one photo.

A way to invert is a module with a ``generator``. It returns ``Inversion``; whatever draws one (the commands, the
evaluation, the editor) asks for nothing more than what stands here.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.carrying import Carrier, Rule, has_place
from hyperinverter.inversion.easing import MOVED, distance, eased
from hyperinverter.inversion.given import (
    Strength,
    as_codes,
    as_strength,
    check_drawn,
    check_residuals,
)
from hyperinverter.inversion.moving import Moving
from hyperinverter.inversion.shifting import Edits, Shift, as_edits, moved_on, shifted, style_shifts
from hyperinverter.networks.features import KIND
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.factored import FactoredResidual, Residual
from hyperinverter.ops.factored import materialised as made
from hyperinverter.ops.placing import placed
from hyperinverter.ops.precision import at_least_float32, no_autocast

KINDS = ("weights", "features")
_CODES = 2000  # whose covariance says how far an edit goes
GROUPS = {"coarse": (4, 8), "medium": (16, 32), "fine": (64, 8192)}  # sides of the blocks, both included


class Draw(Protocol):
    """The generator of one photo."""

    def __call__(self, w: Tensor, styles: Mapping[str, Tensor] | None = None, /) -> Tensor:
        """Codes ``(B, D)`` or ``(B, L, D)``, and what ``style_shifts`` gives, -> RGB ``(B, 3, R, R)``."""


class Drawing(nn.Module, ABC):
    """Base of the ways to invert: everything one does with an inversion.

    Attributes:
        source: What was asked for when it was loaded (``digiface``, a run folder, a file); empty if it was built.
        sha256: Of the file its weights came from; empty if it was built.
        rule: What an edit does with feature residuals, see ``inversion.carrying``; ``picture``: with whatever all
            residuals add to the picture, see ``inversion.moving``.
        edit_strength: What an edit of two standard deviations of w leaves of residuals where the picture changes, see
            ``inversion.easing``; 1: all of them, as in the paper.
        edit_gain: How many times as far as asked an edit moves the codes that are drawn with residuals, which hold the
            picture back; 1: as far as asked, as in the paper. Less of it with less strength, and nothing at strength 0.
    """

    source: str = ""
    sha256: str = ""
    rule: Rule = "add"
    edit_strength: float = 1.0
    edit_gain: float = 1.0

    @property
    @abstractmethod
    def generator(self) -> Generator:
        """The frozen generator."""

    @abstractmethod
    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """Invert photos, RGB ``(B, 3, H, W)`` in [-1, 1], in eval mode and without gradients."""

    def invert_to_factors(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """``invert`` for files: residuals that have factors are in ``factors`` alone, if that takes less time."""
        return self.invert(images, strength)

    @property
    def resolution(self) -> int:
        """R: side of the images that are drawn."""
        return self.generator.img_resolution

    def render(
        self,
        w: Tensor,
        residuals: Mapping[str, Residual] | None = None,
        strength: Strength = 1.0,
        *,
        drawn: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Draw images from codes and residuals, with the stored noise.

        Args:
            w: ``(B, D)`` or W+, ``(B, L, D)``; may have been edited.
            residuals: ``KernelSpec.name`` -> ``(B, *shape)``; None: the generator as it is.
            strength: Times the residuals: 0 draws the generator's own image, 1 the full inversion, values between trade
                detail against w's own look. One number, one per sample ``(B,)``, or one per group of layers
                (see ``scale_residuals``).
            drawn: Maps of the first layers that are there already, see ``Synthesis``.

        Returns:
            RGB, ``(B, 3, R, R)``.

        Raises:
            ValueError: For codes or residuals that give no finite numbers.
        """
        return check_drawn(self.draw_unseen(w, residuals, strength, drawn=drawn), w, residuals or {})

    def draw_unseen(
        self,
        w: Tensor,
        residuals: Mapping[str, Residual] | None = None,
        strength: Strength = 1.0,
        *,
        drawn: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """``render`` for training, where nothing may look at numbers: on a GPU that is to wait for them."""
        codes = as_codes(w, self.generator)
        scaled = scale_residuals({} if residuals is None else residuals, strength)
        return self.generator.synthesis(codes, scaled, drawn=drawn)

    def prepare(self, of: Inversion | Mapping[str, Residual], strength: Strength = 1.0) -> Draw:
        """Return the generator of one photo, to draw that photo's edits.

        The residuals are added to the weights once. All codes of a batch then share their kernels, so that an
        edit costs what the plain generator costs, and many edits can be one batch.

        Args:
            of: The inversion of one photo; or its residuals alone, ``(1, *shape)`` each: feature residuals then stay
                where they are, whatever ``rule`` says.
            strength: As in ``render``.

        Returns:
            w ``(B, D)`` or ``(B, L, D)`` -> RGB ``(B, 3, R, R)``. What ``style_shifts`` gives is a second argument.
            Of an inversion, w is an edit of its code, and ``edit_gain`` moves it on.

        Raises:
            ValueError: For residuals of several photos.
        """
        scaled = scale_residuals(of.residuals if isinstance(of, Inversion) else of, strength)
        before = of.w if isinstance(of, Inversion) else None
        draw = self._prepared(before, scaled)
        gain = 1.0 if before is None else self._gain(scaled, strength)

        def drawn(w: Tensor, styles: Mapping[str, Tensor] | None = None, /) -> Tensor:
            codes = as_codes(w, self.generator)
            if before is not None:
                codes, styles = moved_on(before, codes, styles, gain)
            return check_drawn(draw(codes, styles), w, scaled)

        return drawn

    def _prepared(self, before: Tensor | None, scaled: Mapping[str, Residual]) -> Draw:
        """``prepare`` with residuals that are scaled; ``before`` is the photo's code, where it is known."""
        synthesis = self.generator.synthesis
        if before is None:
            return synthesis.with_residuals(scaled)
        if self.rule == "picture" and scaled:
            return self._in_the_picture(before, scaled)
        whole = self._carrying(before, scaled)
        if self.edit_strength == 1 or not scaled:
            return whole
        with torch.no_grad():
            w_image = self.draw_unseen(before)

        def draw(w: Tensor, styles: Mapping[str, Tensor] | None = None, /) -> Tensor:
            return self._eased(whole(w, styles), before, w, w_image, styles)

        return draw

    def _in_the_picture(self, before: Tensor, residuals: Mapping[str, Residual]) -> Draw:
        """Draws edits with what the residuals add to the picture of ``before``, moved along."""
        moving = Moving(self.generator.synthesis, before, self.draw_unseen(before, residuals))

        def draw(w: Tensor, styles: Mapping[str, Tensor] | None = None, /) -> Tensor:
            plain, detail, w_image = moving(w, styles)
            if self.edit_strength == 1:
                return plain + detail
            far = distance(before, w, self._covariance)
            return eased(plain + detail, plain, w_image, far, self.edit_strength, MOVED)

        return draw

    def _carrying(self, before: Tensor, residuals: Mapping[str, Residual]) -> Draw:
        """Draws edits of one photo with all of these residuals; those that have a place follow ``rule``."""
        synthesis = self.generator.synthesis
        maps = {name: made(delta) for name, delta in residuals.items() if has_place(name)}
        if not maps or self.rule == "add" or self.rule == "picture":
            return synthesis.with_residuals(residuals)
        own = synthesis.with_residuals({name: delta for name, delta in residuals.items() if name not in maps})
        with torch.no_grad():
            carry = Carrier(self.rule, own, maps, before)

        def draw(w: Tensor, styles: Mapping[str, Tensor] | None = None, /) -> Tensor:
            features, drawn = carry(w, styles)
            return own(w, {**features, **(styles or {})}, drawn=drawn)

        return draw

    def edited(
        self,
        before: Tensor,
        after: Tensor,
        residuals: Mapping[str, Residual],
        *,
        styles: Mapping[str, Tensor] | None = None,
        w_image: Tensor | None = None,
    ) -> Tensor:
        """Draw edited codes with the residuals of photos: those of features follow ``rule``, and all of them are let go
        of where the edit changes the picture, by ``edit_strength``.

        Args:
            before: Codes of the photos, ``(B, D)`` or W+, ``(B, L, D)``.
            after: The edited codes.
            residuals: Of B photos, at the strength that they are drawn with.
            styles: What ``style_shifts`` gives for the edit.
            w_image: The generator's picture of ``before``, if it is there already.

        Returns:
            RGB, ``(B, 3, R, R)``.
        """
        if not residuals:
            return self.draw_unseen(after, styles)
        if self.rule == "picture":
            return self._in_the_picture(before, residuals)(after, styles)
        shifts: dict[str, Residual] = dict(styles or {})
        maps = {name: made(delta) for name, delta in residuals.items() if has_place(name)}
        weights = {name: delta for name, delta in residuals.items() if name not in maps}
        features, drawn = Carrier(self.rule, self.generator.synthesis, maps, before, weights)(
            after, weights | shifts
        )
        image = self.draw_unseen(after, weights | features | shifts, drawn=drawn)
        if self.edit_strength == 1:
            return image
        return self._eased(
            image, before, after, self.draw_unseen(before) if w_image is None else w_image, styles
        )

    def _eased(
        self,
        image: Tensor,
        before: Tensor,
        after: Tensor,
        w_image: Tensor,
        styles: Mapping[str, Tensor] | None,
    ) -> Tensor:
        with torch.no_grad():
            far = distance(before, after, self._covariance)
            plain = self.draw_unseen(after, styles)
        return eased(image, plain, w_image, far, self.edit_strength)

    @functools.cached_property
    def _covariance(self) -> Tensor:
        """Of the generator's codes, ``(D, D)``."""
        # Kept for all who ask: where gradients flow, and in full although a training in bfloat16 may ask first.
        with torch.inference_mode(False), torch.no_grad(), no_autocast(self.generator.w_avg):
            codes = at_least_float32(self.generator.sample_codes(_CODES))
            centred = codes - codes.mean(0)
            return centred.T @ centred / (_CODES - 1)

    @torch.no_grad()
    def edit(
        self,
        inversion: Inversion,
        direction: Shift | Edits,
        power: float | Tensor = 1.0,
        *,
        strength: Strength = 1.0,
    ) -> Tensor:
        """Move the codes of an inversion and draw again with its residuals.

        Where the edit changes the picture, residuals are let go of if the model says so: see ``edit_strength``. Feature
        residuals are added where they were, or follow the edit: see ``rule``.

        Args:
            inversion: Of this model.
            direction: One direction, or pairs of direction and power.
            power: Of a single direction; one number, or one per photo ``(B,)``.
            strength: Of the residuals, as in ``render``.

        Returns:
            RGB, ``(B, 3, R, R)``. With all powers 0 it is the inversion's image at this strength, bit for bit.
        """
        if not hasattr(inversion, "residuals"):
            raise TypeError(f"expected an inversion, as invert returns it, got {type(inversion).__name__}")
        edits = as_edits(direction, power, inversion.w)
        before = as_codes(inversion.w, self.generator)
        w, residuals = shifted(before, edits), scale_residuals(inversion.residuals, strength)
        styles = style_shifts(before, edits)
        if w is before and not styles:
            return self.render(w, residuals)
        farther, more = moved_on(before, w, styles, self._gain(residuals, strength))
        edited = self.edited(before, farther, residuals, styles=more, w_image=inversion.w_image)
        return check_drawn(edited, w, residuals)

    def _gain(self, residuals: Mapping[str, Residual], strength: Strength) -> float | Tensor:
        """``edit_gain`` at a strength of residuals: one number, or one per sample."""
        if self.edit_gain == 1 or not residuals:
            return 1.0
        if isinstance(strength, Mapping):  # of groups of layers: their mean
            strength = sum(strength_of(name, strength) for name in residuals) / len(residuals)
        batch = next(iter(residuals.values())).shape[0]
        share = as_strength(strength, batch)
        assert not isinstance(share, Mapping)
        share = share.clamp(0, 1) if isinstance(share, Tensor) else min(max(share, 0.0), 1.0)
        return 1 + (self.edit_gain - 1) * share


class Iterative(ABC):
    """A way to invert that looks again at what it has drawn.

    Attributes:
        iterations: Steps.
    """

    iterations: int

    @abstractmethod
    def steps(self, photo: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """What every step finds, and its image ``(B, 3, R, R)``; gradients reach the step that made them alone."""


def scale_residuals(residuals: Mapping[str, Residual], strength: Strength) -> dict[str, Residual]:
    """Multiply residuals ``(B, ...)`` by one number, by one per sample ``(B,)``, or by one per group of layers.

    Groups are ``coarse`` (blocks of 4 and 8 px), ``medium`` (16 and 32 px), ``fine`` (64 px and up), a single block
    (``b16``), ``torgb``, which wins over them, and the kinds ``weights`` and ``features``, times what the block says. A
    layer in no named group keeps its residual.

    Raises:
        ValueError: For a group that does not exist, or a strength that is not finite.
        TypeError: For a strength that is neither a number nor one of these, or for residuals that are none.
    """
    check_residuals(residuals)
    batch = next(iter(residuals.values())).shape[0] if residuals else None  # as torch 2.6 can compile it
    strength = as_strength(strength, batch)
    if isinstance(strength, Mapping):
        unknown = [
            name for name in strength if name not in (*GROUPS, *KINDS, "torgb") and not _is_block(name)
        ]
        if unknown:
            raise ValueError(
                f"no group of layers is called {unknown[0]!r}: coarse, medium, fine, torgb, b16, weights or features"
            )
        return {name: _scaled(residual, strength_of(name, strength)) for name, residual in residuals.items()}
    if isinstance(strength, (int, float)) and strength == 1:
        return dict(residuals)
    return {name: _scaled(residual, strength) for name, residual in residuals.items()}


def _is_block(name: object) -> bool:
    return isinstance(name, str) and name[:1] == "b" and name[1:].isdigit()


def strength_of(name: str, strengths: Mapping[str, float]) -> float:
    """The strength that a residual such as that of ``b16.conv0.weight`` gets."""
    block, _, rest = name.partition(".")
    kind = strengths.get("features" if name.endswith(KIND) else "weights", 1.0)
    return kind * _strength_of_layer(block, rest, strengths)


def _strength_of_layer(block: str, rest: str, strengths: Mapping[str, float]) -> float:
    if rest.startswith("torgb") and "torgb" in strengths:
        return strengths["torgb"]
    if block in strengths:
        return strengths[block]
    side = int(block[1:])
    group = next(group for group, (low, high) in GROUPS.items() if low <= side <= high)
    return strengths.get(group, 1.0)


def _scaled(residual: Residual, strength: float | Tensor) -> Residual:
    if isinstance(strength, (int, float)) and strength == 1:
        return residual
    if isinstance(residual, FactoredResidual):
        return residual.scaled(strength)
    if isinstance(strength, Tensor) and strength.ndim == 1:
        strength = placed(strength.view(-1, *[1] * (residual.ndim - 1)), residual)
    return residual * strength
