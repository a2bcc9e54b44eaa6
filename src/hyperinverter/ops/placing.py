"""Bringing small tensors of the host to a GPU without waiting for what was asked of it before."""

from __future__ import annotations

from torch import Tensor


def placed(x: Tensor, like: Tensor) -> Tensor:
    """``x`` on the device of ``like`` and in its type.

    A plain ``to`` empties the GPU's queue first. That is needed only in the other direction: the host must not read
    what is not there yet.
    """
    return x.to(like, non_blocking=like.is_cuda and x.device.type == "cpu")
