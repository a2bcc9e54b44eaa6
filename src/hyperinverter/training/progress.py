"""How far a run is: one live line in a terminal, a line now and then in a log, and progress.json."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hyperinverter.system.files import is_full, write_json
from hyperinverter.system.terminal import duration, write
from hyperinverter.tasks.common import images_seen


class Progress(Callback):
    """Photos seen, rate and time left: one live line on a terminal, a line now and then in a log file.

    ``progress.json`` says the same to whoever started this job.

    Args:
        total: Photos training is meant to see.
        folder: The run folder.
        every: Seconds between two lines in a log file.
        per_step: Photos of one step over all processes; with it, limits on steps and epochs shorten ``total``.
    """

    def __init__(self, total: int, folder: Path, every: float = 30.0, per_step: int | None = None) -> None:
        self._total, self._file, self._per_step = total, folder / "progress.json", per_step
        self._live = sys.stderr.isatty()
        self._every = 0.5 if self._live else every
        self._begin, self._first, self._shown, self._written = 0.0, 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._begin, self._first = time.monotonic(), images_seen(task)
        steps = (trainer.max_epochs or 0) * trainer.num_training_batches
        if self._per_step and 0 < steps < math.inf:
            self._total = min(self._total, round(steps) * self._per_step)
        self._shown = self._written = self._begin if not self._live else 0.0

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        now = time.monotonic()
        if trainer.is_global_zero and (now - self._shown >= self._every or now - self._written >= 1.0):
            self._report(trainer, task, "train", now)

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn == "fit":
            self._report(trainer, task, "validate", time.monotonic())

    def on_test_start(self, trainer: Trainer, task: LightningModule) -> None:
        if trainer.is_global_zero:
            self._report(trainer, task, "test", time.monotonic())

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        self._end_line()

    def on_exception(self, *_: Any) -> None:
        self._end_line()

    def _end_line(self) -> None:
        if self._live:
            write("\n")

    def _report(self, trainer: Trainer, task: LightningModule, stage: str, now: float) -> None:
        seen = images_seen(task)
        rate = (seen - self._first) / max(now - self._begin, 1e-6) if self._begin else 0.0
        left = max(self._total - seen, 0) / rate if rate else None
        loss = trainer.callback_metrics.get("train/loss")
        state = {
            "stage": stage,
            "images": seen,
            "total": self._total,
            "images_per_second": rate,
            "seconds_left": left,
        }
        state["loss"] = None if loss is None else float(loss)
        self._written = now
        try:
            write_json(self._file, state)
        except OSError as error:
            if not is_full(error):  # the next checkpoint reports a full disk
                raise
        if now - self._shown < self._every and stage == "train":
            return
        self._shown = now
        line = progress_line(state)
        write(f"\r{line:<78}" if self._live else f"{line}\n")


def progress_line(state: Mapping[str, Any]) -> str:
    """One line about a job: stage, photos, loss, rate, time left."""
    total = max(int(state["total"]), 1)
    done = min(int(state["images"]) / total, 1.0)
    line = f"{state['stage']:<8} {state['images'] / 1000:7.2f}/{total / 1000:g} kimg {done:4.0%}"
    if state.get("loss") is not None:
        line += f"  loss {state['loss']:.4f}"
    if state.get("images_per_second"):
        line += f"  {state['images_per_second']:.1f} images/s"
    if state.get("seconds_left") is not None:
        line += f"  {duration(state['seconds_left'])} left"
    return line
