"""Lightning's trainer as this project uses it: who starts its processes, what it prints, how it stops."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from hyperinverter import config
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.system.processes import starter
from hyperinverter.training.checkpointing import Streamed
from hyperinverter.training.stopping import Interrupted


def make_trainer(cfg: Config, loggers: list[Logger], extra: list[Callback]) -> Trainer:
    """The Lightning trainer a configuration describes; checkpoints and progress are callbacks of ours."""
    node = cfg.trainer
    epochs = math.ceil(cfg.phase.kimg / cfg.phase.epoch_kimg)
    environment = _cluster()
    strategy: str | DDPStrategy = node.strategy
    if strategy == "ddp":
        strategy = DDPStrategy(
            cluster_environment=environment,
            process_group_backend="gloo" if node.accelerator == "cpu" else None,
            timeout=timedelta(seconds=node.timeout),
            gradient_as_bucket_view=True,  # no second copy of gradients: a hypernetwork's are as large as it is
        )
    return Trainer(
        accelerator=node.accelerator,
        devices=node.devices,
        num_nodes=node.num_nodes,
        strategy=strategy,
        plugins=[Streamed(), *([environment] if isinstance(strategy, str) else [])],
        # not there on processors, where all processes take the running statistics of the first
        sync_batchnorm=not isinstance(strategy, str) and node.accelerator != "cpu",
        precision=config.precision(cfg),
        deterministic=node.deterministic,
        max_epochs=min(epochs, node.max_epochs or epochs),
        limit_train_batches=node.limit_train_batches,
        limit_val_batches=node.limit_val_batches,
        limit_test_batches=node.limit_test_batches,
        log_every_n_steps=node.log_every,
        logger=loggers,
        callbacks=extra,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # ImageDataModule shards: every photo once, no padding
    )


def _cluster() -> ClusterEnvironment:
    """Who starts the processes of a distributed run: torchrun, srun, or Lightning itself.

    Lightning takes every Slurm allocation for srun, and would requeue jobs by itself.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if starter().processes > 1:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def guarded(action: Callable[[], Any], cfg: Config) -> Any:
    """Run a method of the trainer; Ctrl-C and a full GPU become ``Interrupted`` and ``UserError``."""
    try:
        return action()
    except SystemExit as error:
        # what Lightning makes of Ctrl-C, outside the batches that StopOnSignal watches
        if isinstance(error.__context__, KeyboardInterrupt) or isinstance(error, SIGTERMException):
            raise Interrupted from error
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"the GPU has not enough memory for phase.batch_size={cfg.phase.batch_size}: set phase.accumulate="
            f"{2 * cfg.phase.accumulate}, or lower hypernet.hidden_dim, or choose a smaller coverage"
        ) from error


def end_helpers(trainer: Trainer) -> None:
    """End the processes that a failed first process started, which would wait for it or report its loss."""
    for process in getattr(trainer.strategy.launcher, "procs", []):
        with contextlib.suppress(OSError):
            process.kill()


def quieten() -> None:
    """Silence what libraries print during every run; their errors still show."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # two cores: extra processes would cost more than they bring
        ".*number of training batches.*smaller than the logging interval.*",
        ".*Checkpoint directory.*",
        ".*module.s. in eval mode at the start of training.*",  # the frozen ones: meant so
        ".*GPU available but not used.*",
        ".*`srun` command is available on your system but is not used.*",  # a job of a sweep, or a laptop with Slurm
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)
