"""What an edit does with residuals that have a place: a detail is somewhere, and an edit moves what was there.

Residuals of weights act wherever the code puts the face. Those of features, of the constant and of the stored noise are
tied to positions, so a head that turns would leave its details behind. The rules differ in what they ask the generator
about the way from w to the edited w'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.networks.features import CONST, KIND, NOISE
from hyperinverter.networks.generator import Synthesis
from hyperinverter.ops.factored import Residual
from hyperinverter.ops.precision import at_least_float32, no_autocast

Carrying = Literal["add", "fade", "warp", "follow"]
CARRYING: tuple[Carrying, ...] = get_args(Carrying)
# The last one carries nothing: see ``inversion.moving``.
Rule = Literal["add", "fade", "warp", "follow", "picture"]
RULES: tuple[Rule, ...] = get_args(Rule)
# px of the map on which movement is read: finer than the residuals, which move by parts of a pixel
FLOW_SIDE = 32
REACH = 3  # px of that map, the farthest movement that is looked for


def carried(
    rule: Carrying,
    synthesis: Synthesis,
    features: Mapping[str, Tensor],
    before: Tensor,
    after: Tensor,
    weights: Mapping[str, Residual] | None = None,
) -> dict[str, Tensor]:
    """Residuals that have a place, as an edit leaves them: see ``has_place``.

    - ``add``: as they were (the rule of Feature-Style encoder and CLCAE).
    - ``fade``: less where the edit changed the generator's own map at that place, ``exp(-(change / 0.5)^2)`` with the
      change in parts of the map's size: what was there is gone.
    - ``warp``: moved along with the generator's own map (the idea of WarpRes): the movement is read off its maps of
      32 px before and after.
    - ``follow``: both: moved along, and less where the moved map does not explain the new one.

    The constant has no map of its own: that of the layer behind it, ``b4.conv1``, is looked at.

    Args:
        rule: One of the four.
        synthesis: The generator's.
        features: ``b8.conv1.features`` -> ``(B, C, S, S)``, ``b8.conv1.noise`` -> ``(B, S, S)``, ``b4.const`` ->
            ``(B, C, 4, 4)``; or one of each for all codes.
        before: Codes of the photos, ``(B, D)`` or W+, or one for all.
        after: The edited codes, B of them.
        weights: Residuals of weights that both maps are drawn with; B of them.

    Returns:
        The same names, each shaped as it was given, for B codes.

    Raises:
        ValueError: For an unknown rule.
    """
    count = len(after)
    wide = {name: residual.expand(count, *residual.shape[1:]) for name, residual in features.items()}
    return Carrier(rule, synthesis, wide, before.expand(count, *before.shape[1:]), weights)(after)[0]


class Carrier:
    """``carried`` for many edits of the same photos: what does not depend on the edit is computed once.

    Where a residual goes and how much of it stays is taken as given: gradients reach the residuals themselves, not the
    maps that are compared. In training that saves the way back through two drawings.

    Args:
        rule, synthesis, features, before, weights: As of ``carried``; B of them, or one photo for any number of edits,
            whose residuals of weights are then part of ``synthesis``.
    """

    def __init__(
        self,
        rule: Carrying,
        synthesis: Synthesis,
        features: Mapping[str, Tensor],
        before: Tensor,
        weights: Mapping[str, Residual] | None = None,
    ) -> None:
        if rule not in CARRYING:
            raise ValueError(f"rule must be one of {', '.join(CARRYING)}, got {rule!r}")
        self.rule, self.synthesis, self.weights = rule, synthesis, weights
        self._flat = {name for name, residual in features.items() if residual.ndim == 3}  # noise: no channels
        self.features = {n: delta[:, None] if n in self._flat else delta for n, delta in features.items()}
        fades, moves = rule in ("fade", "follow"), rule in ("warp", "follow")
        places = [_place(name) for name in features] if fades else []
        self._flow_map = f"b{min(FLOW_SIDE, synthesis.resolutions[-1])}.conv1" if moves and features else ""
        # The last layer whose map the rule looks at; empty: it looks at none.
        self._last = max([*places, self._flow_map], key=_order)
        # Whether maps of an edit become part of its picture; if not even the first one does, they are looked at alone.
        self._drawn_again = bool(self._unchanged({"b4.conv1": before}))
        self._old: dict[str, Tensor] = {}
        self._movement: Movement | None = None
        if self._last:
            with torch.no_grad():
                old = synthesis.maps_to(before, self._last, weights)
            if fades:
                self._old = {name: at_least_float32(old[_place(name)]) for name in features}
            if self._flow_map:
                self._movement = Movement(at_least_float32(old[self._flow_map]))

    def __call__(
        self, after: Tensor, weights: Mapping[str, Residual] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Residuals for edited codes, shaped as they were given, and the maps that were drawn for them.

        The maps are those that no residual with a place changes: what ``Synthesis`` takes as ``drawn``.

        Args:
            after: The edited codes.
            weights: Residuals of weights that the edit is drawn with; None: those before it.
        """
        found = {name: residual.expand(len(after), -1, -1, -1) for name, residual in self.features.items()}
        if not self._last:
            return self._as_given(found), {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._drawn_again):
            new = self.synthesis.maps_to(after, self._last, self.weights if weights is None else weights)
        old: Mapping[str, Tensor] = self._old
        if self._movement is not None:
            flow = self._movement(_compared(new[self._flow_map]))
            found = {name: moved(residual, flow) for name, residual in found.items()}
            old = {name: moved(x.expand(len(after), -1, -1, -1), flow) for name, x in old.items()}
        for name, x in old.items():
            found[name] = found[name] * _kept(x, _compared(new[_place(name)]))
        return self._as_given(found), self._unchanged(new)

    def _as_given(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x[:, 0] if name in self._flat else x for name, x in found.items()}

    def _unchanged(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first of these maps, up to the first that is drawn otherwise with residuals that have a place."""
        kept: dict[str, Tensor] = {}
        for layer, x in maps.items():
            if f"{layer}{NOISE}" in self.features or CONST in self.features:
                break
            kept[layer] = x
            if f"{layer}{KIND}" in self.features:
                break
        return kept


def has_place(name: str) -> bool:
    """Whether a residual is tied to positions: of features, of the constant or of the stored noise."""
    return name == CONST or name.endswith((KIND, NOISE))


def _place(name: str) -> str:
    """The layer whose map says how it changes: ``b8.conv1.features`` -> ``b8.conv1``, likewise of noise."""
    return "b4.conv1" if name == CONST else name.removesuffix(KIND).removesuffix(NOISE)


def _order(layer: str) -> tuple[int, str]:
    """Layers in the order in which they are drawn; no layer comes first."""
    return (int(layer[1 : layer.index(".")]), layer) if layer else (0, "")


def _compared(x: Tensor) -> Tensor:
    """A map as rules look at it, without gradients."""
    return at_least_float32(x).detach()


def _kept(old: Tensor, new: Tensor, half: float = 0.5) -> Tensor:
    """1 where a map did not change, towards 0 where it did: ``(B, 1, S, S)``."""
    change = (new - old).square().mean(1, keepdim=True) / old.square().mean((1, 2, 3), keepdim=True)
    return torch.exp(-change / half**2)


class Movement:
    """Where each position of a map came from: ``new[p] ~ old[p + flow[p]]``.

    Positions are compared by the cosine of their channels over 3x3 neighbours; the flow is the mean of all offsets
    within reach, weighted by ``exp(sharpness * cosine)``. What the old map gives against itself is taken off, so that a
    map that did not change gives zero exactly. All of it is computed in the maps' own precision, in training with
    autocast as well: in bfloat16 offsets would be wrong by up to a tenth of a position.

    Args:
        old: ``(B, C, S, S)``, or one map for any number of new ones.
        reach: Largest offset along each axis, in positions.
        sharpness: Of the weights.
    """

    def __init__(self, old: Tensor, reach: int = REACH, sharpness: float = 30.0) -> None:
        self.reach, self.sharpness = reach, sharpness
        padded = F.pad(_unit(old), [reach] * 4, mode="replicate").permute(
            0, 2, 3, 1
        )  # (B, S + 2r, S + 2r, C)
        # Row y of the new map is compared with the 2r + 1 rows around it: one matrix product for each row.
        rows = padded.unfold(1, 2 * reach + 1, 1)  # (B, S, S + 2r, C, 2r + 1)
        self._rows = rows.permute(0, 1, 4, 2, 3).flatten(2, 3)  # (B, S, (2r + 1)(S + 2r), C)
        steps = torch.arange(-reach, reach + 1, dtype=old.dtype, device=old.device)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self._steps = torch.stack([x, y], dim=-1).flatten(0, 1)  # (K, 2)
        self._still = self._offsets(old)

    def __call__(self, new: Tensor) -> Tensor:
        """Offsets along x and y, in positions: ``(B, 2, S, S)``."""
        return self._offsets(new) - self._still

    def _offsets(self, new: Tensor) -> Tensor:
        count, _, side, _ = new.shape
        across, wide = 2 * self.reach + 1, side + 2 * self.reach
        rows = self._rows.expand(count, -1, -1, -1)
        with no_autocast(new):
            products = _unit(new).permute(0, 2, 3, 1) @ rows.transpose(2, 3)  # (B, S, S, (2r + 1)(S + 2r))
        # Position x needs columns x to x + 2r: in rows that are one longer they stand below each other.
        band = F.pad(products.flatten(2), (0, side)).unflatten(2, (side, across * wide + 1))
        band = band[..., :-1].unflatten(3, (across, wide))[..., :across]  # (B, S, S, 2r + 1, 2r + 1)
        likeness = band.flatten(3).permute(
            0, 3, 1, 2
        )  # (B, K, S, S), channels last: four times as fast below
        likeness = F.avg_pool2d(F.pad(likeness, [1] * 4, mode="replicate"), 3, stride=1)
        weights = (self.sharpness * likeness).softmax(1)
        with no_autocast(new):
            return torch.einsum("bkhw,kd->bdhw", weights, self._steps)


def movement(old: Tensor, new: Tensor) -> Tensor:
    """``Movement`` from one map to another, ``(B, C, S, S)`` each."""
    return Movement(old)(new)


def _unit(x: Tensor) -> Tensor:
    """Channels of every position without the map's mean, of length 1."""
    return F.normalize(x - x.mean((2, 3), keepdim=True), dim=1)


def moved(residual: Tensor, flow: Tensor) -> Tensor:
    """A map ``(B, C, S, S)`` read at positions moved by a flow ``(B, 2, T, T)`` of another map of the same picture."""
    side, fine = residual.shape[-1], flow.shape[-1]
    flow = F.adaptive_avg_pool2d(flow, side) if fine > side else F.interpolate(flow, (side, side))
    flow = flow.permute(0, 2, 3, 1) * (2 / fine)  # in the picture's coordinates, where it is 2 wide
    steps = (torch.arange(side, device=flow.device, dtype=flow.dtype) * 2 + 1) / side - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + flow
    return F.grid_sample(residual, grid, mode="bilinear", padding_mode="border", align_corners=False)
