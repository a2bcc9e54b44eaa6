"""What both tasks promise: photos are counted, the learning rate follows them, every test photo counts once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch.testing import assert_close
from watching import LR, Watch, adam, make_batches

from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.generator import Generator
from hyperinverter.tasks.common import PhaseTask, Schedule


def test_cosine_falls_from_one_to_nearly_nothing() -> None:
    schedule = Schedule(images=1000, kind="cosine")
    assert schedule(0) == 1
    assert schedule(500) == pytest.approx(0.5)
    assert schedule(250) == pytest.approx(0.5 + math.sqrt(0.5) / 2)
    assert 0 < schedule(1000) <= 1e-3
    assert schedule(5000) == schedule(1000)  # a batch may go beyond the planned length
    factors = [schedule(seen) for seen in range(0, 1001, 50)]
    assert factors == sorted(factors, reverse=True)


def test_warmup_rises_to_one() -> None:
    schedule = Schedule(images=1000, warmup=100)
    assert 0 < schedule(0) < schedule(50) < schedule(98) < 1
    assert schedule(49) == pytest.approx(0.5)
    assert schedule(99) == schedule(100) == schedule(999) == 1
    both = Schedule(images=1000, warmup=100, kind="cosine")
    assert both(49) == pytest.approx(0.5 * Schedule(images=1000, kind="cosine")(49))


def test_no_length_is_no_division_by_zero() -> None:
    assert 0 < Schedule(images=0, kind="cosine")(0) <= 1


@pytest.mark.parametrize("phase", [1, 2])
def test_photos_are_counted_and_set_the_learning_rate(
    phase: int,
    make_phase1: Callable[..., PhaseTask],
    make_phase2: Callable[..., PhaseTask],
    make_trainer: Callable[..., Trainer],
) -> None:
    make = make_phase1 if phase == 1 else make_phase2
    schedule = Schedule(images=20, warmup=6, kind="cosine")
    task, watch = make(schedule=schedule), Watch()
    make_trainer(watch, epochs=2).fit(task, make_batches(4, 4, 2))
    assert watch.seen == [4, 8, 10, 14, 18, 20]
    expected = [
        LR * min(1, (seen + 1) / 6) * 0.5 * (1 + math.cos(math.pi * seen / 20))
        for seen in (0, 4, 8, 10, 14, 18)
    ]
    assert_close(watch.rates, [[rate] for rate in expected])


@pytest.mark.parametrize("kind", ["phase 1", "phase 2", "with discriminator"])
def test_a_batch_in_parts_makes_the_step_of_the_whole_batch(
    kind: str,
    make_phase1: Callable[..., PhaseTask],
    make_phase2: Callable[..., PhaseTask],
    make_trainer: Callable[..., Trainer],
    generator: Generator,
) -> None:
    batches = make_batches(6, 5, 2)
    # In single precision, which the discriminator ends in, rounding may carry an activation over a leaky ReLU's bend.
    dtype, tolerance = (torch.float32, 1e-2) if kind == "with discriminator" else (torch.float64, 1e-5)
    for batch in batches:
        batch["image"] = batch["image"].to(dtype)

    def train(accumulate: int) -> tuple[PhaseTask, Watch]:
        torch.manual_seed(3)
        changes: dict[str, Any] = {
            "accumulate": accumulate,
            "optimizer": lambda p: torch.optim.SGD(p, lr=0.001),
        }
        if kind == "with discriminator":
            # its minibatch statistic would see a part only
            changes |= {
                "discriminator": Discriminator(generator.config, group_size=1),
                "adv": 0.1,
                "adv_from": 6,
                "r1_every": 2,
            }
        task = (make_phase1 if kind == "phase 1" else make_phase2)(**changes)
        watch = Watch(task.to(dtype))
        make_trainer(watch).fit(task, batches)
        return task, watch

    whole, told = train(1)
    begin, after = told.states[0][0], whole.state_dict()
    for accumulate in (2, 4):  # the last batch has fewer photos than four
        parts, told_too = train(accumulate)
        learnt = torch.cat([(after[n] - begin[n]).flatten() for n in after if n != "images_seen"])
        missed = torch.cat(
            [(parts.state_dict()[n] - after[n]).flatten() for n in after if n != "images_seen"]
        )
        assert missed.norm() < tolerance * learnt.norm()
        for one, other in zip(told.logged, told_too.logged, strict=True):
            assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
    assert told.seen == [6, 11, 13]


def test_every_test_photo_counts_once_whatever_the_batches(
    make_phase2: Callable[..., PhaseTask], make_trainer: Callable[..., Trainer]
) -> None:
    task, batches = make_phase2(), make_batches(4, 4, 3)
    (measured,) = make_trainer().test(task, batches, verbose=False)
    assert task.metrics.count == 11
    assert [row["name"] for row in task.metrics.per_image()] == sorted(n for b in batches for n in b["name"])
    photo = torch.cat([batch["image"] for batch in batches])
    inversion = task.inverter.invert(photo)
    for prefix, image in (("", inversion.image), ("phase1/", inversion.w_image)):
        squares = (image - photo).square().mean(dim=(1, 2, 3))
        assert measured[f"test/{prefix}l2"] == pytest.approx(squares.mean().item(), rel=1e-4)
        clamped = (image.clamp(-1, 1) - photo).square().mean(dim=(1, 2, 3)) / 4
        decibels = -10 * clamped.log10()
        assert measured[f"test/{prefix}psnr"] == pytest.approx(decibels.mean().item(), rel=1e-4)
    names = {f"test/{p}{n}" for p in ("", "phase1/") for n in ("l2", "psnr", "ssim", "seconds_per_image")}
    assert set(measured) == names
    assert measured["test/seconds_per_image"] > 0
    assert measured["test/phase1/seconds_per_image"] > 0


def test_phase_one_measures_one_image(
    make_phase1: Callable[..., PhaseTask], make_trainer: Callable[..., Trainer]
) -> None:
    task, batches = make_phase1(), make_batches(3, 2)
    (measured,) = make_trainer().test(task, batches, verbose=False)
    assert set(measured) == {"test/l2", "test/psnr", "test/ssim", "test/seconds_per_image"}
    (validated,) = make_trainer().validate(task, batches, verbose=False)
    assert set(validated) == {"val/l2", "val/psnr", "val/ssim"}
    assert validated["val/l2"] == measured["test/l2"]


def test_measuring_starts_anew_each_time(
    make_phase1: Callable[..., PhaseTask], make_trainer: Callable[..., Trainer]
) -> None:
    task, watch = make_phase1(), Watch()
    trainer = make_trainer(watch, epochs=2)
    trainer.fit(task, make_batches(2), make_batches(3))
    assert task.metrics.count == 3
    photo = make_batches(3)
    before = trainer.callback_metrics["val/l2"]
    assert before.isfinite()
    (measured,) = trainer.validate(task, photo, verbose=False)
    assert measured["val/l2"] != before  # the same names with other photos: nothing of the last time is left


def test_training_and_validation_go_by_their_names(
    make_phase2: Callable[..., PhaseTask], make_trainer: Callable[..., Trainer]
) -> None:
    task, watch = make_phase2(), Watch()
    trainer = make_trainer(watch)
    trainer.fit(task, make_batches(2, 2), make_batches(2))
    assert watch.logged[0]["loss"] == pytest.approx(watch.logged[0]["l2"])
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(watch.logged[-1]["loss"])
    trained = {name for name in trainer.callback_metrics if name.startswith("train/")}
    assert trained == {"train/loss", "train/l2"}
    validated = {f"val/{p}{n}" for p in ("", "phase1/") for n in ("l2", "psnr", "ssim")}
    assert set(trainer.callback_metrics) == trained | validated


def test_loss_and_metrics_are_no_part_of_what_is_trained_or_saved(
    make_phase1: Callable[..., PhaseTask],
) -> None:
    judge = torch.nn.Linear(1, 1)
    loss = torch.nn.ModuleDict({"judge": judge})
    task = make_phase1(loss=loss)
    assert task.loss is loss
    assert not any(name.startswith(("loss", "_loss", "metrics", "_metrics")) for name in task.state_dict())
    assert not {id(p) for p in judge.parameters()} & {id(p) for p in task.parameters()}
    assert not any(p.requires_grad for p in judge.parameters())
    assert task.train() is task
    assert not judge.training


def test_optimizer_gets_what_learns_and_nothing_else(make_phase2: Callable[..., PhaseTask]) -> None:
    given: list[int] = []

    def listen(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        given.extend(id(p) for p in parameters)
        return adam(parameters)

    task = make_phase2(optimizer=listen)
    task.configure_optimizers()
    inverter = task.inverter
    assert set(given) == {
        id(p) for part in (inverter.feature_encoder, inverter.hypernet) for p in part.parameters()
    }
