"""Tensors with a byte per number, for files that ship; ``unpack`` gives back float32.

Next to a packed tensor ``NAME`` stands how to read it:

- ``NAME.values``, ``(rows, K)`` or ``(1, K)``: every number of a row is a place in the row's table (or the only one).
  Exact; possible where few different numbers occur, as in networks that were published with 8 bits.
- ``NAME.scale``: numbers from -127 to 127 times a scale per row or column. Off by at most half a scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

VALUES, SCALE = ".values", ".scale"
LEAST = 4096  # numbers in a tensor that is worth packing


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Packed tensors as float32, the others as they are.

    Raises:
        ValueError: If a packed tensor and its table or scale do not belong together.
    """
    tensors = dict(stored)
    for name, packed in stored.items():
        if packed.dtype == torch.uint8 and (table := tensors.pop(f"{name}{VALUES}", None)) is not None:
            tensors[name] = _looked_up(name, packed, table.float())
        elif packed.dtype == torch.int8 and (scale := tensors.pop(f"{name}{SCALE}", None)) is not None:
            if torch.broadcast_shapes(packed.shape, scale.shape) != packed.shape:
                raise ValueError(f"the scale of {name} does not fit")
            tensors[name] = packed.float() * scale.float()
    return tensors


def _looked_up(name: str, packed: Tensor, table: Tensor) -> Tensor:
    places = (
        packed.reshape(len(table), -1).long() if table.ndim == 2 and len(table) in (1, len(packed)) else None
    )
    if places is None or int(places.max()) >= table.shape[1]:
        raise ValueError(f"the table of {name} does not fit")
    return table.gather(1, places).reshape(packed.shape)


def exactly(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """A tensor as places in tables of its own numbers; None where that takes more room, or 256 are not enough.

    One table where 256 numbers are enough for all rows, else one for each row.
    """
    for rows in (tensor.reshape(1, -1), tensor.reshape(len(tensor), -1)):
        tables = [row.unique() for row in rows]
        width = max(len(table) for table in tables)
        if width > 256:
            continue
        size = tensor.numel() + len(rows) * width * tensor.element_size()
        if size >= tensor.numel() * tensor.element_size():
            continue
        places = torch.stack([torch.searchsorted(t, r) for t, r in zip(tables, rows, strict=True)])
        padded = torch.stack([torch.cat([t, t[-1:].expand(width - len(t))]) for t in tables])
        return {name: places.to(torch.uint8).reshape(tensor.shape), f"{name}{VALUES}": padded}
    return None


def nearly(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor of two or more dimensions, rounded to 8 bits; scales per row or per column, whichever is closer."""
    packed: dict[str, Tensor] = {}
    least = float("inf")
    for kept in (0, 1):
        others = tuple(axis for axis in range(tensor.ndim) if axis != kept)
        scale = (tensor.abs().amax(others, keepdim=True) / 127).half()
        scale = scale.clamp(min=torch.finfo(torch.float16).smallest_normal)
        rounded = (tensor / scale.float()).round().clamp(-127, 127)
        error = float((rounded * scale.float() - tensor).norm())
        if error < least:
            least = error
            packed = {name: rounded.to(torch.int8), f"{name}{SCALE}": scale}
    return packed
