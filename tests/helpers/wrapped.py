"""What people wrap a state dict in."""

from __future__ import annotations

from typing import Any

from torch import nn

State = dict[str, Any]


def renamed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def as_arrays(state: State) -> State:
    return {name: tensor.numpy() for name, tensor in state.items()}


def as_modules(state: State) -> nn.Module:
    """A module whose ``state_dict()`` is ``state``, of classes that torch's own files name."""
    root = nn.Module()
    for name, tensor in state.items():
        at = root
        *path, last = name.split(".")
        for part in path:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at._modules[part]  # type: ignore[assignment]
        at.register_buffer(last, tensor)
    return root
