"""Read tensors that ship with the package or are others', and say in one sentence what is wrong with a file."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hyperinverter.checkpoints import pickles
from hyperinverter.checkpoints.packing import unpack
from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.registry import FETCHED, fetch_command, packaged_content
from hyperinverter.checkpoints.shapes import Load
from hyperinverter.checkpoints.unwrapping import unwrap
from hyperinverter.contracts import UserError
from hyperinverter.system import kinds
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import as_path, check_readable

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
    return as_floats(unpack(safetensors.torch.load(packaged_content(key))))


def read_foreign_weights(
    path: str | Path, label: str, first: str, places: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Read the weights of a judge or a start out of whatever they are wrapped in; nothing in the file is executed.

    Args:
        path: A file of torch, a pickle or safetensors.
        label: In ``registry.FETCHED``: what the file should be, and where it comes from.
        first: Name of a tensor by which the network is recognised, such as ``conv1.weight``.
        places: Beginnings of names under which the network may be kept, such as ``encoder_q``.

    Returns:
        Floating tensors as float32. Without ``first`` among them where the file holds tensors of something else.

    Raises:
        UserError: If the file is missing (with its official address) or is not such a file.
    """
    source = FETCHED[label]
    file = as_path(path)
    if not file.is_file():
        raise UserError(
            f"{label} needs {source.file}, which is not at {file}: fetch it with `{fetch_command(label)}`, or "
            f"download {source.page} by hand"
        )
    way_out = f"{label} needs {source.file} from {source.page}"
    content, load = content_of(file, way_out)
    with reported(file, way_out):
        found = unwrap(content, lambda names: first in names, places) or unwrap(content, bool)
        if found is None:
            raise Unreadable("holds no tensors by name")
        return load(found.stored)


def content_of(file: Path, way_out: str) -> tuple[Any, Load]:
    """What a torch file, a pickle or a safetensors file of others holds, and what loads tensors out of it.

    Nothing in the file is executed, archives are checked before they are unpacked, and work is bounded by its size.

    Raises:
        UserError: If it is none of these, damaged, or costs more than its size.
    """
    container = pickles.kind_of(file)
    if container == "other":
        raise nothing_known(file, way_out)
    if container == "safetensors":
        return read_safetensors(file)[0], as_floats
    refuse_archive(file)
    with reported(file, way_out):
        return pickles.read(file), functools.partial(pickles.load_tensors, path=file)


def with_counters(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add BatchNorm's batch counters, which files of old torch versions lack and eval mode never reads."""
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.long) for name in counters} | dict(weights)


def existing(path: str | Path) -> Path:
    """The file at a path.

    Raises:
        UserError: If there is none.
    """
    file = as_path(path)
    if not file.is_file():
        raise UserError(f"there is no file {file}; check its path")
    check_readable(file)
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
        raise UserError(f"{file} {error.reason}; {error.fix or way_out}") from error
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
