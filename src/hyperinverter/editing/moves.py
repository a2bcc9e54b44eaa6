"""Editing: invert once, then move w and draw again with the same residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from hyperinverter.contracts import Inversion, UserError
from hyperinverter.inversion.drawing import GROUPS, scale_residuals, strength_of
from hyperinverter.ops.factored import Residual


def move(w: Tensor, direction: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    """Move codes along a direction: ``w + strength * direction``.

    Args:
        w: ``(B, D)`` or ``(B, L, D)``.
        direction: ``(D,)`` or ``(1, D)``, or ``(L, D)`` to move some style layers only.
        strength: In units of the direction's length. One number, or one per sample, ``(B,)``.

    Returns:
        Shaped like ``w``; ``(B, L, D)`` if the direction is ``(L, D)`` with L > 1.

    Raises:
        ValueError: If the direction has another width or number of layers than ``w``.
    """
    per_layer = direction.ndim == 2 and direction.shape[0] > 1
    if w.ndim == 2 and per_layer:
        w = w[:, None].expand(-1, direction.shape[0], -1)
    if (
        direction.ndim > 2
        or direction.shape[-1] != w.shape[-1]
        or (per_layer and len(direction) != w.shape[1])
    ):
        raise ValueError(f"a direction {tuple(direction.shape)} does not fit codes {tuple(w.shape)}")
    if isinstance(strength, Tensor) and strength.ndim == 1:
        strength = strength.view(-1, *[1] * (w.ndim - 1))
    return w + strength * direction.to(w)


def interpolate(start: Inversion, end: Inversion, t: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Mix two inversions, linearly and alike in w and in every residual.

    Args:
        start: What ``t = 0`` gives.
        end: What ``t = 1`` gives; of the same model.
        t: Any number; outside [0, 1] it extrapolates.

    Returns:
        w ``(B, D)`` and residuals, for ``HyperInverter.render``.

    Raises:
        ValueError: If the two have residuals for different kernels.
    """
    if start.residuals.keys() != end.residuals.keys():
        differing = sorted(start.residuals.keys() ^ end.residuals.keys())
        raise ValueError(f"inversions of different coverage: only one has {', '.join(differing)}")
    residuals = {name: first.lerp(end.residuals[name], t) for name, first in start.residuals.items()}
    return start.w.lerp(end.w, t), residuals


def interpolated(
    start: Inversion, end: Inversion, t: float, *, what: str = "both"
) -> tuple[Tensor, Mapping[str, Residual]]:
    """``interpolate`` for both parts or one of them; at 0 and 1 it gives the ends themselves.

    Args:
        start: What ``t = 0`` gives.
        end: What ``t = 1`` gives.
        t: Between 0 and 1.
        what: ``w`` keeps the residuals of ``start``, ``residuals`` its code; ``both``.

    Raises:
        ValueError: See ``interpolate``.
    """
    if t in (0, 1):
        chosen = end if t == 1 else start
        w, residuals = chosen.w, chosen.residuals
    else:
        w, residuals = interpolate(start, end, t)
    return (start.w if what == "residuals" else w), (start.residuals if what == "w" else residuals)


def with_residuals_of(one: Inversion, other: Inversion, groups: Sequence[str]) -> dict[str, Residual]:
    """The residuals of ``one``, but those of ``other`` in these groups of layers (see ``scale_residuals``).

    Raises:
        ValueError: If the two have residuals for different kernels.
        UserError: For a group that does not exist.
    """
    if one.residuals.keys() != other.residuals.keys():
        raise ValueError("inversions of different coverage cannot be mixed: invert both with the same model")
    try:
        taken = dict.fromkeys(groups, 1.0)
        rest = {group: taken.get(group, 0.0) for group in (*GROUPS, *groups)}
        ours = {name: 1.0 - strength_of(name, rest) for name in one.residuals}
        scale_residuals({}, rest)
    except ValueError as error:
        raise UserError(str(error)) from error
    return {
        name: residual if ours[name] else other.residuals[name] for name, residual in one.residuals.items()
    }
