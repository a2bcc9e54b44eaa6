"""Where an edit lets go of what was found for a photo: there where it changes the generator's own picture.

Residuals describe a photo where it is. They hold the face still there: an edit that keeps all of them moves the picture
less, and details stay where the face no longer is. Elsewhere they are right: a smile does not change the hair. So the
edit is drawn with all residuals and with none, and at every place the second one counts the more, the more it differs
there from the initial image, and the farther the edit goes: all the way from two standard deviations of w on.
(StyleFeatureEditor and WarpRes ask networks for such maps; here it is read off.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.ops.precision import at_least_float32

FAR = 2.0  # standard deviations of w along an edit: what directions are measured at (evaluation.editability)
SIDE = 64  # px at which changes are looked at; larger pictures are made smaller
# An edit lets go of all where its change is this large, in [-1, 1], or this part of its largest, whichever is more.
LEAST, PART = 0.1, 0.7
# Pixels around a position that count as one place, and that go along with it. All four were chosen on 128 validation
# photos of the built-in domain (outputs/published/LOG.md).
_BLUR, _WIDEN = 3, 4


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
    along = torch.einsum("bld,de,ble->bl", step, covariance.to(step), step)
    smallest = torch.finfo(step.dtype).tiny
    return (step.square().sum(-1) / along.clamp_min(smallest).sqrt()).amax(1)


def changed(before: Tensor, after: Tensor) -> Tensor:
    """How much an edit changes the generator's own picture at every place.

    Args:
        before: The picture of the codes as they were, without residuals, ``(B, 3, R, R)`` in [-1, 1]; or one for all.
        after: Likewise, of the edited codes.

    Returns:
        ``(B, 1, R, R)`` in [0, 1]: exactly 0 where nothing changed around a place, 1 from a root mean square of
        ``LEAST`` or of ``PART`` of the picture's largest on, whichever is more.
    """
    change = at_least_float32(after - before).square().mean(1, keepdim=True)
    side = change.shape[-1]
    if side > SIDE:
        change = F.adaptive_avg_pool2d(change, SIDE)
    change = _blurred(change, _BLUR)
    change = _blurred(F.max_pool2d(change, 2 * _WIDEN + 1, stride=1, padding=_WIDEN), _WIDEN).sqrt()
    full = (PART * change.amax((2, 3), keepdim=True)).clamp_min(LEAST)
    found = (change / full).clamp(max=1)
    if side > SIDE:
        found = F.interpolate(found, (side, side), mode="bilinear", align_corners=False)
    return found


def eased(kept: Tensor, plain: Tensor, before: Tensor, far: Tensor, edit_strength: float) -> Tensor:
    """An edit that keeps residuals where it changes nothing, and lets go of them where it changes much.

    Args:
        kept: The edit with all residuals, ``(B, 3, R, R)``.
        plain: The edit without residuals.
        before: The picture before the edit, without residuals; or one for all.
        far: How far the edit goes, ``(B,)``, see ``distance``.
        edit_strength: What is left of residuals where an edit of ``FAR`` or more changes the picture, from 0 to 1.

    Returns:
        Shaped like ``kept``; the same numbers where nothing changed.
    """
    part = (1 - edit_strength) * (far / FAR).clamp(max=1).view(-1, 1, 1, 1)
    return kept + (part * changed(before, plain)).to(kept.dtype) * (plain - kept)


def _blurred(image: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(F.pad(image, [radius] * 4, mode="replicate"), 2 * radius + 1, stride=1)
