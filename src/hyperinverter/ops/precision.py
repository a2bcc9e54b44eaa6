"""In how many digits sums are made that half precision would lose, or overflow."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays, so that references for tests have all their digits."""
    return x if x.dtype == torch.float64 else x.float()
