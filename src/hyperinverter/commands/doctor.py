"""``hyperinverter doctor``: what this machine has, what each domain needs, and the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hyperinverter.system.command import train_command
from hyperinverter.system.machine import GB, available_bytes, cores, versions
from hyperinverter.system.terminal import put

if TYPE_CHECKING:
    from hyperinverter.config import Config

EXAMPLE = "hyperinverter doctor digiface"


def doctor(
    asked: Annotated[
        list[str] | None,
        typer.Argument(metavar="DOMAIN|KEY=VALUE", help="A domain, and overrides. Default: every domain."),
    ] = None,
) -> int:
    """Show what this machine has, what a domain still needs, and the next step.

    The exit status is 1 if something is missing that the domain asked about needs.
    """
    from hyperinverter.commands import needs  # brings torch

    for line in machine():
        put(line)
    if asked:
        return 0 if _examine(needs.configuration(asked)) else 1
    for name in needs.domains():
        _examine(needs.configuration([name]))
    return 0


def machine() -> list[str]:
    """Versions, devices and memory, a line each."""
    import torch

    found = versions()
    platform = found.pop("platform")
    lines = [", ".join(f"{name} {version}" for name, version in found.items()), platform]
    lines.append(f"CPU: {cores()} cores, {available_bytes('cpu') / GB:.1f} GB of memory free")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        lines.append(f"GPU {index}: {name}, {free / GB:.1f} of {total / GB:.1f} GB free")
    if not torch.cuda.is_available():
        lines.append("GPU: PyTorch sees none; trainer=cpu is the choice")
    return lines


def _examine(cfg: Config) -> bool:
    """Print the state of every file and what to do next; whether all are there."""
    from hyperinverter.commands import needs

    required = needs.needs_of(cfg)
    put(f"\ndomain {cfg.domain.name}" + ("" if required else ": everything ships with the package"))
    steps = []
    for need in required:
        state = need.state()
        size = f", {need.known.megabytes} MB" if need.known is not None and need.known.megabytes else ""
        put(f"  {state.split(':')[0]:<10}  {need.role}: {need.path}{size}")
        if state != "found":
            steps.append(
                need.next_step() if ":" not in state else f"{state.split(': ', 1)[1]}; {need.next_step()}"
            )
    for step in steps:
        put(f"  next: {step}")
    if not steps:
        put(f"  next: {_first_command(cfg)}")
    return not steps


def _first_command(cfg: Config) -> str:
    if cfg.data.source == "digiface":
        return train_command()
    return f"{train_command()} domain={cfg.domain.name} data.root=FOLDER"
