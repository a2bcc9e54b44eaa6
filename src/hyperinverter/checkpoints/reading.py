"""Reading the weights of judges and starts: files that ship with the package, and files of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hyperinverter.checkpoints.registry import FETCHED, fetch_command, packaged_path
from hyperinverter.contracts import UserError


def read_packaged(key: str) -> dict[str, Tensor]:
    """Read a packaged safetensors file, by its name in ``registry.PACKAGED``; floating tensors as float32.

    Raises:
        UserError: If the file is missing, or is not the one this version was released with.
    """
    tensors = load_file(packaged_path(key))
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def read_foreign_weights(path: str | Path, label: str) -> dict[str, Tensor]:
    """Read a state dict saved by torch, bare or as ``state_dict`` of a checkpoint; nothing in the file is executed.

    Raises:
        UserError: If the file is missing (with its official address) or is not such a file.
    """
    source = FETCHED[label]
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"{label} needs {source.file}, which is not at {path}: fetch it with `{fetch_command(label)}`, or "
            f"download {source.page} by hand"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for bytes that are no checkpoint depends on the bytes
        raise UserError(
            f"{path} is not a weight file for {label}; replace it by {source.file} from {source.page}"
        ) from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise UserError(
            f"{path} holds no plain dictionary of tensors; {label} needs {source.file} from {source.page}"
        )
    return {str(name): t.float() if t.is_floating_point() else t for name, t in weights.items()}


def with_counters(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add BatchNorm's batch counters, which files of old torch versions lack and eval mode never reads."""
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.long) for name in counters} | dict(weights)
