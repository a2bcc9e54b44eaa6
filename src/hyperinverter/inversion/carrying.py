"""What an edit does with feature residuals: a detail has a place, and an edit moves what was there.

Residuals of weights act wherever the code puts the face. A feature residual is tied to positions, so a head that turns
would leave its details behind. The rules differ in what they ask the generator about the way from w to the edited w'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.networks.features import KIND
from hyperinverter.networks.generator import Synthesis
from hyperinverter.ops.factored import Residual

Rule = Literal["add", "fade", "warp"]
RULES: tuple[Rule, ...] = get_args(Rule)
FLOW_SIDE = (
    32  # px of the map on which movement is read: finer than the residuals, which move by parts of a pixel
)
REACH = 3  # px of that map, the farthest movement that is looked for


def carried(
    rule: Rule,
    synthesis: Synthesis,
    features: Mapping[str, Tensor],
    before: Tensor,
    after: Tensor,
    weights: Mapping[str, Residual] | None = None,
) -> dict[str, Tensor]:
    """Feature residuals as an edit leaves them.

    - ``add``: as they were (the rule of Feature-Style encoder and CLCAE).
    - ``fade``: less where the edit changed the generator's own map at that place, ``exp(-(change / 0.5)^2)`` with the
      change in parts of the map's size: what was there is gone.
    - ``warp``: moved along with the generator's own map (the idea of WarpRes): the movement is read off its maps of
      32 px before and after.

    Args:
        rule: One of the three.
        synthesis: The generator's.
        features: ``b8.conv1.features`` -> ``(B, C, S, S)``, or ``(1, C, S, S)`` for all codes.
        before: Codes of the photos, ``(B, D)`` or W+, or one for all.
        after: The edited codes, B of them.
        weights: Residuals of weights that both maps are drawn with; B of them.

    Returns:
        The same names, ``(B, C, S, S)``.

    Raises:
        ValueError: For an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    count = len(after)
    wide = {name: residual.expand(count, -1, -1, -1) for name, residual in features.items()}
    if rule == "add":
        return wide
    before = before.expand(count, *before.shape[1:])
    if rule == "fade":
        return {
            name: residual * _kept(*_maps(synthesis, name.removesuffix(KIND), before, after, weights))
            for name, residual in wide.items()
        }
    place = f"b{min(FLOW_SIDE, synthesis.resolutions[-1])}.conv1"
    flow = movement(*_maps(synthesis, place, before, after, weights))
    return {name: moved(residual, flow) for name, residual in wide.items()}


def _maps(
    synthesis: Synthesis, place: str, before: Tensor, after: Tensor, weights: Mapping[str, Residual] | None
) -> tuple[Tensor, Tensor]:
    """The generator's own maps before and after, ``(B, C, S, S)`` each in float32."""
    old, new = (synthesis.map_of(w, place, weights) for w in (before, after))
    return old.float(), new.float()


def _kept(old: Tensor, new: Tensor, half: float = 0.5) -> Tensor:
    """1 where a map did not change, towards 0 where it did: ``(B, 1, S, S)``."""
    change = (new - old).square().mean(1, keepdim=True) / old.square().mean((1, 2, 3), keepdim=True)
    return torch.exp(-change / half**2)


def movement(old: Tensor, new: Tensor, reach: int = REACH, sharpness: float = 30.0) -> Tensor:
    """Where each position of a map came from: ``new[p] ~ old[p + flow[p]]``.

    Positions are compared by the cosine of their channels over 3x3 neighbours; the flow is the mean of all offsets
    within reach, weighted by ``exp(sharpness * cosine)``. What the old map gives against itself is taken off, so that a
    map that did not change gives zero exactly.

    Args:
        old: ``(B, C, S, S)``.
        new: ``(B, C, S, S)``.
        reach: Largest offset along each axis, in positions.
        sharpness: Of the weights.

    Returns:
        ``(B, 2, S, S)``: offsets along x and y, in positions.
    """
    return _offsets(old, new, reach, sharpness) - _offsets(old, old, reach, sharpness)


def _offsets(old: Tensor, new: Tensor, reach: int, sharpness: float) -> Tensor:
    side = old.shape[-1]
    old, new = (F.normalize(x - x.mean((2, 3), keepdim=True), dim=1) for x in (old, new))
    padded = F.pad(old, [reach] * 4, mode="replicate")
    steps = [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    likeness = torch.stack(
        [
            (new * padded[..., reach + dy : reach + dy + side, reach + dx : reach + dx + side]).sum(1)
            for dx, dy in steps
        ],
        dim=1,
    )  # (B, K, S, S)
    likeness = F.avg_pool2d(F.pad(likeness, [1] * 4, mode="replicate"), 3, stride=1)
    weights = (sharpness * likeness).softmax(1)
    offsets = torch.tensor(steps, dtype=old.dtype, device=old.device)  # (K, 2)
    return torch.einsum("bkhw,kd->bdhw", weights, offsets)


def moved(residual: Tensor, flow: Tensor) -> Tensor:
    """A map ``(B, C, S, S)`` read at positions moved by a flow ``(B, 2, T, T)`` of another map of the same picture."""
    side, fine = residual.shape[-1], flow.shape[-1]
    flow = F.adaptive_avg_pool2d(flow, side) if fine > side else F.interpolate(flow, (side, side))
    flow = flow.permute(0, 2, 3, 1) * (2 / fine)  # in the picture's coordinates, where it is 2 wide
    steps = (torch.arange(side, device=flow.device, dtype=flow.dtype) * 2 + 1) / side - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + flow
    return F.grid_sample(residual, grid, mode="bilinear", padding_mode="border", align_corners=False)
