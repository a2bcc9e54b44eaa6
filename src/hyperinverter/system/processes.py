"""Which process of a run is this, who started it, and how many are there: what the environment says.

torchrun, srun and Lightning tell a process its place by variables. They are read here and nowhere else.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from hyperinverter.contracts import UserError
from hyperinverter.system.errors import first_line

# What a job that is started from a process of another run must not inherit.
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED"),
    *("PL_SEED_WORKERS", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    *("WANDB_RUN_ID", "WANDB_SERVICE"),
)

_OUTSIDE = ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID")  # set by torchrun and by srun
_STARTED_BY = {  # rank -> variables of those who set it; Lightning gives its helpers a port, but no RANK
    "LOCAL_RANK": (*_OUTSIDE, "MASTER_PORT"),
    "NODE_RANK": (*_OUTSIDE, "MASTER_PORT"),
    "RANK": _OUTSIDE,
    "SLURM_PROCID": ("SLURM_STEP_ID",),
}

_STARTED = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]  # one name per process, to the millisecond


class Starter(NamedTuple):
    """Who started the processes of this command, and how many."""

    name: Literal["torchrun", "srun", "nobody"]
    processes: int


def starter(environment: Mapping[str, str] | None = None) -> Starter:
    """Whether torchrun or srun started this process, and how many with it; one process without them."""
    found = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in found:
        return Starter("torchrun", int(found.get("WORLD_SIZE") or 1))
    if "SLURM_STEP_ID" in found:
        return Starter("srun", int(found.get("SLURM_NTASKS") or 1))
    return Starter("nobody", 1)


def fresh_environment(keep: Collection[str] = ()) -> dict[str, str]:
    """The environment for a process that is not part of this process's run.

    Args:
        keep: Variables it inherits although they tell this process its place.
    """
    return {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES or name in keep}


def is_first() -> bool:
    """Whether this process speaks for the run: the only one, or global rank 0."""
    return not any(map(_number, ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")))


def refuse_stray_ranks(environment: Mapping[str, str] | None = None) -> None:
    """Refuse a rank that is left over in the environment: the run would train without keeping anything.

    Raises:
        UserError: If a variable says that this is not the first process, and nobody has started several.
    """
    found = os.environ if environment is None else environment
    for name, starters in _STARTED_BY.items():
        if found.get(name) not in (None, "", "0") and not any(found.get(other) for other in starters):
            raise UserError(
                f"{name}={found[name]} is set in this shell, but nothing started several processes: unset {name}, or "
                "start them with torchrun or srun"
            )


def rank() -> int:
    """Number of this process in its run, over all machines as far as the environment says."""
    names = ("RANK", "SLURM_PROCID") if starter().processes > 1 else ("LOCAL_RANK",)
    return next((_number(name) for name in names if os.environ.get(name)), 0)


def knows_its_node() -> bool:
    """Whether this process knows which of several machines it runs on."""
    return "NODE_RANK" in os.environ


def _number(name: str) -> int:
    return int(os.environ.get(name) or 0)


def refuse_ranks(environment: Mapping[str, str] | None = None) -> None:
    """Stop where a sweep would run once per process.

    Raises:
        UserError: Under torchrun, or inside an srun step of several tasks.
    """
    found = os.environ if environment is None else environment
    way_out = "start the sweep without it; each job starts its own processes (trainer=ddp)"
    by = starter(found)
    if by.name == "torchrun" or int(found.get("WORLD_SIZE") or 1) > 1:
        raise UserError(f"a sweep under torchrun would run once in every process: {way_out}")
    if by.processes > 1:
        raise UserError(f"a sweep under srun with several tasks would run once in every task: {way_out}")


@functools.cache
def moment() -> str:
    """When this run began, as its folder's name says: the same in all processes of torchrun or srun.

    Raises:
        UserError: Under torchrun, if its processes cannot be asked.
    """
    by = starter()
    if by.processes == 1:
        return _STARTED
    if by.name == "torchrun":
        return _agreed(_STARTED)
    return f"slurm-{os.environ['SLURM_JOB_ID']}-{os.environ['SLURM_STEP_ID']}"


def _agreed(mine: str) -> str:
    """What the first process to ask has said, through the store that torchrun keeps for its processes."""
    from torch.distributed import TCPStore

    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=60))
        return store.compare_set(f"hyperinverter/{os.environ['TORCHELASTIC_RUN_ID']}", "", mine).decode()
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of this run cannot agree on a folder ({first_line(error)}): give them one with "
            "hydra.run.dir=PATH"
        ) from error
