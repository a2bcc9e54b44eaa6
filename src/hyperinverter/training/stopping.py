"""What ends training: its length, a request from outside, or a loss that is not a number."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

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
    """Stop at the first loss that is not a number, before it reaches a checkpoint."""

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, outputs: Any, *_: Any) -> None:
        named = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            named.setdefault("train/loss", loss)
        bad = sorted(name for name, value in named.items() if not math.isfinite(float(value)))
        if bad:
            raise UserError(
                f"{bad[0]} became {float(named[bad[0]])} after {images_seen(task)} photos; the last good "
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
