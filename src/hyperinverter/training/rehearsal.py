"""What would fail at the end of a run, tried before its first step: numbers, losses, weights, room on the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import OTHER_OUTPUTS, writing, writing_to
from hyperinverter.tasks.common import PhaseTask

_FILES = 4  # last.ckpt, the one before, best.ckpt, and the one that is being written


def rehearse(task: PhaseTask, folder: Path, *, rank_by: str, monitor: str, average: bool = False) -> None:
    """Try every number and loss on one photo of the real size, and see that checkpoints fit on the disk.

    Random states, statistics and weights stay as they are.

    Args:
        task: The run's.
        folder: The run folder.
        rank_by: The test number that orders a sweep.
        monitor: The validation number that decides which checkpoint is best.
        average: Whether checkpoints hold an average of the weights as well.

    Raises:
        UserError: For whatever would fail later.
    """
    check_weights(task)
    with writing_to(folder, checkpoint_bytes(task, average) * _FILES, OTHER_OUTPUTS):
        pass
    side = int(task.inverter.resolution)  # type: ignore[arg-type]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        photo = torch.rand(1, 3, side, side) * 2 - 1
        image = photo.flip(3)
        _tried("the loss", side, lambda: task.loss(image, photo))
        task.metrics.reset()
        _tried("a measure", side, lambda: task.metrics.update({"": image}, photo, ["rehearsal"]))
        names = _tried("a measure", side, lambda: list(task.metrics.compute()))
        task.metrics.reset()
    for key, split, name in (("phase.rank_by", "test", rank_by), ("phase.monitor", "val", monitor)):
        plain = name.removeprefix(f"{split}/").removeprefix("phase1/")
        if plain not in names and not plain.endswith("seconds_per_image"):
            listed = ", ".join(f"{split}/{known}" for known in names)
            raise UserError(f"{key}={name} is not measured; there are: {listed}")


def check_cache(folder: Path, source: str) -> None:
    """See that what a run keeps between runs can be written: built-in faces, splits, decoded photos.

    Args:
        folder: ``paths.cache``.
        source: ``data.source``.

    Raises:
        UserError: If it cannot, and is not there already.
    """
    with writing(folder, "choose another folder with paths.cache=FOLDER"):
        folder.mkdir(parents=True, exist_ok=True)
        there = (folder / "digiface" if source == "digiface" else folder / "folders").is_dir()
        if not there and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_weights(task: PhaseTask) -> None:
    """Refuse weights that are not numbers: every image would be black, and every loss not a number.

    Raises:
        UserError: With the name of the first tensor.
    """
    for name, tensor in _tensors(task):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"the weights {name} that this run begins with are not all finite numbers: its file is damaged, or "
                "comes from a run that failed to learn; choose another generator.path or phase.from_run"
            )


def checkpoint_bytes(task: PhaseTask, average: bool = False) -> int:
    """Bytes of a checkpoint, at most: weights, two numbers of the optimizer for each that is trained, the average."""
    stored = sum(tensor.nbytes for tensor in task.state_dict().values())
    trained = sum(parameter.nbytes for parameter in task.parameters() if parameter.requires_grad)
    return stored + (2 + average) * trained


def _tensors(task: PhaseTask) -> Iterator[tuple[str, Tensor]]:
    yield from task.state_dict().items()
    generator = getattr(task.inverter, "generator", None)
    if generator is not None:
        yield from ((f"generator.{name}", tensor) for name, tensor in generator.state_dict().items())


def _tried(what: str, side: int, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{what} of this run cannot take photos of {side} px ({first_line(error)}): choose other judges.* or "
            "another loss"
        ) from error
