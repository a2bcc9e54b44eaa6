"""What all pretrained, never-trained networks share: strict loading and staying in eval mode."""

from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hyperinverter.contracts import UserError

FrozenT = TypeVar("FrozenT", bound="Frozen")


class Frozen(nn.Module):
    """A module that never learns: its parameters want no gradient and ``train()`` leaves it in eval mode.

    Gradients still flow through it to its input.
    """

    def freeze(self: FrozenT) -> FrozenT:
        """Switch gradients of the parameters off and go to eval mode; call at the end of ``__init__``."""
        self.requires_grad_(False)
        return self.train(False)

    def train(self: FrozenT, mode: bool = True) -> FrozenT:
        """Stay in eval mode whatever ``mode`` says, because the statistics belong to the weights."""
        return super().train(False)


def asset_path(name: str) -> Path:
    """Return the path of a weight file that ships with the package."""
    return Path(str(resources.files("hyperinverter") / "assets" / name))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; floating tensors come back as float32 on the CPU.

    Raises:
        UserError: If the file is missing or is not a complete safetensors file.
    """
    if not path.is_file():
        raise UserError(f"weight file {path} is missing; reinstall hyperinverter or restore the file")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"weight file {path} cannot be read as safetensors ({error}); restore it from its source"
        ) from error
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    """Copy ``tensors`` into ``module``; names and shapes must match exactly.

    Raises:
        UserError: If a tensor is missing, left over or of another shape, naming the first such tensors.
    """
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    reshaped = sorted(n for n in expected.keys() & found.keys() if expected[n] != found[n])
    if missing or extra or reshaped:
        problems = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", reshaped))
            if names
        ]
        raise UserError(
            f"{source} does not hold the weights of {type(module).__name__}: tensors {', '.join(problems)}; "
            "give the file made for this network"
        )
    with torch.no_grad():
        module.load_state_dict(tensors, strict=True)
