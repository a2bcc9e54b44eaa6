"""Editing: invert once, then move w and draw again with the same residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperinverter.contracts import Inversion, UserError
from hyperinverter.inversion.drawing import GROUPS, scale_residuals, strength_of
from hyperinverter.ops.factored import Residual


def interpolate(
    start: Inversion, end: Inversion, t: float, *, centre: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mix two inversions, alike in w and in every residual.

    Args:
        start: What ``t = 0`` gives.
        end: What ``t = 1`` gives; of the same model.
        t: Any number; outside [0, 1] it extrapolates.
        centre: w moves along a sphere around this code ``(D,)``, see ``along_sphere``; None: in a straight line.
            Residuals always mix linearly.

    Returns:
        w ``(B, D)`` and residuals, for ``HyperInverter.render``.

    Raises:
        ValueError: If the two have residuals for different kernels, or are of different generators.
    """
    if start.residuals.keys() != end.residuals.keys():
        differing = sorted(start.residuals.keys() ^ end.residuals.keys())
        raise ValueError(f"inversions of different coverage: only one has {', '.join(differing)}")
    pairs = {"w": (start.w, end.w)} | {n: (r, end.residuals[n]) for n, r in start.residuals.items()}
    for name, (first, last) in pairs.items():
        if first.shape != last.shape:
            raise ValueError(
                f"inversions of different models: {name} is {tuple(first.shape)} and {tuple(last.shape)}; invert both "
                "with the same one"
            )
    residuals = {name: first.lerp(end.residuals[name], t) for name, first in start.residuals.items()}
    w = start.w.lerp(end.w, t) if centre is None else along_sphere(start.w, end.w, t, centre)
    return w, residuals


def along_sphere(start: Tensor, end: Tensor, t: float, centre: Tensor) -> Tensor:
    """Turn from one code to another around a centre (Shoemake 1985), while the distance from it changes evenly.

    A straight line between two faces passes nearer to the mean code than either, so its middle looks more average
    than both. Layers of W+ turn on their own. Codes that coincide, that are opposite, or that lie at the centre have no
    single way around it and take the straight line.

    Args:
        start: ``(B, D)`` or ``(B, L, D)``.
        end: Shaped alike.
        t: 0 gives ``start``, 1 gives ``end``.
        centre: ``(D,)``, such as ``generator.w_avg``.
    """
    a, b = start - centre, end - centre
    a_length, b_length = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    smallest = torch.finfo(a.dtype).tiny
    cosine = ((a / a_length.clamp_min(smallest)) * (b / b_length.clamp_min(smallest))).sum(-1, keepdim=True)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    turns = (sine > 1e-4) & (a_length > 0) & (b_length > 0)
    sine = sine.where(turns, torch.ones_like(sine))
    unit = a / a_length * (((1 - t) * angle).sin() / sine) + b / b_length * ((t * angle).sin() / sine)
    return torch.where(turns, centre + unit * a_length.lerp(b_length, t), start.lerp(end, t))


def interpolated(
    start: Inversion, end: Inversion, t: float, *, what: str = "both", centre: Tensor | None = None
) -> tuple[Tensor, Mapping[str, Residual]]:
    """``interpolate`` for both parts or one of them; at 0 and 1 it gives the ends themselves.

    Args:
        start: What ``t = 0`` gives.
        end: What ``t = 1`` gives.
        t: Between 0 and 1.
        what: ``w`` keeps the residuals of ``start``, ``residuals`` its code; ``both``.
        centre: See ``interpolate``.

    Raises:
        ValueError: See ``interpolate``.
    """
    if t in (0, 1):
        chosen = end if t == 1 else start
        w, residuals = chosen.w, chosen.residuals
    else:
        w, residuals = interpolate(start, end, t, centre=centre)
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
