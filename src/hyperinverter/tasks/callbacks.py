"""What happens around training: progress, checkpoints, pictures, and stopping early for good or bad reasons.

A task taking part has ``images_seen`` (photos seen in training, over all processes) and ``inverter``
(photo -> Inversion).
"""

import math
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from hyperinverter.contracts import Batch, Inversion, UserError
from hyperinverter.pictures import save_picture, sheet, to_picture
from hyperinverter.system.files import copy_file, is_full, keep_as, replacing, write_json, writing
from hyperinverter.system.terminal import duration
from hyperinverter.tasks import saved
from hyperinverter.tasks.loggers import WandbTracker

# Ctrl-C, kill, and the two signals clusters warn with before they take a machine away
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Interrupted(Exception):
    """The person asked to stop and everything needed to go on is saved."""


def images_seen(task: LightningModule) -> int:
    """Photos the task has been trained on so far, over all processes."""
    return int(task.images_seen)  # type: ignore[arg-type]  # a buffer of one number


class StopAfter(Callback):
    """End training once so many photos were seen; lengths mean the same at any batch size."""

    def __init__(self, images: int) -> None:
        self.images = images

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        if images_seen(task) >= self.images:
            trainer.should_stop = True


class Together(Callback):
    """Processes of one run: as many as they believe, and each with random numbers of its own.

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
                f"this run was told of {trainer.world_size} processes and finds {there}, so it would train on a part "
                "of the photos: start it in a fresh shell, without variables such as WORLD_SIZE or LOCAL_RANK"
            )
        if trainer.global_rank > 0:
            own = (self._seed * 1_000_003 + trainer.global_rank) % 2**32
            random.seed(own)
            np.random.seed(own)  # noqa: NPY002  # libraries draw from it
            torch.manual_seed(own)


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


class Checkpoints(Callback):
    """Keep ``last.ckpt`` (to go on from) and ``best.ckpt`` (to use), each whole at any moment.

    While training goes on, ``previous.ckpt`` is the ``last.ckpt`` before this one, should a disk spoil the last.

    Args:
        folder: Where they go.
        monitor: The logged validation number that decides.
        mode: ``min`` or ``max``.
        every: Photos between two saves of ``last.ckpt`` within an epoch.
        rows: Tells how many rows the table of numbers has; a resumed run goes on behind them.
    """

    def __init__(
        self, folder: Path, monitor: str, mode: str, every: int, rows: Callable[[], int] | None = None
    ) -> None:
        self.last, self.best = folder / saved.LAST, folder / saved.BEST
        self.previous = folder / saved.PREVIOUS
        self._monitor, self._sign, self._every = monitor, 1.0 if mode == "min" else -1.0, every
        self._rows = rows or (lambda: 0)
        self.score: float | None = None
        self._saved_at = 0
        self._random: list[Any] = []  # of every process, as a checkpoint brought it
        self._before_validation: dict[str, Any] | None = None  # random state of this process
        self._due = False  # whether a checkpoint written now still owes its validation

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "rows": self._rows()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score = state_dict["score"]

    def on_save_checkpoint(self, trainer: Trainer, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["random"] = self._random
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if batches["current"]["ready"] > batches["current"]["started"]:
            # Written before a step, for a batch that was fetched and not learnt from. Lightning would never take it
            # off the total and, resuming once more at the end of this epoch, train a second time in it.
            for counts in (batches["current"], batches["total"]):
                counts["ready"] = counts["started"]
        if self._due:
            # Lightning takes a checkpoint with every batch of an epoch done for one behind the validation, unless
            # a validation batch has begun: so it shall run the whole validation again.
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress |= {"total": dict(begun), "current": dict(begun), "is_last_batch": False}

    def on_load_checkpoint(self, trainer: Trainer, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint.get("random", [])

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._saved_at = images_seen(task)
        # With other processes than before there is nothing to continue: each keeps the state of its own seed.
        if len(self._random) == trainer.world_size:
            saved.restore_random_state(self._random[trainer.global_rank])

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        # between two batches, so that the counters saved match the weights saved
        if images_seen(task) - self._saved_at >= self._every:
            self.save_last(trainer, task)

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._before_validation = saved.random_state()

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
        """Write ``last.ckpt``, and the same as ``best.ckpt`` if asked; a reader finds the old file or the new one.

        To be called by all processes.
        """
        self._saved_at = images_seen(task)
        state = self._before_validation if self._due else None
        self._random = saved.of_every_process(state or saved.random_state())
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.last)  # the first process writes; this one takes part
            return
        with writing(self.last):
            self.last.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.last, durable=True, sole=True) as scratch:
                trainer.save_checkpoint(scratch)
                # Best first: were the process killed between the two, the run would go on from the old last.ckpt,
                # measure the same score again and write the same best.ckpt.
                if best:
                    copy_file(scratch, self.best)
                if self.last.is_file():
                    keep_as(self.last, self.previous)

    def save_during_validation(self, trainer: Trainer, task: LightningModule) -> bool:
        """As ``save_last``, such that the resumed run begins with the validation that is under way.

        Returns:
            Whether it was done: where training ended inside an epoch, Lightning would train on instead.
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


