"""Weights by a formula, for networks that a test computes in a second way."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def filled(network: nn.Module) -> dict[str, Tensor]:
    """Weights by a formula: every tensor different, sizes kept by scaling, statistics neither 0 nor 1."""
    state = {}
    for number, (name, tensor) in enumerate(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7311 + number).view(
            tensor.shape
        )
        if name.endswith("running_var"):
            wave = 1 + 0.3 * wave
        elif tensor.ndim == 1:
            wave = 0.1 * wave if name.endswith(("bias", "running_mean")) else 0.6 + 0.2 * wave
        else:
            wave = wave * math.sqrt(2 / tensor[0].numel())
        state[name] = wave.float()
    return state
