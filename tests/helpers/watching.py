"""What the tests of the tasks share: batches, an optimizer, and a callback that writes everything down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import nn

from hyperinverter.contracts import Batch

LR = 0.001


class Batches:
    """Batches as a loader gives them; a plain list would be taken for several loaders."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]

    def __mul__(self, times: int) -> Batches:
        return Batches(self.batches * times)


def make_batches(*sizes: int, side: int = 16) -> Batches:
    """Batches of these sizes, every photo with a name of its own."""
    batches: list[Batch] = []
    for index, size in enumerate(sizes):
        names = [f"{index}/{i}" for i in range(size)]
        batches.append({"image": torch.rand(size, 3, side, side) * 2 - 1, "name": names})
    return Batches(batches)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=LR)


class Watch(Callback):
    """Write down, after every batch, how many photos were seen, the learning rates, and named tensors."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules
        self.seen: list[int] = []
        self.rates: list[list[float]] = []
        self.states: list[list[dict[str, torch.Tensor]]] = []
        self.logged: list[dict[str, float]] = []

    def snapshot(self) -> list[dict[str, torch.Tensor]]:
        return [{name: t.clone() for name, t in module.state_dict().items()} for module in self.modules]

    def on_train_start(self, trainer: Trainer, task: Any) -> None:
        self.states.append(self.snapshot())
        log_training = task.log_training

        def record(total: torch.Tensor, parts: dict[str, torch.Tensor], batch: Batch) -> None:
            # callback_metrics would also hold what an earlier batch logged
            self.logged.append(
                {name: float(value.detach()) for name, value in {"loss": total, **parts}.items()}
            )
            log_training(total, parts, batch)

        task.log_training = record

    def on_train_batch_end(self, trainer: Trainer, task: Any, *_: Any) -> None:
        self.seen.append(int(task.images_seen))
        self.rates.append(
            [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        )
        self.states.append(self.snapshot())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
