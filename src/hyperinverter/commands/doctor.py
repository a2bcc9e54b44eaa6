"""``hyperinverter doctor``: what this machine has, what each domain needs, and the next step."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from hyperinverter.commands import needs
from hyperinverter.config import Config
from hyperinverter.runcard import versions
from hyperinverter.tasks.memory import GB, available_bytes


def run(asked: Sequence[str]) -> int:
    """Print the report; return 1 if something a domain was asked about is not ready.

    Raises:
        UserError: If there is no such domain, option or key.
    """
    for line in machine():
        print(line)
    if asked:
        return 0 if _examine(needs.configuration(asked)) else 1
    for name in needs.domains():
        _examine(needs.configuration([name]))
    return 0


def machine() -> list[str]:
    """Versions, devices and memory, a line each."""
    found = versions()
    platform = found.pop("platform")
    lines = [", ".join(f"{name} {version}" for name, version in found.items()), platform]
    cores = os.cpu_count()
    lines.append(f"CPU: {cores} cores, {available_bytes('cpu') / GB:.1f} GB of memory free")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        lines.append(f"GPU {index}: {name}, {free / GB:.1f} of {total / GB:.1f} GB free")
    if not torch.cuda.is_available():
        lines.append("GPU: PyTorch sees none; trainer=cpu is the choice")
    return lines


def _examine(cfg: Config) -> bool:
    """Print the state of every file and what to do next; whether all are there."""
    required = needs.needs_of(cfg)
    print(f"\ndomain {cfg.domain.name}" + ("" if required else ": everything ships with the package"))
    steps = []
    for need in required:
        state = need.state()
        size = f", {need.known.megabytes} MB" if need.known is not None and need.known.megabytes else ""
        print(f"  {state.split(':')[0]:<10}  {need.role}: {need.path}{size}")
        if state != "found":
            steps.append(
                need.next_step() if ":" not in state else f"{state.split(': ', 1)[1]}; {need.next_step()}"
            )
    for step in steps:
        print(f"  next: {step}")
    if not steps:
        print(f"  next: {_first_command(cfg)}")
    return not steps


def _first_command(cfg: Config) -> str:
    if cfg.data.source == "digiface":
        return "python train.py"
    return f"python train.py domain={cfg.domain.name} data.root=FOLDER"
