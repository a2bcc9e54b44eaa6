"""An average of the trained weights: validated, kept and used, while training continues from the raw weights."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hyperinverter.tasks.common import PhaseTask, images_seen

_RISE = 0.05  # upper bound of the half-life, as a share of the photos seen: early weights are to be forgotten
_LEARNING = "learning"  # the name of the raw weights in a checkpoint


class Average(Callback):
    """Exponential moving average of what is trained, as StyleGAN2's G_ema (Karras et al. 2020, ADA).

    Validation, its pictures and ``state_dict`` of every checkpoint use the average; a checkpoint also holds the raw
    weights, from which training continues. Running statistics of BatchNorm are averaged like weights, with one call
    for all tensors on the device. Must be the last callback: others read the average until this one takes it away.

    Args:
        half_life: Photos after which a weight counts half; at most a twentieth of those seen. None: no average.
    """

    def __init__(self, half_life: int | None) -> None:
        self._half_life = half_life
        self._names: list[str] = []
        self._tensors: list[Tensor] = []  # what is trained; the average during a validation
        self._others: list[Tensor] = []  # the average; what is trained during a validation
        self._swapped = False
        self._seen = 0

    def on_train_start(self, trainer: Trainer, task: PhaseTask) -> None:  # type: ignore[override]
        if self._half_life is None:
            return
        self._find(task)
        if not self._others:
            self._others = [tensor.detach().clone() for tensor in self._tensors]
        self._others = [o.to(t.device) for o, t in zip(self._others, self._tensors, strict=True)]
        self._seen = images_seen(task)

    def on_train_batch_end(self, trainer: Trainer, task: PhaseTask, *_: Any) -> None:  # type: ignore[override]
        if self._half_life is None:
            return
        seen = images_seen(task)
        decay = 0.5 ** ((seen - self._seen) / min(self._half_life, _RISE * seen))
        self._seen = seen
        get_ema_multi_avg_fn(decay)(self._others, self._tensors, seen)

    def on_validation_start(self, trainer: Trainer, task: PhaseTask) -> None:  # type: ignore[override]
        if self._half_life is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._swap()

    def on_validation_end(self, trainer: Trainer, task: PhaseTask) -> None:  # type: ignore[override]
        if self._swapped:
            self._swap()

    def on_save_checkpoint(self, trainer: Trainer, task: PhaseTask, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        if not self._others:
            return
        average, learning = self._others, self._tensors
        if self._swapped:
            average, learning = learning, average
        # a parameter would be written as one, and shares what the next step changes
        checkpoint["state_dict"] |= dict(zip(self._names, (t.detach() for t in average), strict=True))
        checkpoint[_LEARNING] = dict(zip(self._names, (t.detach() for t in learning), strict=True))

    def on_load_checkpoint(self, trainer: Trainer, task: PhaseTask, checkpoint: dict[str, Any]) -> None:  # type: ignore[override]
        """Continue from the raw weights, and with the average, which Lightning has just loaded."""
        if _LEARNING not in checkpoint:
            return
        self._find(task)
        learning = checkpoint[_LEARNING]
        if self._half_life is not None:
            self._others = [tensor.detach().clone() for tensor in self._tensors]
        with torch.no_grad():
            for name, tensor in zip(self._names, self._tensors, strict=True):
                tensor.copy_(learning[name])

    def _find(self, task: PhaseTask) -> None:
        """What is trained, by name, and the statistics that go with it."""
        left_out = {*task.unsynchronised()}
        found = {
            name: tensor
            for name, tensor in (*task.named_parameters(), *task.named_buffers())
            if name not in left_out and tensor.is_floating_point()
        }
        self._names, self._tensors = list(found), list(found.values())

    def _swap(self) -> None:
        for tensor, other in zip(self._tensors, self._others, strict=True):
            tensor.data, other.data = other.data, tensor.data
        self._swapped = not self._swapped
