"""The checkpoints of a run: what is kept, complete at any moment, checked when read.

Reads and corrects the state of Lightning's loops, see ``Checkpoints.on_save_checkpoint``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.contracts import UserError
from hyperinverter.system.files import copy_file, keep_as, replacing, writing
from hyperinverter.tasks.common import images_seen
from hyperinverter.training import randomness

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class Streamed(TorchCheckpointIO):
    """Writes checkpoints straight into their file.

    Lightning puts them together in memory first, which takes as much as the file for a moment. Its file appears as a
    whole; here ``Checkpoints`` sees to that.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


class Checkpoints(Callback):
    """Keep ``last.ckpt`` (to resume) and ``best.ckpt`` (to use), replaced atomically; ``previous.ckpt`` is the backup.

    ``previous.ckpt`` is the ``last.ckpt`` before this one. It goes when training ends.

    Args:
        folder: Where they go.
        monitor: The logged validation number that decides.
        mode: ``min`` or ``max``.
        every: Photos between two saves of ``last.ckpt`` within an epoch.
        rows: Says how many rows the table of numbers has; a resumed run appends to these.
    """

    def __init__(
        self, folder: Path, monitor: str, mode: str, every: int, rows: Callable[[], int] | None = None
    ) -> None:
        self.last, self.best = folder / LAST, folder / BEST
        self.previous = folder / PREVIOUS
        self._monitor, self._sign, self._every = monitor, 1.0 if mode == "min" else -1.0, every
        self._rows = rows or (lambda: 0)
        self.score: float | None = None
        self._saved_at = 0
        self._random: list[Any] = []  # of every process, as a checkpoint brought it
        self._before_validation: dict[str, Any] | None = None  # random state of this process
        self._steps: list[int] = []  # photos of an epoch and of a batch
        self._due = False  # whether a checkpoint written now is to be validated after a resume

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "rows": self._rows(), "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score = state_dict["score"]

    def on_save_checkpoint(self, trainer: Trainer, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["random"] = self._random
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if batches["current"]["ready"] > batches["current"]["started"]:
            # Saved after fetching a batch, before using it: count it as not fetched, or a later resume repeats the
            # epoch.
            for counts in (batches["current"], batches["total"]):
                counts["ready"] = counts["started"]
        if self._due:
            # Lightning skips a validation it thinks done; mark its first batch as begun, so that it is run again.
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress |= {"total": dict(begun), "current": dict(begun), "is_last_batch": False}

    def on_load_checkpoint(self, trainer: Trainer, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint.get("random", [])
        was = checkpoint["callbacks"].get(self.state_key, {}).get("steps")
        if was and (steps := _steps(trainer)) not in ([], was):
            count_in(checkpoint, *steps)

    def on_fit_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._steps = _steps(trainer)

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._saved_at = images_seen(task)
        take_settings(trainer, task)
        # With other processes than before there is nothing to continue: each keeps the state of its own seed.
        if len(self._random) == trainer.world_size:
            randomness.restore_random_state(self._random[trainer.global_rank])

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        # between two batches, so that the counters saved match the weights saved
        if images_seen(task) - self._saved_at >= self._every:
            self.save_last(trainer, task)

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._before_validation = randomness.random_state()

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self._monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise UserError(f"phase.monitor={self._monitor} is not measured; there are: {logged or 'none'}")
        value = float(trainer.callback_metrics[self._monitor])
        if not math.isfinite(value):
            raise UserError(
                f"{self._monitor} became {value} after {images_seen(task)} photos; the last good "
                "checkpoint is kept: try a lower phase.optimizer.lr"
            )
        better = self.score is None or self._sign * value < self._sign * self.score
        self.score = value if better else self.score
        self.save_last(trainer, task, best=better)

    def save_last(self, trainer: Trainer, task: LightningModule, *, best: bool = False) -> None:
        """Write ``last.ckpt``, and the same as ``best.ckpt`` if asked. To be called by all processes."""
        self._saved_at = images_seen(task)
        state = self._before_validation if self._due else None
        self._random = randomness.of_every_process(state or randomness.random_state())
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.last)  # the first process writes; this one takes part
            return
        with writing(self.last):
            self.last.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.last, durable=True, sole=True) as scratch:
                trainer.save_checkpoint(scratch)
                # Best first: a run killed between the two resumes from the old last.ckpt, measures the same score
                # again and writes the same best.ckpt.
                if best:
                    copy_file(scratch, self.best)
                if self.last.is_file():
                    keep_as(self.last, self.previous)

    def save_during_validation(self, trainer: Trainer, task: LightningModule) -> bool:
        """As ``save_last``, such that the resumed run begins with the validation that is under way.

        Returns:
            Whether it was saved: if training ended inside an epoch, Lightning would go on training instead.
        """
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return False
        self._due = True
        try:
            self.save_last(trainer, task)
        finally:
            self._due = False
        return True

    def tidy(self) -> None:
        """Training is over and its last checkpoint readable: drop the one before."""
        self.previous.unlink(missing_ok=True)


