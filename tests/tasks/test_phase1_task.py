"""Phase I learns its encoder and nothing else, and what it saves is enough to have it back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from watching import Watch, make_batches, same

from hyperinverter.checkpoints import load_w_inverter
from hyperinverter.contracts import UserError
from hyperinverter.tasks.common import PhaseTask


def test_encoder_learns_and_the_generator_stays_to_the_last_bit(
    make_phase1: Callable[..., PhaseTask], make_trainer: Callable[..., Trainer]
) -> None:
    gentle = partial(torch.optim.Adam, lr=1e-4)  # eight steps without warmup
    task, batches = make_phase1(optimizer=gentle), make_batches(3) * 8
    watch = Watch(task.inverter.encoder, task.inverter.generator)
    make_trainer(watch).fit(task, batches)
    assert all(not same(a[0], b[0]) for a, b in zip(watch.states, watch.states[1:], strict=False))
    assert all(same(watch.states[0][1], state[1]) for state in watch.states)
    losses = [logged["loss"] for logged in watch.logged]
    assert losses[-1] < losses[0]


def test_checkpoint_is_tensors_and_plain_values_and_gives_the_model_back(
    make_phase1: Callable[..., PhaseTask], make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    task = make_phase1()
    task.inverter.generator.source, task.inverter.generator.sha256 = "made here", "a" * 64
    trainer = make_trainer()
    trainer.fit(task, make_batches(2, 2))
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in saved["state_dict"]} == {"inverter", "images_seen"}
    assert {n.split(".")[1] for n in saved["state_dict"] if n.startswith("inverter.")} == {"encoder"}
    assert int(saved["state_dict"]["images_seen"]) == 4
    assert saved["generator_path"] == "made here"
    loaded = load_w_inverter(tmp_path / "best.ckpt", task.inverter.generator)
    photo = make_batches(2)[0]["image"]
    assert torch.equal(loaded.invert(photo).image, task.inverter.invert(photo).image)
    task.inverter.generator.sha256 = "b" * 64
    with pytest.raises(UserError, match="was trained with another generator"):
        load_w_inverter(tmp_path / "best.ckpt", task.inverter.generator)


def test_state_of_one_task_fits_another(make_phase1: Callable[..., PhaseTask]) -> None:
    first, second = make_phase1(), make_phase1()
    first.images_seen += 7
    second.load_state_dict(first.state_dict(), strict=True)
    assert int(second.images_seen) == 7
    assert same(first.inverter.encoder.state_dict(), second.inverter.encoder.state_dict())
