"""Edits in the finished picture: what an inversion adds to the generator's own picture moves along with that picture.

Residuals that are drawn again hold a face still, whichever way a feature residual is carried: they were found for the
photo where it was. The generator's own picture has no such memory and goes all the way. So the edit is drawn without
residuals, and what the inversion added to it before is laid on top, at the place where that part of the face is now.
(WarpRes and StyleFeatureEditor ask networks where it is; here it is read off the generator's maps, coarse to fine.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.inversion.carrying import FLOW_SIDE, Movement, moved
from hyperinverter.networks.generator import Synthesis
from hyperinverter.ops.precision import at_least_float32

FINE_SIDE = 64  # px of the map that movements are read off again, once the coarse ones are undone
# Reach and sharpness of the second reading, and positions around each over which it is averaged: chosen on 128
# validation photos of the built-in domain (outputs/published/LOG.md).
_REACH, _SHARPNESS, _BLUR = 2, 100.0, 1


class Moved(NamedTuple):
    """An edit in the picture, ``(B, 3, R, R)`` each.

    Attributes:
        plain: The generator's own picture of the edited codes.
        detail: What the inversion adds to it.
        before: The generator's own picture as it was, moved likewise: where it differs from ``plain``, the edit made
            something new.
    """

    plain: Tensor
    detail: Tensor
    before: Tensor


class Moving:
    """Edits of the same photos; what does not depend on the edit is computed once.

    Args:
        synthesis: The generator's.
        before: Codes of the photos, ``(B, D)`` or W+; or of one photo, for any number of edits.
        image: Their inversions, ``(B, 3, R, R)``.
    """

    def __init__(self, synthesis: Synthesis, before: Tensor, image: Tensor) -> None:
        self.synthesis = synthesis
        largest = synthesis.resolutions[-1]
        self._coarse, self._fine = (f"b{min(side, largest)}.conv1" for side in (FLOW_SIDE, FINE_SIDE))
        old = synthesis.maps_to(before, self._fine)
        w_image = synthesis(before, drawn=old)
        self._both = torch.cat([image - w_image, w_image], 1)
        self._movement = Movement(at_least_float32(old[self._coarse]))
        self._map = at_least_float32(old[self._fine])

    def __call__(self, after: Tensor, styles: Mapping[str, Tensor] | None = None) -> Moved:
        """Draw edited codes, B of them; ``styles`` is what ``shifting.style_shifts`` gives for the edit."""
        new = self.synthesis.maps_to(after, self._fine, styles)
        plain = self.synthesis(after, styles, drawn=new)
        flow = self._movement(at_least_float32(new[self._coarse]))
        if self._fine != self._coarse:
            flow = self._again(flow, at_least_float32(new[self._fine]))
        both = self._both.expand(len(after), -1, -1, -1)
        detail, before = moved(both, resized(flow, both.shape[-1])).to(plain.dtype).chunk(2, 1)
        return Moved(plain, detail, before)

    def _again(self, flow: Tensor, new: Tensor) -> Tensor:
        """A flow with what is left to move on the fine map, ``(B, 2, T, T)``."""
        old = self._map.expand(len(new), -1, -1, -1)
        flow = resized(flow, new.shape[-1])
        rest = Movement(moved(old, flow), _REACH, _SHARPNESS)(new)
        rest = F.avg_pool2d(F.pad(rest, [_BLUR] * 4, mode="replicate"), 2 * _BLUR + 1, stride=1)
        return moved(flow, rest) + rest


def resized(flow: Tensor, side: int) -> Tensor:
    """A flow ``(B, 2, S, S)`` on a map of another size, in its positions."""
    if flow.shape[-1] == side:
        return flow
    found = F.interpolate(flow, (side, side), mode="bilinear", align_corners=False)
    return found * (side / flow.shape[-1])
