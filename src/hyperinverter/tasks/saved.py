"""What a run leaves to go on from: whole files only, checked when read, and the random state of every process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.contracts import UserError

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


# Files ----------------------------------------------------------------------------------------------------


def newest_readable(folder: Path) -> tuple[Path, dict[str, Any], str | None] | None:
    """The newest whole checkpoint of a run: ``last.ckpt``, or the one before if the last is damaged.

    Args:
        folder: The folder of checkpoints.

    Returns:
        Path, content, and what was wrong with the file that would have come first, or None; None if there is
        no checkpoint at all.

    Raises:
        UserError: If there are checkpoints and none can be read.
    """
    trouble: UserError | None = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            return path, read_checkpoint(path), None if trouble is None else str(trouble)
        except UserError as error:
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    return None


# Random state ---------------------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """State of every random generator of this process, as tensors and plain numbers."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Continue where :func:`random_state` was taken."""
    torch.set_rng_state(state["torch"])
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002  # libraries draw from it
        (numpy["kind"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"])
    )
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def of_every_process(value: Any) -> list[Any]:
    """The values of all processes, by rank; to be called by all of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
