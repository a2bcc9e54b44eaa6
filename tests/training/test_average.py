"""The average of the weights: validated, kept, resumed; training itself does not know of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch.testing import assert_close
from watching import Watch, make_batches

from hyperinverter.checkpoints import load_hyperinverter
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.generator import Generator
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.training.average import Average
from hyperinverter.training.memory import memory_need

Make = Callable[..., PhaseTask]
MakeTrainer = Callable[..., Trainer]
LEARNT = "inverter.hypernet."


def learnt(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith(LEARNT)}


def saved(trainer: Trainer, path: Path) -> dict[str, Any]:
    trainer.save_checkpoint(path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("half_life", [3, 1000])
def test_average_follows_the_weights_by_photos_seen(
    make_phase2: Make, make_trainer: MakeTrainer, tmp_path: Path, half_life: int
) -> None:
    task, watch = make_phase2(), Watch()
    watch.modules = (task,)
    trainer = make_trainer(watch, Average(half_life))
    trainer.fit(task, make_batches(4, 4, 2, 400, 4))
    content = saved(trainer, tmp_path / "last.ckpt")
    states = [learnt(state[0]) for state in watch.states]
    expected = states[0]
    for state, before, seen in zip(states[1:], (0, 4, 8, 10, 410), (4, 8, 10, 410, 414), strict=True):
        kept = 2 ** (-(seen - before) / min(half_life, seen / 20))
        expected = {name: kept * old + (1 - kept) * state[name] for name, old in expected.items()}
    assert_close(learnt(content["state_dict"]), expected, rtol=1e-5, atol=1e-7)
    assert_close(learnt(content["learning"]), states[-1], rtol=0, atol=0)
    if half_life == 1000:
        assert any(not torch.allclose(expected[n], states[-1][n], atol=1e-5) for n in expected)
    frozen = {n for n in content["state_dict"] if ".w_inverter." in n or n == "images_seen"}
    assert frozen
    assert not frozen & set(content["learning"])


def test_training_is_the_same_with_an_average_and_validation_is_its(
    make_phase2: Make, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    batches, photos = make_batches(4, 4, 4), make_batches(3)

    def train(*callbacks: Any) -> tuple[PhaseTask, Trainer]:
        torch.manual_seed(1)
        task = make_phase2()
        trainer = make_trainer(*callbacks, epochs=2)
        trainer.fit(task, batches, photos)
        return task, trainer

    alone, _ = train()
    task, trainer = train(Average(1000))
    assert_close(dict(task.state_dict()), dict(alone.state_dict()), rtol=0, atol=0)
    content = saved(trainer, tmp_path / "last.ckpt")
    told = trainer.callback_metrics["val/l2"].item()
    (trained,) = make_trainer().validate(task, photos, verbose=False)
    task.load_state_dict(content["state_dict"])
    (averaged,) = make_trainer().validate(task, photos, verbose=False)
    assert told == averaged["val/l2"] != trained["val/l2"]


def test_a_checkpoint_of_a_validation_holds_the_same_as_one_behind_it(
    make_phase2: Make, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    class Saving(Watch):
        def on_validation_end(self, trainer: Trainer, task: Any) -> None:
            self.during = saved(trainer, tmp_path / "during.ckpt")

    task, saving = make_phase2(), Saving()
    trainer = make_trainer(saving, Average(1000))
    trainer.fit(task, make_batches(4, 4), make_batches(2))
    behind = saved(trainer, tmp_path / "behind.ckpt")
    for part in ("state_dict", "learning"):
        assert_close(saving.during[part], behind[part], rtol=0, atol=0)
    task.load_state_dict(behind["state_dict"])
    photo = make_batches(2)[0]["image"]
    loaded = load_hyperinverter(tmp_path / "during.ckpt", task.inverter.generator)  # type: ignore[arg-type]
    assert torch.equal(loaded.invert(photo).image, task.inverter.invert(photo).image)  # type: ignore[operator]


@pytest.mark.parametrize("half_life", [1000, None])
def test_going_on_starts_from_the_trained_weights(
    make_phase2: Make, make_trainer: MakeTrainer, tmp_path: Path, half_life: int | None
) -> None:
    trainer = make_trainer(Average(1000))
    trainer.fit(make_phase2(), make_batches(4, 4))
    content = saved(trainer, tmp_path / "last.ckpt")
    task, watch = make_phase2(), Watch()
    watch.modules = (task,)
    again = make_trainer(watch, Average(half_life), epochs=2)
    again.fit(task, make_batches(4, 4), ckpt_path=str(tmp_path / "last.ckpt"))
    begin = watch.states[0][0]
    assert_close({n: begin[n] for n in content["learning"]}, content["learning"], rtol=0, atol=0)
    assert ("learning" in saved(again, tmp_path / "next.ckpt")) == (half_life is not None)


def test_the_discriminator_is_not_averaged_and_the_average_costs_its_size(
    make_phase2: Make, make_trainer: MakeTrainer, generator: Generator, tmp_path: Path
) -> None:
    task = make_phase2(discriminator=Discriminator(generator.config), adv=0.1)
    with_average, without = memory_need(task, 4, average=True), memory_need(task, 4)
    averaged = sum(p.numel() for p in task.inverter.parameters() if p.requires_grad)
    assert with_average.optimizer - without.optimizer == 4 * averaged
    trainer = make_trainer(Average(1000))
    trainer.fit(task, make_batches(4, 4))
    learning = saved(trainer, tmp_path / "last.ckpt")["learning"]
    assert not [name for name in learning if name.startswith("discriminator")]