class StopOnSignal(Callback):
    """Ctrl-C, SIGTERM and a cluster's warnings end training within a step, with a checkpoint.

    A second Ctrl-C ends it at once. The other signals may come in pairs (Slurm sends SIGTERM and then the warning a
    job asked for), so they never do.
    """

    def __init__(self, checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
        self._checkpoints, self._say = checkpoints, say
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
            self._say("stopping after this step and saving; Ctrl-C once more stops at once")
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
            sys.stderr.write("\n")

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
        sys.stderr.write(f"\r{line:<78}" if self._live else f"{line}\n")
        sys.stderr.flush()


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


class ImagePanels(Callback):
    """Pictures of the same few photos over training, and single files of test photos to compare runs with.

    Args:
        folder: The run folder: ``panels/IMAGES.png`` after every validation, ``test_photos/NAME/`` after the test.
        num_photos: Rows of a panel.
        num_saved: Test photos kept as files.
    """

    def __init__(self, folder: Path, num_photos: int, num_saved: int) -> None:
        self._panels, self._photos = folder / "panels", folder / "test_photos"
        self._num_photos, self._num_saved = num_photos, num_saved
        self._held: list[Tensor] = []
        self._saved = 0

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._held = []

    def on_validation_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        missing = self._num_photos - sum(len(photo) for photo in self._held)
        if missing > 0 and trainer.is_global_zero:
            self._held.append(batch["image"][:missing])

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        if not self._held or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        photo = torch.cat(self._held)
        inversion = _invert(task, photo)
        path = self._panels / f"{images_seen(task):09d}.png"
        self._panels.mkdir(parents=True, exist_ok=True)
        with writing(path):
            draw_panel(photo, inversion, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbTracker):
                logger.log_panel("panels/val", path, "input | initial | final | error")
            elif add_image := getattr(getattr(logger, "experiment", None), "add_image", None):  # TensorBoard
                add_image("panels/val", _read_rgb(path), images_seen(task), dataformats="HWC")

    def on_test_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._saved = 0

    def on_test_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        missing = self._num_saved - self._saved
        if missing <= 0 or not trainer.is_global_zero:
            return
        photo = batch["image"][:missing]
        inversion = _invert(task, photo)
        for index, name in enumerate(batch["name"][:missing]):
            place = self._photos / safe_name(name)
            place.mkdir(parents=True, exist_ok=True)
            for kind, images in (
                ("photo", photo),
                ("w_image", inversion.w_image),
                ("image", inversion.image),
            ):
                path = place / f"{kind}.png"
                with writing(path):
                    to_picture(images[index]).save(path)
        self._saved += len(photo)


def _invert(task: LightningModule, photo: Tensor) -> Inversion:
    training = task.training
    task.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # looking must not change what comes next
        inversion: Inversion = task.inverter(photo)  # type: ignore[operator]
    task.train(training)
    return inversion


def safe_name(name: str) -> str:
    """A photo's path as one folder name: ``a/b c.png`` becomes ``a__b_c.png``."""
    return re.sub(r"[^\w.-]", "_", name.replace("/", "__")).lstrip(".") or "photo"


def draw_panel(photo: Tensor, inversion: Inversion, path: Path) -> None:
    """One row per photo: photo, phase I, phase II, absolute error (dark is right, white is off by 1 or more).

    Phase I shows three columns: it has no second image.
    """
    initial, final = inversion.w_image, inversion.image
    columns = [("photo", photo), ("phase I", initial)]
    if final is not initial:
        columns.append(("phase II", final))
    columns.append(("error", (final - photo).abs() * 2 - 1))
    rows = zip(*([to_picture(image) for image in images] for _, images in columns), strict=True)
    drawn = sheet([title for title, _ in columns], list(rows), max(photo.shape[-1], 64))
    save_picture(drawn, path)


def _read_rgb(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))
