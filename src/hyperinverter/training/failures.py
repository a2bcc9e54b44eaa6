"""Why a run of one or several processes failed: one sentence, and the traceback in a file."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Mapping
from pathlib import Path

from hyperinverter.contracts import UserError
from hyperinverter.system.errors import cause
from hyperinverter.system.processes import is_first, rank
from hyperinverter.system.terminal import short

_LARGEST_L2 = 100.0  # mean squared difference of images in [-1, 1]: 4 is the most that two pictures can have


def forget(folder: Path) -> None:
    """Remove the error logs of an earlier session."""
    for old in folder.glob(_error_log("*")):
        old.unlink()


def note(error: BaseException, folder: Path) -> str:
    """Write the traceback of the current exception to a file of this process; return why the run failed."""
    number, why = _origin(error, folder)
    with contextlib.suppress(OSError):  # the disk may be what failed
        text = f"{cause(error)}\n\n{traceback.format_exc()}"
        (folder / _error_log(rank())).write_text(text, encoding="utf-8")
    return f"process {number}: {why}" if number else why


def sentence(error: BaseException, folder: Path) -> str:
    """Why the run failed and where the traceback is, for the terminal."""
    number, why = _origin(error, folder)
    where = short(folder / _error_log(number))
    who = f"process {number}: " if number else ""
    return f"{who}{why} (traceback in {where}, or add debug=true)"


def _error_log(number: int | str) -> str:
    return "error.log" if number == 0 else f"error.process{number}.log"


def _origin(error: BaseException, folder: Path) -> tuple[int, str]:
    """Number and error of the process that failed first; the others only see a lost connection."""
    if is_first() and _lost_the_others(error):
        for path in sorted(folder.glob(_error_log("*"))):
            with contextlib.suppress(OSError, IndexError):
                number = path.name.removeprefix("error.process").removesuffix(".log")
                return int(number), path.read_text(encoding="utf-8").splitlines()[0]
    return rank(), cause(error)


def _lost_the_others(error: BaseException) -> bool:
    """Whether this is how the end of another process shows in this one (torch has no class of its own for it)."""
    words = ("connection", "peer", "gloo", "nccl", "socket", "timed out", "store", "process group")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def check_learned(numbers: Mapping[str, float], rank_by: str) -> None:
    """Refuse results that cannot be right: the run has measured them, but it has not learned.

    Args:
        numbers: Of the test.
        rank_by: The number that a sweep orders runs by.

    Raises:
        UserError: For a number that is not finite, or images that are far outside of [-1, 1].
    """
    for name in dict.fromkeys((rank_by, "test/l2")):
        value = numbers.get(name, 0.0)
        if not math.isfinite(value) or (name == "test/l2" and value > _LARGEST_L2):
            raise UserError(
                f"the run failed to learn: {name} is {value:.3g} after the test; try a lower phase.optimizer.lr, or "
                "trainer.precision=32-true"
            )
