"""What a job takes of this machine: processes and GPUs."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Needs(NamedTuple):
    """What a job takes of the machine."""

    processes: int
    gpus: int


def processes_of(trainer: Mapping[str, Any], gpus: int, jobs: int) -> Needs:
    """Processes and GPUs of a job on this machine.

    Args:
        trainer: Its trainer section: ``accelerator`` and ``devices`` count.
        gpus: How many GPUs there are.
        jobs: How many jobs run at the same time; ``devices=auto`` is a fair share.
    """
    devices = trainer.get("devices", 1)
    on_gpu = trainer.get("accelerator") in ("gpu", "cuda")
    if devices in ("auto", -1, "-1"):
        devices = max(1, gpus // jobs) if on_gpu else 1
    count = devices if isinstance(devices, int) and devices > 0 else 1
    return Needs(count, count if on_gpu else 0)


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES spells them."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:  # not torch.cuda: it takes seconds to import, and a place on every GPU
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


class Gpus:
    """GPUs handed to jobs and taken back.

    Args:
        names: All there are.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.every, self._free = list(names), list(names)

    def take(self, count: int) -> list[str] | None:
        """``count`` free ones, None if the job has to wait; all, if there are fewer (the job then fails by itself)."""
        count = min(count, len(self.every))
        if count > len(self._free):
            return None
        given, self._free = self._free[:count], self._free[count:]
        return given

    def give_back(self, names: Sequence[str]) -> None:
        """Make them free again."""
        self._free = [name for name in self.every if name in self._free or name in names]
