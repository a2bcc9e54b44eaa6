"""Nothing makes the host wait for the device: in a training step, an inversion, an edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from elsewhere import watched
from gpu_models import PLACES, make_discriminator, make_model, phase1_task, phase2_task, photos
from place import DEVICE, REHEARSAL, TRAINER, there
from pytorch_lightning import Callback
from test_gpu_steps import Batches, train

from hyperinverter.contracts import Batch
from hyperinverter.editing.directions import Direction
from hyperinverter.inversion import drawing
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.tasks.muon import Muon

# On a processor Adam looks at its count of steps, which is there.
ADAM = partial(torch.optim.SGD, lr=1e-3) if REHEARSAL else partial(torch.optim.Adam, lr=1e-3)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Raise where the host waits for the device."""
    if REHEARSAL:
        with watched() as watch:
            yield
        found = {waiting for waiting in watch.found if "copy" not in waiting}  # here all are to the host
        if found:
            raise RuntimeError(f"called a synchronizing operation: {found}")
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Three(Batches):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError
        return super().__getitem__(0)


class NoWaiting(Callback):
    """From the second batch on: the first makes handles and chooses kernels."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.watched = 0

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, index: int) -> None:
        if index:
            self.stack.enter_context(without_waiting())

    def on_train_batch_end(self, trainer: Any, task: Any, outputs: Any, batch: Any, index: int) -> None:
        self.watched += index > 0
        self.stack.close()

    def on_exception(self, trainer: Any, task: Any, exception: BaseException) -> None:
        self.stack.close()


def waits(task: PhaseTask, precision: str = "32-true") -> None:
    callback = NoWaiting()
    train(task, TRAINER, precision, Three(), callback)
    assert callback.watched == 2


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", [ADAM, partial(Muon, lr=1e-3)], ids=["adam", "muon"])
def test_phase_one(optimizer: Callable[..., Any], precision: str) -> None:
    waits(phase1_task(optimizer=optimizer), precision)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2}, {"edit": 1.0}, {"mirror": 1.0}],
    ids=["plain", "accumulated", "edit", "mirror"],
)
def test_phase_two(options: dict[str, Any], precision: str) -> None:
    waits(phase2_task(optimizer=ADAM, **options), precision)


def test_feature_residuals_and_checkpointing() -> None:
    waits(phase2_task(make_model(places=PLACES).use_checkpointing(), optimizer=ADAM))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_with_discriminator_and_r1(precision: str) -> None:
    options = {"adv": 0.1, "r1_every": 2, "optimizer": ADAM}
    waits(phase2_task(discriminator=make_discriminator(), **options), precision)


def test_an_inversion_and_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, photo = there(make_model(places=PLACES)), photos(1).to(DEVICE)
    turn = Direction("turn", torch.ones(16, device=DEVICE))
    inversion = model.invert(photo)
    model.edit(inversion, turn, 1.0)
    draw = model.prepare(inversion)
    if REHEARSAL:
        model.invert = model.__call__  # type: ignore[method-assign]  # photos of the host are looked at
        monkeypatch.setattr(drawing, "check_drawn", lambda image, *given: image)  # and images there
    with torch.no_grad(), without_waiting():
        model.invert(photo)
        model.edit(inversion, turn, 1.0)
        draw(inversion.w)


def test_a_planted_wait_is_caught() -> None:
    task = phase1_task(optimizer=ADAM)
    plain = task.forward_pass
    task.forward_pass = lambda photo: (float(photo.mean()), plain(photo))[1]  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="called a synchronizing"):
        waits(task)
