"""What ends training: its length, a request from outside, or a loss that is not a number."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.system.terminal import say
from hyperinverter.tasks.common import images_seen
from hyperinverter.training.checkpointing import Checkpoints

# Ctrl-C, kill, and the two signals clusters warn with before they take a machine away
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Interrupted(Exception):
    """The person asked to stop and everything needed to go on is saved."""


class StopAfter(Callback):
    """End training once so many photos were seen; lengths mean the same at any batch size."""

    def __init__(self, images: int) -> None:
        self.images = images

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        if images_seen(task) >= self.images:
            trainer.should_stop = True


class NanGuard(Callback):
    """Stop at the first loss that is not a number, before it reaches a checkpoint.

    Numbers on a GPU are looked at with the log and before a checkpoint: to look at every step would make the host wait.
    """

    def __init__(self) -> None:
        self._fine: Tensor | None = None  # whether all numbers since the last look were finite, on the device
        self._named: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, outputs: Any, *_: Any) -> None:
        named = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            named.setdefault("train/loss", loss)
        self._named = named
        away = [value for value in named.values() if isinstance(value, Tensor) and value.device.type != "cpu"]
        if away:
            fine = torch.stack([torch.isfinite(value.detach()).all() for value in away]).all()
            self._fine = fine if self._fine is None else self._fine & fine
        if not away or (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1) == 0:  # type: ignore[attr-defined]
            self._look(task)

    def on_save_checkpoint(self, trainer: Trainer, task: LightningModule, checkpoint: Any) -> None:
        self._look(task)

    def _look(self, task: LightningModule) -> None:
        fine, self._fine = self._fine is None or bool(self._fine), None
        bad = sorted(name for name, value in self._named.items() if not math.isfinite(float(value)))
        if not fine and not bad:
            bad = ["train/loss"]  # it was one of the steps before
        if bad:
            value = float(self._named[bad[0]]) if bad[0] in self._named else math.nan
            became = "a number that is not finite" if math.isfinite(value) else str(value)
            raise UserError(
                f"{bad[0]} became {became} after {images_seen(task)} photos; the last good "
                "checkpoint is kept: try a lower phase.optimizer.lr, or trainer.precision=32-true"
            )


class StopOnSignal(Callback):
    """Ctrl-C, SIGTERM and a cluster's warnings end training within a step, with a checkpoint.

    A second Ctrl-C ends it at once. The other signals may come in pairs (Slurm sends SIGTERM and then the warning a
    job asked for), so they never do.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._asked = False
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:  # replaces Lightning's own, which save nothing
                self._previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, _: Any) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._asked:
            say("stopping after this step and saving; Ctrl-C once more stops at once")
        self._asked = True

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        if self._all_asked(trainer):  # between two batches
            self._checkpoints.save_last(trainer, task)
            raise Interrupted

    def on_validation_batch_start(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._all_asked(trainer):
            return
        if self._checkpoints.save_during_validation(trainer, task):
            raise Interrupted

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        self._restore()
        if self._asked:  # during the last validation, which has just saved everything
            raise Interrupted

    def on_exception(self, *_: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _all_asked(self, trainer: Trainer) -> bool:
        if trainer.world_size > 1:  # all processes stop at the same batch
            return bool(trainer.strategy.reduce_boolean_decision(self._asked, all=False))
        return self._asked


@contextlib.contextmanager
def signals_are_ctrl_c() -> Iterator[None]:
    """Outside the training loop, which has handlers of its own, every request to stop is a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in STOP_SIGNALS if number != signal.SIGINT]
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
