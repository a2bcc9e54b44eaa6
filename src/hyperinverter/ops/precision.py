"""In how many digits sums are made that half precision would lose, or overflow; whether numbers are finite."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays, so that references for tests have all their digits."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which operations on ``x`` keep its precision."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)  # meta has none


def all_finite(x: Tensor) -> bool:
    """Whether ``x`` holds neither not-a-number nor infinities, in one pass: the sum of others is seldom infinite."""
    return math.isfinite(float(x.sum())) or bool(x.isfinite().all())
