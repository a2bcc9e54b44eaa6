"""The benchmark compares things that are equal, and its table says what was measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hyperinverter.contracts import UserError
from hyperinverter.recipes import bench, slow_reference


def test_the_slow_reference_is_the_same_method() -> None:
    model = bench.make_model("smoke").eval()
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    inversion = model.invert(photo)
    with torch.no_grad():
        assert_close(slow_reference.invert(model, photo), inversion.image, rtol=1e-4, atol=1e-4)
        assert_close(slow_reference.phase1(model, photo), inversion.w_image, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(inversion.image, inversion.w_image, atol=1e-3)


def test_the_slow_step_gives_the_same_gradients() -> None:
    gradients = []
    for step in (bench.step, slow_reference.step):
        torch.manual_seed(0)
        model = bench.make_model("smoke").train()
        step(model, torch.rand(2, 3, 16, 16) * 2 - 1)
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if not name.startswith("w_inv")}
        )
    assert len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-4 * gradient.abs().max().item() + 1e-7)


def test_counts_are_those_of_the_arithmetic() -> None:
    ours, slow = (bench.count("smoke", "step", 4, side) for side in ("ours", "reference"))
    assert ours.operators < slow.operators
    assert ours.gflop < slow.gflop  # gradients nobody needs
    double = bench.count("smoke", "phase2", 8, "ours").gflop / bench.count("smoke", "phase2", 4, "ours").gflop
    assert 1.5 < double <= 2.01


@pytest.mark.slow
def test_the_table_has_a_line_for_every_case(tmp_path: Path) -> None:
    arguments = ["--size", "smoke", "--case", "synthesis:2", "--case", "step:2", "--case", "edit:1"]
    assert bench.main([*arguments, "--rounds", "1", "--clock", "processor", "--out", str(tmp_path)]) == 0
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["batch"]) for row in rows] == [("synthesis", "2"), ("step", "2"), ("edit", "1")]
    for row in rows:
        assert row["clock"] == "processor"
        assert float(row["seconds"]) > 0
        assert float(row["peak_mb"]) >= 0
        assert float(row["ratio"]) == pytest.approx(
            float(row["reference_seconds"]) / float(row["seconds"]), rel=0.02
        )


@pytest.mark.parametrize("case", ["nothing:2", "step", "step:0", "step:x"])
def test_unknown_cases_are_refused(case: str) -> None:
    with pytest.raises(UserError, match="a case is NAME:BATCH"):
        bench.parse_case(case)