def _steps(trainer: Trainer) -> list[int]:
    data = getattr(trainer, "datamodule", None)
    epoch, batch = getattr(data, "images_per_epoch", None), getattr(data, "batch_size", None)
    return [epoch, batch] if isinstance(epoch, int) and isinstance(batch, int) else []


def count_in(checkpoint: dict[str, Any], epoch: int, batch: int) -> None:
    """Set the counters of a checkpoint as if it had been trained with epochs and batches of these sizes.

    It goes on with the batch that holds the first photo it has not seen.

    Args:
        checkpoint: As Lightning has read it.
        epoch: Photos of an epoch, a multiple of ``batch``.
        batch: Photos of a batch.
    """
    place = int(checkpoint["state_dict"]["images_seen"]) // batch * batch
    epochs, batches = place // epoch, place % epoch // batch
    loops = checkpoint["loops"]["fit_loop"]
    begun = epochs + (batches > 0)  # an epoch that has not begun is none to go on with
    for counts in loops["epoch_progress"].values():
        counts |= {"ready": begun, "started": begun, "processed": epochs, "completed": epochs}
    progress = loops["epoch_loop.batch_progress"]
    done = dict.fromkeys(("ready", "started", "processed", "completed"), batches)
    progress |= {"current": done, "is_last_batch": False}
    progress["total"] = dict.fromkeys(done, progress["total"]["completed"])
    none = dict.fromkeys(done, 0)
    loops["epoch_loop.val_loop.batch_progress"] |= {
        "total": dict(none),
        "current": dict(none),
        "is_last_batch": False,
    }
    for state in loops["state_dict"].get("combined_loader", []):
        state["place"] = place


def take_settings(trainer: Trainer, task: LightningModule) -> None:
    """Give the optimizers the settings of now: a checkpoint has brought back those of its own run.

    ``lr`` stays that of the last batch: ``PhaseTask`` sets it before the next one, from ``initial_lr``.
    """
    made = task.configure_optimizers()
    fresh = made if isinstance(made, list) else [made]
    for optimizer, new in zip(trainer.optimizers, fresh, strict=True):
        for group, settings in zip(optimizer.param_groups, new.param_groups, strict=True):
            group.update({name: value for name, value in settings.items() if name not in ("params", "lr")})


def newest_readable(folder: Path) -> tuple[Path, dict[str, Any], str | None] | None:
    """The newest readable checkpoint of a run: ``last.ckpt``, or the one before if the last is damaged.

    Args:
        folder: The folder of checkpoints.

    Returns:
        Path, content, and what was wrong with the file that would have come first, or None; None if there is
        no checkpoint at all.

    Raises:
        UserError: If there are checkpoints and none can be read.
    """
    trouble: UserError | None = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            return path, read_checkpoint(path), None if trouble is None else str(trouble)
        except UserError as error:
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    return None
