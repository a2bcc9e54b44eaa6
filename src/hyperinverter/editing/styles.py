"""Directions in StyleSpace S: single channels, shifts of every layer, and StyleCLIP's global directions.

S is what a generator's affine layers make of w: one vector for each layer, torgb's before its gain (Wu et al. 2021,
"StyleSpace Analysis"). Papers name a channel by the place of its layer among all of them, torgb's included, and its
place in the layer: (6, 501) is a smile of the FFHQ generator.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.editing.directions import Direction
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.layers import EqualLinear

SAFE = (-5.0, 5.0)  # the powers that StyleCLIP's channels and directions were made and shown with
PSI = 0.7  # truncation of the codes whose deviations are StyleCLIP's unit
UNIT = f"one sd of a channel over random codes with truncation {PSI}"
_CHANNEL = re.compile(r"s(\d{1,3})_(\d{1,4})")


class StyleSpace:
    """S of a generator.

    Args:
        generator: Whose.

    Attributes:
        widths: Layer -> channels, in the order of papers.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.widths = generator.synthesis.styles()

    @functools.cached_property
    def deviations(self) -> dict[str, Tensor]:
        """Standard deviation of every channel over random codes with truncation ``PSI``: layer -> ``(C,)``.

        From the covariance of w, as a style is a linear function of it.
        """
        covariance = torch.cov(self._generator.sample_codes().double().T)
        found = {}
        for layer in self.widths:
            rows = self._affine(layer)
            variances = (rows @ covariance * rows).sum(1).clamp_min(0)
            found[layer] = (PSI * variances.sqrt()).float().cpu()
        return found

    def _affine(self, layer: str) -> Tensor:
        """What the style of a layer is of w, but for a constant, ``(C, D)`` in float64; torgb's before its gain."""
        affine = self._generator.synthesis.get_submodule(f"{layer}.affine")
        assert isinstance(affine, EqualLinear)
        return affine.weight.detach().double() * (affine.weight_gain / affine.bias_gain)

    def pca(self, count: int = 10, layers: tuple[int, int] | None = None) -> dict[str, Direction]:
        """Principal components of the styles of random codes, the largest first; as ``discovery.pca`` does in w.

        Power 1 is one standard deviation, and the largest entry is positive. With all layers, every component is what a
        shift of w would do as well, chosen by how far styles move; with some, the styles of the others keep still.

        Args:
            count: How many.
            layers: First and last style layer, numbered as papers do, torgb's included; None: all.

        Raises:
            UserError: If there are no such layers.
        """
        first, last = layers or (0, len(self.widths) - 1)
        if not 0 <= first <= last < len(self.widths):
            raise UserError(
                f"style layers {first}-{last} are not within 0-{len(self.widths) - 1} (StyleSpace)"
            )
        moved = list(self.widths)[first : last + 1]
        values, vectors = torch.linalg.eigh(torch.cov(self._generator.sample_codes().double().T))
        root = vectors * values.clamp_min(0).sqrt()  # root root' is the covariance of w
        stacked = (
            torch.cat([self._affine(layer) for layer in moved]) @ root
        )  # its left factor is that of the styles
        axes, sizes, _ = torch.linalg.svd(stacked, full_matrices=False)
        share = sizes.square() / sizes.square().sum()
        found = {}
        for index in range(min(count, len(sizes))):
            shift = sizes[index] * axes[:, index] * torch.sign(axes[axes[:, index].abs().argmax(), index])
            parts = shift.float().cpu().split([self.widths[layer] for layer in moved])
            found[f"spc{index}"] = Direction(
                f"spc{index}",
                styles=dict(zip(moved, parts, strict=True)),
                unit="one standard deviation of styles along it",
                about=f"principal component {index} of style layers {first}-{last}",
                facts={"share_of_variance": round(float(share[index]), 4)},
            )
        return found

    def layer(self, place: str) -> str:
        """A layer's name, given that or its number.

        Raises:
            UserError: If there is none.
        """
        names = list(self.widths)
        name = {str(number): name for number, name in enumerate(names)}.get(place, place)
        if name not in self.widths:
            raise UserError(
                f"there is no style layer {place[:40]!r}: 0 to {len(names) - 1}, or {names[0]} to {names[-1]}"
            )
        return name

    def channels(
        self, name: str, moved: Iterable[tuple[str, int, float]], *, raw: bool = False, about: str = ""
    ) -> Direction:
        """A direction of single channels.

        Args:
            name: Of the direction.
            moved: Layer by name or number, channel, and how much power 1 moves it.
            raw: Whether the amounts are numbers of S itself; else standard deviations, see ``deviations``.
            about: What one sees.

        Raises:
            UserError: If there is no such layer or channel.
        """
        styles: dict[str, Tensor] = {}
        for place, channel, amount in moved:
            layer = self.layer(place)
            if not 0 <= channel < self.widths[layer]:
                raise UserError(
                    f"there is no channel {channel} in {layer}, number {list(self.widths).index(layer)}: it has "
                    f"{self.widths[layer]}"
                )
            shift = styles.setdefault(layer, torch.zeros(self.widths[layer]))
            shift[channel] += amount if raw else amount * float(self.deviations[layer][channel])
        return _direction(name, styles, "as the file says, in S" if raw else UNIT, about)

    def named(self, name: str) -> Direction | None:
        """The direction of one channel by its place, ``s6_501``; None for another name.

        Raises:
            UserError: If there is no such channel.
        """
        found = _CHANNEL.fullmatch(name)
        if found is None:
            return None
        layer = self.layer(found[1])
        about = f"channel {int(found[2])} of {layer}"
        return self.channels(name, [(layer, int(found[2]), 1.0)], about=about)

    def shifts(self, name: str, parts: Mapping[str, Tensor] | Sequence[Tensor] | Tensor) -> Direction:
        """A direction from shifts of many layers, in numbers of S itself, as others store them.

        Args:
            name: Of the direction.
            parts: One shift for each layer, for all layers or for all but torgb's; or by the names of layers; or one
                vector of them all, end to end. A shift without numbers moves nothing.

        Raises:
            UserError: If they do not fit; the sentence says what was expected.
        """
        if isinstance(parts, Tensor):
            parts = self._split(name, parts.flatten())
        if not isinstance(parts, Mapping):
            layers = self._layers_of(name, len(parts))
            parts = dict(zip(layers, parts, strict=True))
        styles = {self.layer(layer): part.detach().float().flatten() for layer, part in parts.items()}
        moving = {layer: part for layer, part in styles.items() if bool(part.any())}
        wrong = [layer for layer, part in moving.items() if len(part) != self.widths[layer]]
        if wrong:
            raise UserError(
                f"the direction {name} moves {len(moving[wrong[0]])} channels of {wrong[0]}, the generator has "
                f"{self.widths[wrong[0]]} there; all: {self.described()}"
            )
        return _direction(name, moving, "as the file says, in S")

    def fits(self, count: int) -> bool:
        """Whether so many numbers are the styles of all layers, or of all but torgb's."""
        return count in (sum(self.widths.values()), sum(self._convolutions().values()))

    def described(self) -> str:
        """Number of layers and their channels, for sentences."""
        convolutions = self._convolutions()
        return (
            f"{len(self.widths)} style layers with {sum(self.widths.values())} channels, or {len(convolutions)} with "
            f"{sum(convolutions.values())} without torgb's"
        )

    def from_text(
        self,
        name: str,
        effects: Tensor,
        text: Tensor,
        threshold: float,
        deviations: Mapping[str, Tensor] | None = None,
    ) -> Direction:
        """StyleCLIP's global direction for a text (Patashnik et al. 2021, section 6).

        Channels whose effect on a picture's CLIP features has at least ``threshold`` in common with the text move, in
        proportion to it, the first of them by one standard deviation. Power is the paper's alpha.

        Args:
            name: Of the direction.
            effects: ``fs3.npy``: unit CLIP features ``(N, F)`` of what each channel changes, of the first convolutions.
            text: Difference of the texts' CLIP features, target - neutral, ``(F,)``; its length does not matter.
            threshold: The paper's beta, 0.1 to 0.2 for FFHQ.
            deviations: Layer -> ``(C,)``, of StyleCLIP's ``S_mean_std``; None: ``deviations`` of this generator.

        Raises:
            UserError: If the files do not fit each other or the generator, or no channel reaches the threshold.
        """
        layers = self._first_convolutions(len(effects))
        text = text.detach().double().flatten()
        if effects.ndim != 2 or effects.shape[1] != len(text) or not bool(text.any()):
            raise UserError(
                f"the text has {len(text)} numbers and the channels' effects {tuple(effects.shape)}: both must be of "
                "one CLIP network, (N, 512) and (512,) for ViT-B/32, and not zero"
            )
        relevance = effects.detach().double() @ (text / text.norm())
        strongest = float(relevance.abs().max())
        if not strongest >= threshold or strongest == 0:
            raise UserError(
                f"no channel reaches the threshold {threshold:g}, the strongest has {strongest:.3f}: lower --threshold"
            )
        relevance = torch.where(relevance.abs() < threshold, 0.0, relevance) / strongest
        sizes = self.deviations if deviations is None else deviations
        parts = relevance.split([self.widths[layer] for layer in layers])
        styles = {layer: (part * sizes[layer]).float() for layer, part in zip(layers, parts, strict=True)}
        return _direction(
            name,
            {layer: shift for layer, shift in styles.items() if bool(shift.any())},
            "StyleCLIP's alpha",
            facts={"method": "StyleCLIP's global direction", "threshold": threshold},
        )

    def by_layer(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """One array ``(C,)`` for each layer, or for all but torgb's, by the names of layers.

        Raises:
            UserError: If they do not fit.
        """
        layers = self._layers_of("the file", len(parts))
        for layer, part in zip(layers, parts, strict=True):
            if part.numel() != self.widths[layer]:
                raise UserError(
                    f"the file has {part.numel()} channels for {layer}, the generator has {self.widths[layer]} there; "
                    f"all: {self.described()}"
                )
        return {layer: part.flatten() for layer, part in zip(layers, parts, strict=True)}

    def _convolutions(self) -> dict[str, int]:
        return {layer: width for layer, width in self.widths.items() if not layer.endswith("torgb")}

    def _layers_of(self, name: str, count: int) -> list[str]:
        for layers in (self.widths, self._convolutions()):
            if len(layers) == count:
                return list(layers)
        raise UserError(f"{name} has shifts for {count} layers, the generator has {self.described()}")

    def _split(self, name: str, vector: Tensor) -> dict[str, Tensor]:
        for widths in (self.widths, self._convolutions()):
            if sum(widths.values()) == len(vector):
                return dict(zip(widths, vector.split(list(widths.values())), strict=True))
        raise UserError(f"{name} has {len(vector)} numbers, the generator has {self.described()}")

    def _first_convolutions(self, count: int) -> list[str]:
        """The convolutions from the first on that have so many channels together."""
        found, total = [], 0
        for layer, width in self._convolutions().items():
            found.append(layer)
            total += width
            if total == count:
                return found
        raise UserError(
            f"effects of {count} channels are not those of this generator's first convolutions, which have "
            f"{', '.join(map(str, self._convolutions().values()))}"
        )


def _direction(
    name: str,
    styles: Mapping[str, Tensor],
    unit: str,
    about: str = "",
    facts: Mapping[str, object] | None = None,
) -> Direction:
    try:
        return Direction(name, styles=styles, safe=SAFE, unit=unit, about=about, facts=dict(facts or {}))
    except ValueError as error:
        raise UserError(str(error)) from error
