"""The benchmark compares things that are equal, and its table says what was measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hyperinverter import commands
from hyperinverter.commands import bench
from hyperinverter.commands.bench import cases, measuring, slow_reference
from hyperinverter.contracts import UserError


def test_the_slow_reference_is_the_same_method() -> None:
    model = cases.make_model("smoke").eval()
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    inversion = model.invert(photo)
    with torch.no_grad():
        assert_close(slow_reference.invert(model, photo), inversion.image, rtol=1e-4, atol=1e-4)
        assert_close(slow_reference.phase1(model, photo), inversion.w_image, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(inversion.image, inversion.w_image, atol=1e-3)


def test_the_slow_step_gives_the_same_gradients() -> None:
    gradients = []
    for step in (cases.step, slow_reference.step):
        torch.manual_seed(0)
        model = cases.make_model("smoke").train()
        step(model, torch.rand(2, 3, 16, 16) * 2 - 1)
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if not name.startswith("w_inv")}
        )
    assert len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-4 * gradient.abs().max().item() + 1e-7)


def test_counts_are_those_of_the_arithmetic() -> None:
    ours, slow = (measuring.count("smoke", "step", 4, side) for side in ("ours", "reference"))
    assert ours.operators < slow.operators
    assert ours.gflop < slow.gflop  # gradients nobody needs
    double = (
        measuring.count("smoke", "phase2", 8, "ours").gflop
        / measuring.count("smoke", "phase2", 4, "ours").gflop
    )
    assert 1.5 < double <= 2.01


def test_the_table_has_a_line_for_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["synthesis:2", "edit:1", "data:2"]
    options = ["--size", "smoke", "--rounds", "1", "--clock", "processor", "--out", str(tmp_path)]
    assert commands.main(["bench", *asked, *options]) == 0
    said = capsys.readouterr().out.splitlines()
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [f"{row['case']}:{row['batch']}" for row in rows] == asked
    assert [line.split()[0] for line in said[1:4]] == asked
    for row in rows:
        assert row["clock"] == "processor"
        assert row["torch"] == torch.__version__
        assert float(row["seconds"]) > 0
        assert float(row["peak_mb"]) > 0
        assert float(row["ratio"]) == pytest.approx(
            float(row["reference_seconds"]) / float(row["seconds"]), rel=0.02
        )


@pytest.mark.slow
def test_gradients_can_be_measured_more_than_once(tmp_path: Path) -> None:
    options = ["--size", "smoke", "--rounds", "1", "--out", str(tmp_path)]
    assert commands.main(["bench", "step:1", "step:2", *options]) == 0
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert [row["batch"] for row in csv.DictReader(file)] == ["1", "2"]


@pytest.mark.parametrize("case", sorted(cases.CASES))
def test_every_case_runs_on_both_sides(case: str) -> None:
    model = cases.make_model("smoke")
    for side in ("ours", "reference", "ours"):
        cases.work(case, 2, side, model)()


def test_both_sides_load_as_many_photos() -> None:
    for side in ("ours", "reference"):
        loaded = cases.work("data", 3, side, cases.make_model("smoke"))()
        photos = loaded if isinstance(loaded, torch.Tensor) else loaded["image"]
        assert photos.shape == (3, 3, 16, 16)
        assert photos.abs().max() <= 1


def test_the_profile_names_what_takes_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["bench", "phase1:1", "--size", "smoke", "--profile"]) == 0
    assert "convolution" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing:2"], "a case is NAME:BATCH"),
        (["step"], "a case is NAME:BATCH"),
        (["step:0"], "a case is NAME:BATCH"),
        (["step:x"], "a case is NAME:BATCH"),
        (["--size", "huge"], "bench knows the sizes"),
        (["--rounds", "0"], "--rounds=0: at least 1 is needed"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["bench", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}")
    assert said.count("\n") == 1


def test_a_table_of_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "table.csv"
    bench.add({"case": "step", "seconds": 1}, path)
    bench.add({"case": "edit", "seconds": 2}, path)
    with pytest.raises(UserError, match=r"has other columns than this version writes; choose another --out"):
        bench.add({"case": "step", "minutes": 1}, path)
    assert path.read_text(encoding="utf-8") == "case,seconds\nstep,1\nedit,2\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["bench", "--size", "smoke", "--device", "cuda"]) == 1
    assert "PyTorch sees no CUDA GPU" in capsys.readouterr().err


def test_half_precision_is_for_both_sides(tmp_path: Path) -> None:
    model = cases.make_model("smoke")
    for case in ("synthesis", "phase2", "edit"):
        for side in ("ours", "reference"):
            drawn = []
            for half in (False, True):
                torch.manual_seed(0)
                result = cases.work(case, 2, side, model, half)()
                drawn.append(result if isinstance(result, torch.Tensor) else result.image)
            assert 0 < (drawn[0] - drawn[1]).norm() < 3e-2 * drawn[0].norm()


def test_the_papers_faces_are_counted_at_full_size() -> None:
    counted = measuring.count("full1024", "edit", 1, "ours", "cuda")
    assert 130 < counted.gflop < 160  # StyleGAN2's config F at 1024 px: 74 G multiplications and additions
