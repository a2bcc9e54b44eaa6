"""Directions of editing: what one unit of *power* adds to w.

Power is the amount of an edit and belongs to a direction; *strength* scales the residuals of an inversion. They are
different things and never share a name here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hyperinverter.contracts import UserError, shown

SAFE = (-3.0, 3.0)  # powers, where nothing was measured
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, eq=False)
class Direction:
    """A way to move codes, or the styles that layers make of them; adding it and taking it away are exact opposites.

    Args:
        name: As typed in a command: letters, digits, ``_``, ``-`` and ``.``.
        shift: What power 1 adds to w, ``(D,)`` for all style layers or ``(L, D)`` for each of its own; ``(0,)`` for
            nothing.
        safe: Lowest and highest power that still give a believable picture.
        unit: What power 1 means, in words.
        about: What one sees at a positive power.
        facts: What was measured, by name.
        styles: What power 1 adds to styles, in StyleSpace S: ``b8.conv0`` -> ``(C,)``, see ``Synthesis.styles``.

    Raises:
        ValueError: For another shape, or numbers that are not finite, or a name that cannot be typed.
    """

    name: str
    shift: Tensor = field(default_factory=lambda: torch.zeros(0))
    safe: tuple[float, float] = SAFE
    unit: str = "length 1 in w"
    about: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    styles: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"a direction needs a name of letters, digits, _, - and ., got {self.name[:80]!r}"
            )
        empty = self.shift.ndim == 1 and not self.shift.numel() and len(self.styles) > 0
        if not empty and (self.shift.ndim not in (1, 2) or not self.shift.numel()):
            raise ValueError(f"{self.name}: a direction is (D,) or (L, D), got {tuple(self.shift.shape)}")
        if wrong := [layer for layer, shift in self.styles.items() if shift.ndim != 1]:
            raise ValueError(f"{self.name}: a shift of styles is (C,), got another shape for {wrong[0]}")
        every = [self.shift, *self.styles.values()]
        if not all(part.is_floating_point() and bool(part.isfinite().all()) for part in every):
            raise ValueError(f"{self.name}: a direction needs finite floating numbers")
        if not any(bool(part.any()) for part in every):
            raise ValueError(f"{self.name}: a direction needs finite numbers that are not all zero")

    @property
    def length(self) -> float:
        """How far power 1 moves the code of the layer that moves most; 0 if it moves styles alone."""
        return float(torch.linalg.vector_norm(self.shift.float(), dim=-1).max())

    def in_layers(self, first: int, end: int, num_ws: int) -> Direction:
        """The same for the style layers ``first`` to ``end - 1`` only.

        Raises:
            UserError: If there are no such layers, or it moves styles.
        """
        if self.styles:
            raise UserError(f"{self.name} moves styles, each of a layer of its own: layers cannot be chosen")
        if not 0 <= first < end <= num_ws:
            raise UserError(
                f"layers {first}-{end - 1} are not within 0-{num_ws - 1}, the generator's style layers"
            )
        every = self.shift.expand(num_ws, -1) if self.shift.ndim == 1 else self.shift
        kept = torch.zeros_like(every)
        kept[first:end] = every[first:end]
        return replace(self, shift=kept)

    def fit_for(self, w_dim: int, num_ws: int, styles: Mapping[str, int] | None = None) -> Direction:
        """This direction, if it fits a generator.

        Args:
            w_dim: D.
            num_ws: L.
            styles: Layer -> channels of its style, ``Synthesis.styles``.

        Raises:
            UserError: If it has another width or another number of layers; the sentence names both.
        """
        widths = styles or {}
        for layer, shift in self.styles.items():
            if len(shift) != widths.get(layer):
                expected = f"{widths[layer]} there" if layer in widths else f"no {layer}"
                raise UserError(
                    f"the direction {self.name} moves {len(shift)} channels of the style of {layer}, the generator has "
                    f"{expected}; use directions made for this generator"
                )
        if not self.shift.numel():
            return self
        layers = "" if self.shift.ndim == 1 else f" and {len(self.shift)} layers"
        if self.shift.shape[-1] != w_dim or (self.shift.ndim == 2 and len(self.shift) != num_ws):
            raise UserError(
                f"the direction {self.name} has width {self.shift.shape[-1]}{layers}, the generator has w of width "
                f"{w_dim} and {num_ws} style layers; use directions made for this generator"
            )
        return self


class Directions(dict[str, Direction]):
    """Name -> direction; a name that there is not is answered with those there are."""

    def __missing__(self, name: object) -> Direction:
        raise UserError(f"there is no direction {shown(name, 40)!r}; there are: {', '.join(self)}")


def orthogonal(direction: Tensor, others: Iterable[Tensor], *, name: str = "the direction") -> Tensor:
    """The part of a direction that does not move along others, at its own length.

    Shen et al. 2020 (InterFaceGAN), section 3.3: the projection on the span of the others is taken away.

    Args:
        direction: ``(D,)``.
        others: Each ``(D,)``.
        name: For the sentence of an error.

    Raises:
        UserError: If nothing is left.
    """
    basis = torch.stack([other.double() for other in others])  # (K, D)
    wanted = direction.double()
    solution = torch.linalg.lstsq(basis.T, wanted[:, None], driver="gelsd").solution
    left = wanted - (basis.T @ solution)[:, 0]
    if left.norm() < 1e-3 * wanted.norm():
        raise UserError(f"{name} is a mixture of the directions to keep still: nothing of it is left")
    return (left * (wanted.norm() / left.norm())).to(direction)


def parse_power(text: str) -> tuple[str, float]:
    """``NAME=POWER`` as typed in a command.

    Raises:
        UserError: If it is not of that form, or the power is not a finite number.
    """
    name, sign, amount = text.partition("=")
    try:
        power = float(amount) if sign else 1.0
    except ValueError:
        power = float("nan")
    if not name or power != power or power in (float("inf"), float("-inf")):
        raise UserError(f"{text[:80]!r} is not NAME=POWER with a number, such as smile=1")
    return name, power
