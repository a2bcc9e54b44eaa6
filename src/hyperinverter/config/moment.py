"""When this run began, the same in all of its processes."""

import functools
import os
from datetime import datetime, timedelta

from omegaconf import OmegaConf

from hyperinverter.contracts import UserError

_STARTED = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]  # one name per process, to the millisecond


@functools.cache
def moment() -> str:
    """When this run began, as its folder says it: the same in all processes that torchrun or srun started.

    Raises:
        UserError: Under torchrun, if its processes cannot be asked.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE") or 1) > 1:
        return _agreed(_STARTED)
    if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS") or 1) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}-{os.environ['SLURM_STEP_ID']}"
    return _STARTED


def _agreed(mine: str) -> str:
    """What the first process to ask has said, through the store that torchrun keeps for its processes."""
    from torch.distributed import TCPStore

    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=60))
        return store.compare_set(f"hyperinverter/{os.environ['TORCHELASTIC_RUN_ID']}", "", mine).decode()
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of this run cannot agree on a folder ({str(error).splitlines()[0]}): give them one with "
            "hydra.run.dir=PATH"
        ) from error


OmegaConf.register_new_resolver("moment", moment, replace=True)
