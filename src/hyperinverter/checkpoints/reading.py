"""Read tensors that ship with the package or are others', and say in one sentence what is wrong with a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hyperinverter.checkpoints import pickles
from hyperinverter.checkpoints.packing import unpack
from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.registry import FETCHED, fetch_command, packaged_path
from hyperinverter.checkpoints.unwrapping import unwrap
from hyperinverter.contracts import UserError
from hyperinverter.system import kinds
from hyperinverter.system.errors import first_line

# What shapes or descriptions that no network can have trip over.
IMPOSSIBLE = (ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError, LookupError)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file; packed tensors are unpacked.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return unpack(stored), dict(file.metadata() or {})
    except (SafetensorError, OSError, *IMPOSSIBLE) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({first_line(error)}): it is cut short or of another kind; restore "
            "it from its source"
        ) from error


def as_floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors as float32, the others as they are."""
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def read_packaged(key: str) -> dict[str, Tensor]:
    """Read a packaged safetensors file, by its name in ``registry.PACKAGED``; floating tensors as float32.

    Raises:
        UserError: If the file is missing, or is not the one this version was released with.
    """
    return as_floats(read_safetensors(packaged_path(key))[0])


def read_foreign_weights(path: str | Path, label: str) -> dict[str, Tensor]:
    """Read a state dict saved by torch, whatever it is wrapped in; nothing in the file is executed.

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
        found = unwrap(pickles.read(path), bool)
        tensors = pickles.load_tensors(found.stored, path) if found else {}
    except (Unreadable, OSError) as error:
        raise UserError(
            f"{path} is not a weight file for {label}; replace it by {source.file} from {source.page}"
        ) from error
    if not tensors:
        raise UserError(
            f"{path} holds no plain dictionary of tensors; {label} needs {source.file} from {source.page}"
        )
    return tensors


def with_counters(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add BatchNorm's batch counters, which files of old torch versions lack and eval mode never reads."""
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.long) for name in counters} | dict(weights)


def existing(path: str | Path) -> Path:
    """The file at a path.

    Raises:
        UserError: If there is none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {file}; check its path")
    return file


def nothing_known(file: Path, way_out: str) -> UserError:
    """The sentence for a file that is no container of weights at all."""
    if file.stat().st_size == 0:
        return UserError(f"{file} is empty; {way_out}")
    known = kinds.archive(file) or kinds.other(file)
    if known is not None:
        return UserError(f"{file} {known[0]}; {known[1]}")
    return UserError(
        f"{file} is neither a torch file, a pickle nor safetensors: it is cut short or of another kind; {way_out}"
    )


def refuse_archive(file: Path) -> None:
    """Raise ``UserError`` for an archive that torch did not write, with the way to unpack it."""
    known = kinds.archive(file)
    if known is not None:
        raise UserError(f"{file} {known[0]}, not the network itself; {known[1]}")


@contextmanager
def reported(file: Path, way_out: str) -> Iterator[None]:
    """Turn a reader's reason into the sentence a person reads."""
    try:
        yield
    except Unreadable as error:
        raise UserError(f"{file} {error.reason}; {error.mend or way_out}") from error
    except (OSError, MemoryError) as error:
        raise UserError(
            f"{file} cannot be read ({first_line(error)}); check the disk and free memory"
        ) from error
    except IMPOSSIBLE as error:  # such as a w of no numbers
        raise UserError(f"{file} is not a possible network ({first_line(error)}); {way_out}") from error


@contextmanager
def fitting(file: Path, way_out: str) -> Iterator[None]:
    """Turn what a wrong description trips over into the sentence a person reads."""
    try:
        yield
    except IMPOSSIBLE as error:
        raise UserError(f"{file} does not fit: {first_line(error)}; {way_out}") from error
