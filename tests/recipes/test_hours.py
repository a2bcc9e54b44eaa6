"""Hours are those of the counted work: every operation once, at the time of what it waits for longest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter import config
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.policy import policy
from hyperinverter.tasks.phase2 import PhaseIIHyper
from hyperinverter_recipes import hours

CARD = hours.Card(tf32=10e12, bf16=20e12, bandwidth=1e12)


def test_each_operation_takes_the_longest_of_three_times() -> None:
    work = hours.Work([(5e9, 0), (0, 0.7e9), (1, 1)])
    assert work.seconds(CARD, "tf32") == pytest.approx(1e-3 + 1e-3 + 5e-6)
    assert work.seconds(CARD, "bf16") == pytest.approx(0.5e-3 + 1e-3 + 5e-6)


@pytest.mark.slow
def test_arithmetic_is_what_pytorch_counts(
    make_phase2: Callable[..., PhaseIIHyper], generator: Generator
) -> None:
    task = make_phase2(discriminator=Discriminator(generator.config), adv=0.1)
    step = hours.STEPS["adversarial"]
    work = hours.played(task, 2, False, step)
    # one sample at a time: the gradient of a grouped convolution would be counted once per pair of groups
    with (
        policy(per_sample="loop", winograd="never", regressors="loop"),
        FlopCounterMode(display=False) as counter,
    ):
        step(task, torch.rand(2, 3, 16, 16), False)
    assert work.flop == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert work.bytes > 4 * sum(p.numel() for p in task.discriminator.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("domain", "photos", "joined"), [("faces", 1_600_000, 1_200_000), ("churches", 800_000, 1_600_000)]
)
def test_lengths_are_those_of_the_configuration(domain: str, photos: int, joined: int) -> None:
    cfg = config.compose([f"experiment=paper_{domain}", "data.root=PHOTOS", "phase=2"])
    steps = hours.recipe_of(cfg, domain, 2).steps
    assert steps == {"plain": (photos, 8), "adversarial": (joined, 4), "penalty": (joined / 16, 4)}


def test_the_recorded_hours_are_the_documented_ones() -> None:
    root = Path(__file__).parents[2]
    recorded = (root / "outputs/published/hours/hours.csv").read_text(encoding="utf-8").splitlines()
    names = recorded[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in recorded[1:]]
    said = (root / "conf/experiment/README.md").read_text(encoding="utf-8")
    for domain in ("faces", "churches"):
        for phase in ("1", "2"):
            cells = [
                next(
                    row["hours"]
                    for row in rows
                    if (row["experiment"], row["phase"], row["precision"], row["card"])
                    == (f"paper_{domain}", phase, precision, card)
                )
                for card in hours.CARDS
                for precision in hours.SETTINGS.values()
            ]
            assert f"| {domain}, phase {'I' * int(phase)} | {' | '.join(cells)} |" in said
