"""What edits add: to codes, and to the styles that layers make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor

from hyperinverter.inversion.given import as_power
from hyperinverter.networks.generator import STYLE
from hyperinverter.ops.placing import placed


class Shift(Protocol):
    """What an edit needs to know of a direction."""

    @property
    def name(self) -> str:
        """For sentences, and for an order that does not depend on the caller."""

    @property
    def shift(self) -> Tensor:
        """What power 1 adds to w: ``(D,)`` for all style layers, or ``(L, D)``; ``(0,)``: nothing."""

    @property
    def styles(self) -> Mapping[str, Tensor]:
        """What power 1 adds to styles, layer -> ``(C,)``: see ``Synthesis.styles``."""


Edits = Iterable[tuple[Shift, float | Tensor]]


def as_edits(direction: object, power: float | Tensor, w: object) -> Edits:
    """One direction with its power as pairs; pairs stay.

    Args:
        direction: One direction, or pairs of direction and power.
        power: Of one direction.
        w: The codes that are moved, for their number.

    Raises:
        TypeError: For something else.
        ValueError: For a power that is not finite, or for as many as there are no photos.
    """
    given: Any = [(direction, power)] if hasattr(direction, "shift") else direction
    pairs = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, Tensor)) else [given]
    if not all(isinstance(pair, tuple) and len(pair) == 2 and hasattr(pair[0], "shift") for pair in pairs):
        raise TypeError(
            "expected a direction, such as directions.load('digiface')['smile'], or pairs of direction and power, "
            f"got {type(direction).__name__}"
        )
    batch = len(w) if isinstance(w, Tensor) and w.ndim else None  # what is no code is said next
    return [(pair[0], as_power(pair[1], batch)) for pair in pairs]


def shifted(w: Tensor, edits: Edits) -> Tensor:
    """Move codes along several directions at once.

    The shifts are added in the order of their names before they meet w, so the order in which edits are given does
    not matter, and powers that are all zero give ``w`` itself.

    Args:
        w: ``(B, D)`` or W+, ``(B, L, D)``.
        edits: Directions and their powers: one number, or one per sample, ``(B,)``.

    Returns:
        Shaped like ``w``; ``(B, L, D)`` if a direction moves layers differently.

    Raises:
        ValueError: If a direction does not fit the codes.
    """
    ordered = sorted(edits, key=lambda edit: edit[0].name)
    steps = [step for direction, power in ordered if (step := _step(direction, power, w)) is not None]
    if not steps:
        return w
    total = sum(steps[1:], steps[0])
    if w.ndim == 3:
        return w + total  # (B, L, D) + (B or 1, L or 1, D)
    return w + total[:, 0] if total.shape[1] == 1 else w[:, None] + total


def _step(direction: Shift, power: float | Tensor, w: Tensor) -> Tensor | None:
    """What an edit adds: ``(B or 1, L or 1, D)``; None for the power 0, and for an edit of styles alone."""
    if not direction.shift.numel():
        return None
    shift = placed(direction.shift, w)
    layers_differ = shift.ndim == 2 and w.ndim == 3 and len(shift) != w.shape[1]
    if shift.shape[-1] != w.shape[-1] or layers_differ:
        raise ValueError(
            f"the direction {direction.name} {tuple(shift.shape)} does not fit codes {tuple(w.shape)}"
        )
    shift = shift[None, None] if shift.ndim == 1 else shift[None]
    if isinstance(power, Tensor):
        return placed(power, w).view(-1, 1, 1) * shift
    return None if power == 0 else power * shift


def moved_on(
    before: Tensor, after: Tensor, styles: Mapping[str, Tensor] | None, gain: float | Tensor
) -> tuple[Tensor, Mapping[str, Tensor] | None]:
    """An edit that goes ``gain`` times as far.

    Args:
        before: The codes as they were, ``(B, D)`` or W+, ``(B, L, D)``; or of one photo, for any number of edits.
        after: The edited codes, of either kind.
        styles: What ``style_shifts`` gives for the edit.
        gain: 1 gives back what was given; one number, or one per sample, ``(B,)``.

    Returns:
        The edited codes and the shifts of styles.
    """
    if not isinstance(gain, Tensor) and gain == 1:
        return after, styles
    if before.ndim != after.ndim:
        before, after = (w[:, None] if w.ndim == 2 else w for w in (before, after))

    def times(step: Tensor) -> Tensor:
        return step * (
            placed(gain, step).view(-1, *[1] * (step.ndim - 1)) if isinstance(gain, Tensor) else gain
        )

    more = None if styles is None else {name: times(step) for name, step in styles.items()}
    return before + times(after - before), more


def style_shifts(w: Tensor, edits: Edits) -> dict[str, Tensor]:
    """What several directions at once add to styles, by the names of residuals that ``Synthesis`` takes.

    It is added after residuals were scaled: the strength of an inversion does not change the power of an edit.

    Args:
        w: The codes, ``(B, D)`` or W+, ``(B, L, D)``, for their number and kind.
        edits: As of ``shifted``; their order does not matter.

    Returns:
        ``b8.conv1.affine.bias`` -> ``(B, C)``; empty if no direction moves styles, or all powers are zero.
    """
    total: dict[str, Tensor] = {}
    for direction, power in sorted(edits, key=lambda edit: edit[0].name):
        if not isinstance(power, Tensor) and power == 0:
            continue
        for layer, shift in direction.styles.items():
            size = placed(power, w).view(-1, 1) if isinstance(power, Tensor) else power
            step = (size * placed(shift, w)).expand(len(w), -1)
            name = f"{layer}{STYLE}"
            total[name] = step if name not in total else total[name] + step
    return total
