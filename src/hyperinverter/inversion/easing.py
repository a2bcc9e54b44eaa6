"""Where an edit lets go of what was found for a photo: there where it changes the generator's own picture.

Residuals describe a photo where it is. They hold the face still there: an edit that keeps all of them moves the picture
less, and details stay where the face no longer is. Elsewhere they are right: a smile does not change the hair. So the
edit is drawn with all residuals and with none, and at every place the second one counts the more, the more it differs
there from the initial image, and the farther the edit goes: all the way from two standard deviations of w on. Where
details moved along with the picture (``inversion.moving``) the initial image is moved likewise before it is compared.
(StyleFeatureEditor and WarpRes ask networks for such maps; here it is read off.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.ops.precision import at_least_float32, no_autocast

FAR = 2.0  # standard deviations of w along an edit: what directions are measured at (evaluation.editability)
SIDE = 64  # px at which changes are looked at; larger pictures are made smaller
_BLUR = 3  # pixels around a position that are looked at together


class Change(NamedTuple):
    """Which change of the picture lets go of all.

    Attributes:
        least, part: One as large, in [-1, 1], or this part of its largest, whichever is more.
        around: Pixels around a position that go along with it.
    """

    least: float
    part: float
    around: int


# DRAWN was tried on 128 validation photos of the built-in domain; MOVED was chosen on 256 of them by a rule that was
# fixed before (hyperinverter_recipes.moved_choice). Details that are drawn again sit where the face no longer is, so
# what lies around a change goes with it; those that moved along sit right.
DRAWN, MOVED = Change(0.1, 0.7, 4), Change(0.16, 1.0, 0)


def distance(before: Tensor, after: Tensor, covariance: Tensor) -> Tensor:
    """How far codes were moved, in standard deviations of w along the way: ``|d|^2 / sqrt(d' C d)``.

    Args:
        before: ``(B, D)`` or W+, ``(B, L, D)``.
        after: Likewise; layers that moved differently are compared one by one, and the farthest counts.
        covariance: C, of the generator's codes, ``(D, D)``.

    Returns:
        ``(B,)`` in float32; 0 exactly where nothing moved.
    """
    if before.ndim != after.ndim:
        before, after = (w[:, None] if w.ndim == 2 else w for w in (before, after))
    step = at_least_float32(after - before).reshape(len(after), -1, after.shape[-1])  # (B, L or 1, D)
    with no_autocast(step):
        along = torch.einsum("bld,de,ble->bl", step, covariance.to(step), step)
    smallest = torch.finfo(step.dtype).tiny
    return (step.square().sum(-1) / along.clamp_min(smallest).sqrt()).amax(1)


def changed(before: Tensor, after: Tensor, full: Change = DRAWN) -> Tensor:
    """How much an edit changes the generator's own picture at every place.

    Args:
        before: The picture of the codes as they were, without residuals, ``(B, 3, R, R)`` in [-1, 1]; or one for all.
        after: Likewise, of the edited codes.
        full: Which change counts completely.

    Returns:
        ``(B, 1, R, R)`` in [0, 1]: exactly 0 where nothing changed around a place, 1 from a root mean square of
        ``full`` on.
    """
    change = at_least_float32(after - before).square().mean(1, keepdim=True)
    side = change.shape[-1]
    if side > SIDE:
        change = F.adaptive_avg_pool2d(change, SIDE)
    change = _blurred(change, _BLUR)
    if full.around:
        widest = F.max_pool2d(change, 2 * full.around + 1, stride=1, padding=full.around)
        change = _blurred(widest, full.around)
    change = change.sqrt()
    found = (change / (full.part * change.amax((2, 3), keepdim=True)).clamp_min(full.least)).clamp(max=1)
    if side > SIDE:
        found = F.interpolate(found, (side, side), mode="bilinear", align_corners=False)
    return found


def eased(
    kept: Tensor, plain: Tensor, before: Tensor, far: Tensor, edit_strength: float, full: Change = DRAWN
) -> Tensor:
    """An edit that keeps residuals where it changes nothing, and lets go of them where it changes much.

    Args:
        kept: The edit with all residuals, ``(B, 3, R, R)``.
        plain: The edit without residuals.
        before: The picture before the edit, without residuals; or one for all.
        far: How far the edit goes, ``(B,)``, see ``distance``.
        edit_strength: What is left of residuals where an edit of ``FAR`` or more changes the picture, from 0 to 1.
        full: Which change counts completely.

    Returns:
        Shaped like ``kept``; the same numbers where nothing changed.
    """
    part = (1 - edit_strength) * (far / FAR).clamp(max=1).view(-1, 1, 1, 1)
    return kept + (part * changed(before, plain, full)).to(kept.dtype) * (plain - kept)


def _blurred(image: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(F.pad(image, [radius] * 4, mode="replicate"), 2 * radius + 1, stride=1)
