"""The devices of a run: whether they are there, how many processes they make, and that these agree."""

from __future__ import annotations

import random

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import distributed

from hyperinverter import config
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.system.machine import cores
from hyperinverter.system.processes import is_first, knows_its_node, starter
from hyperinverter.system.terminal import fail


def check_devices(cfg: Config) -> None:
    """Refuse what would fail later, or would train on other photos than those asked for.

    Raises:
        UserError: For devices that are not there, processes that do not fit, or a batch they cannot share.
    """
    node = cfg.trainer
    gpu = node.accelerator in ("gpu", "cuda")
    if gpu and not torch.cuda.is_available():
        raise UserError(
            "this trainer wants a CUDA GPU and PyTorch sees none: use trainer=cpu, or install CUDA drivers"
        )
    devices = node.devices
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if gpu else 1
    if not isinstance(devices, int) or devices < 1:
        raise UserError(f"trainer.devices must be a number of devices or auto, got {node.devices!r}")
    if gpu and devices > torch.cuda.device_count():
        raise UserError(
            f"trainer.devices={devices}, but PyTorch sees {torch.cuda.device_count()} GPUs: ask for fewer"
        )
    world = devices * node.num_nodes
    if world == 1 and not is_first():  # said by this process: the others would be silent, and nothing be kept
        fail(
            "LOCAL_RANK, NODE_RANK or RANK say that this is not the first process, but this trainer has one: unset "
            "them, or use trainer=ddp",
            everywhere=True,
        )
    if world > 1 and node.strategy == "auto":
        raise UserError(f"{world} devices need a strategy: use trainer=ddp, or trainer=ddp_cpu on processors")
    outside = starter().processes
    if outside > 1 and outside != world:
        raise UserError(
            f"{outside} processes were started from outside, but this trainer has {world}: each would train alone; "
            "choose trainer=ddp with trainer.devices and trainer.num_nodes to match, or start a single process"
        )
    if node.num_nodes > 1 and outside == 1 and not knows_its_node():
        raise UserError(
            f"trainer.num_nodes={node.num_nodes} needs a process on every node: start it with srun or torchrun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK and give every node the same hydra.run.dir"
        )
    if cfg.phase.batch_size % world:
        raise UserError(
            f"a batch of {cfg.phase.batch_size} photos cannot be shared evenly by {world} processes; choose "
            f"phase.batch_size as a multiple of {world}"
        )
    if world > 1 and cfg.loss.adv > 0 and config.precision(cfg) == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed cannot be used with a discriminator on several processes, where gradients "
            "are not scaled: use bf16-mixed or 32-true"
        )


def processes_per_machine(cfg: Config) -> int:
    """How many processes ``trainer.devices`` makes on one machine."""
    devices = cfg.trainer.devices
    if devices in ("auto", "-1", -1):
        return max(torch.cuda.device_count(), 1)
    if isinstance(devices, str) and "," in devices:
        return len(devices.strip(",").split(","))
    return int(devices) if isinstance(devices, (int, str)) else len(devices)


class Together(Callback):
    """Check the number of processes, and give each rank random numbers of its own.

    All begin with the same seed, so that they build the same networks.

    Args:
        seed: The run's.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_fit_start(self, trainer: Trainer, task: LightningModule) -> None:
        there = distributed.get_world_size() if distributed.is_initialized() else 1
        if there != trainer.world_size:
            raise UserError(
                f"expected {trainer.world_size} processes, found {there}: some photos would be skipped; unset "
                "WORLD_SIZE and LOCAL_RANK, or use a fresh shell"
            )
        if trainer.global_rank > 0:
            own = (self._seed * 1_000_003 + trainer.global_rank) % 2**32
            random.seed(own)
            np.random.seed(own)  # noqa: NPY002  # libraries draw from it
            torch.manual_seed(own)


def kind(cfg: Config) -> str:
    """What this run trains on: ``cuda`` or ``cpu``."""
    wanted = cfg.trainer.accelerator in ("gpu", "cuda", "auto")
    return "cuda" if wanted and torch.cuda.is_available() else "cpu"


def device_name(trainer: Trainer) -> str:
    """The GPU's name, or the number of cores."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} x{cores()}"
