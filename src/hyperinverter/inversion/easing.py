"""How much of what was found for a photo an edit keeps: all of it next to the photo, less the farther it goes.

Residuals describe a photo where it is. They hold the face still there: an edit that keeps all of them moves the picture
less, and details stay where the face no longer is. A lower strength lets go of both, but of the photo too. So the
strength follows the edit: 1 without one, so that the inversion is untouched, and ``edit_strength`` from two standard
deviations of w on, with a straight line in between.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAR = 2.0  # standard deviations of w along an edit: what directions are measured at (evaluation.editability)


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
    step = (after - before).float().reshape(len(after), -1, after.shape[-1])  # (B, L or 1, D)
    along = torch.einsum("bld,de,ble->bl", step, covariance.to(step), step)
    smallest = torch.finfo(step.dtype).tiny
    return (step.square().sum(-1) / along.clamp_min(smallest).sqrt()).amax(1)


def kept(before: Tensor, after: Tensor, covariance: Tensor, edit_strength: float) -> Tensor:
    """The strength that an edit leaves to residuals, ``(B,)``: 1 where nothing moved, ``edit_strength`` at ``FAR``."""
    far = (distance(before, after, covariance) / FAR).clamp(max=1)
    return 1 - (1 - edit_strength) * far
