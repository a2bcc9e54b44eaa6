"""The count of what an inversion costs is that of the method itself, and what is promised of it holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter import config
from hyperinverter.networks.generator import GeneratorConfig
from hyperinverter_recipes import costs

NARROW = ("hypernet.hidden_dim=4", "hypernet.channels=16", "hypernet.extractor_channels=8")
SHAPE = GeneratorConfig(8, 8, 16, mapping_layers=1, channel_base=128, channel_max=8)


@pytest.mark.parametrize(
    "saving",
    [
        (),
        ("encoder.heads=level", "encoder.initial=half"),
        ("fusion=attention", "coverage=torgb"),
        ("features=16",),
        ("features=16", "coverage=none"),
        ("method=hyperstyle", "method.iterations=3"),
    ],
)
def test_parts_sum_to_the_whole_inversion(saving: tuple[str, ...]) -> None:
    model = costs.untrained(costs.composed([*NARROW, *saving]), SHAPE)
    photo = torch.rand(2, 3, 64, 64) * 2 - 1
    parts = costs.count_parts(model, photo)
    with FlopCounterMode(display=False) as whole:
        model.invert(photo)
    assert sum(parts.values()) == whole.get_total_flops()
    assert tuple(parts) == costs.PARTS
    missing = {part for part, flops in parts.items() if flops == 0}
    rival = {"photo features", "initial features", "fusion", "feature residuals"}
    weights = {"fusion", "hypernetworks"} if "coverage=none" in saving else set()
    assert missing == (
        rival
        if "method=hyperstyle" in saving
        else weights | (set() if "features=16" in saving else {"feature residuals"})
    )


def test_counting_needs_no_numbers_and_a_batch_costs_its_photos() -> None:
    one, four = costs.parts_of(NARROW), costs.parts_of(NARROW, batch=4)
    # but for the norms of kernels, which for one photo are no matrix product and so are not counted
    assert sum(four.values()) == pytest.approx(4 * sum(one.values()), rel=1e-3)


def test_a_training_step_is_the_inversion_and_a_backward_pass_through_its_second_half() -> None:
    parts = costs.parts_of(NARROW)
    taught = sum(parts.values()) - parts["W encoder"] - parts["initial synthesis"]  # these learn nothing
    step = costs.training_of(NARROW)
    # gradients of inputs and of weights take as much again each, but for inputs nobody asks about
    assert sum(parts.values()) + taught < step <= sum(parts.values()) + 2 * taught


def test_a_finer_generator_costs_more_heads_unless_they_are_shared() -> None:
    levels = (*NARROW, "encoder.heads=level")
    small, large = costs.parts_of(levels), costs.parts_of(levels, resolution=128)
    assert large["W encoder"] == small["W encoder"]  # encoders see every photo at their own size
    assert large["photo features"] == small["photo features"]
    assert large["final synthesis"] > small["final synthesis"]
    assert costs.parts_of(NARROW, resolution=128)["photo features"] > large["photo features"]


def test_lite_takes_at_most_six_tenths_of_the_papers_design() -> None:
    lite, paper, narrow = (
        sum(costs.parts_of(costs.DESIGNS["digiface"][name]).values())
        for name in ("lite", "paper", "paper, widths for 64 px")
    )
    assert lite <= 0.6 * narrow
    assert lite <= 0.1 * paper


def test_each_saving_saves() -> None:
    def cost(*overrides: str) -> float:
        return sum(costs.parts_of(overrides).values())

    default = cost()
    assert cost("encoder.heads=level") < cost("encoder.heads=resolution") < default
    assert cost("encoder.initial=half") < default
    assert cost("coverage=convs") < default
    assert cost("hypernet.hidden_dim=32") < default


def test_the_papers_generators_are_counted_without_their_files() -> None:
    shape = costs.shapes(config.compose(["phase=2", "experiment=paper_churches", "data.root=x"]))
    assert (shape.img_resolution, shape.channel_max, shape.w_dim) == (256, 512, 512)


def test_the_picture_is_drawn_from_the_table(tmp_path: Path) -> None:
    rows = [
        {"axis": axis, "value": str(value), "gflop": str(1 + place), "seconds": str(0.1 + place)}
        for axis, values in costs.AXES.items()
        for place, value in enumerate(values)
    ]
    costs.write(rows, tmp_path / "costs.csv")
    assert costs.read(tmp_path / "costs.csv") == rows
    assert costs.main(["axes", "--out", str(tmp_path), "--draw"]) == 0
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_axis_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "AXES", {axis: (value,) for axis, value in costs.DEFAULTS.items()})
    rows = costs.measure_axes(rounds=1)
    assert [row["axis"] for row in rows] == list(costs.DEFAULTS)
    assert len({row["gflop"] for row in rows}) == 1  # every axis goes through the default
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_steps_of_several_designs_are_timed_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    clock = [0.0]

    def processor_time() -> float:
        number = next(ticks)
        if number % 2:
            clock[0] += {1: 50, 3: 50, 5: 2, 7: 3, 9: 4, 11: 4, 13: 8, 15: 20}[number]
        return clock[0]

    monkeypatch.setattr(costs.time, "process_time", processor_time)
    small = "phase.batch_size=2 loss.lpips=0 coverage=torgb hypernet.hidden_dim=4"
    designs = [small, f"{small} loss.mirror=1"]
    assert costs.main(["steps", *designs, "--rounds", "3", "--out", str(tmp_path)]) == 0
    first, second = costs.read(tmp_path / "steps.csv")
    assert (first["design"], first["photos"], first["share of the first"]) == (small, "2", "1.000")
    assert first["processor seconds"] == "4"  # of 2, 4 and 8; the first step warms up
    # 1.5, 1 and 2.5 of those
    assert (second["processor seconds"], second["share of the first"]) == ("4", "1.500")
    assert first["trained parameters, M"] == second["trained parameters, M"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["parts", "encoder.heads=levels"], "encoder.heads must be one of layer, .*did you mean 'level'"),
        (["parts", "domain=own", "data.root=x"], "generator"),
        (["steps", "loss.adv=0.005"], "without a discriminator: add loss.adv=0"),
        (["axes", "--out", "nowhere", "--draw"], "there is no .*costs.csv: measure first"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert costs.main(arguments) == 1
    told = capsys.readouterr().err
    assert re.search(sentence, told)
    assert told.count("\n") == 1
