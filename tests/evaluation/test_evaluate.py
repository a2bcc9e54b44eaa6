"""``hyperinverter evaluate`` as typed: numbers that anybody can compute again, and work that is never lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from hyperinverter.commands import main
from hyperinverter.evaluation.measure import Measuring
from hyperinverter.evaluation.work import Work

PLAIN = ["--without", "st_lpips_alex", "--without", "id_descriptor"]
PLAIN += ["--without", "frechet_effnet_lite0", "--without", "kernel_effnet_lite0"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64)


@pytest.fixture(scope="module")
def evaluated(module_folder: Path) -> Path:
    out = module_folder / "evaluated"
    assert main(["evaluate", "digiface", "--n", "6", "--batch", "4", "--save-images", "--out", str(out)]) == 0
    return out


def test_it_leaves_what_it_promises(evaluated: Path) -> None:
    for name in (
        "table.csv",
        "table.md",
        "table.tex",
        "per_photo.csv",
        "pairs.csv",
        "photos.csv",
        "worst_best.png",
    ):
        assert (evaluated / name).is_file(), name
    found = rows(evaluated / "per_photo.csv")
    assert list(found[0])[:4] == ["photo", "model", "l2", "psnr"]
    assert len(found) == 6  # the last batch is not full, and is not dropped
    record = json.loads((evaluated / "protocol.json").read_text())
    assert record["protocol"]["name"] == "digiface"
    assert record["models"]["digiface"]["n"] == 6


def test_numbers_of_the_pngs_are_the_numbers_of_the_table(evaluated: Path) -> None:
    for row in rows(evaluated / "per_photo.csv"):
        photo = pixels(evaluated / "images" / "photo" / f"{row['photo']}.png")
        image = pixels(evaluated / "images" / "digiface" / f"{row['photo']}.png")
        l2 = ((photo - image) ** 2).mean() / 127.5**2
        assert float(row["l2"]) == pytest.approx(l2, rel=1e-4)
        assert float(row["psnr"]) == pytest.approx(10 * np.log10(4 / l2), rel=1e-4)
        ssim = structural_similarity(
            photo,
            image,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(row["ssim"]) == pytest.approx(ssim, rel=1e-4)


def test_the_mean_of_the_table_is_the_mean_of_the_photos(evaluated: Path) -> None:
    found = rows(evaluated / "per_photo.csv")
    (table,) = rows(evaluated / "table.csv")
    for name in ("l2", "psnr", "st_lpips_alex", "id_descriptor"):
        mean = np.mean([float(row[name]) for row in found])
        assert float(table[name]) == pytest.approx(mean, rel=1e-6)
        assert float(table[f"{name}_low"]) <= mean <= float(table[f"{name}_high"])


@pytest.mark.parametrize("place", ["read", "invert", "score", "keep", "tables"])
def test_interrupted_anywhere_it_ends_with_the_same_table(
    place: str,
    evaluated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hyperinverter.commands import evaluating
    from hyperinverter.evaluation import report, scoring

    targets = {
        "read": (evaluating, "read_pixels"),
        "invert": (Measuring, "_invert"),
        "score": (scoring.Scorer, "score"),
        "keep": (Work, "keep"),
        "tables": (report, "write_text"),
    }
    owner, name = targets[place]
    real, calls = getattr(owner, name), [0]

    def interrupted(*given: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    typed = [
        "evaluate",
        "digiface",
        "--n",
        "6",
        "--batch",
        "2",
        *PLAIN,
        "--save-images",
        "--out",
        str(tmp_path),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        assert main(typed) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err
    assert main(typed) == 0
    before = {row["photo"]: row for row in rows(evaluated / "per_photo.csv")}
    after = rows(tmp_path / "per_photo.csv")
    assert len(after) == 6
    for row in after:  # batches of another size may round a pixel differently: 4e-6 of SSIM
        assert all(
            float(row[n]) == pytest.approx(float(before[row["photo"]][n]), abs=1e-5) for n in ("l2", "ssim")
        )


@pytest.mark.slow  # two processes that import torch
def test_two_processes_give_the_same_table(evaluated: Path, tmp_path: Path) -> None:
    typed = [
        "evaluate",
        "digiface",
        "--n",
        "6",
        "--batch",
        "4",
        *PLAIN,
        "--processes",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*typed, "--out", str(tmp_path)]) == 0
    for one, other in zip(rows(evaluated / "per_photo.csv"), rows(tmp_path / "per_photo.csv"), strict=True):
        assert one["photo"] == other["photo"]
        assert all(float(one[n]) == pytest.approx(float(other[n]), abs=1e-6) for n in ("l2", "psnr", "ssim"))


def test_time_is_measured_alone_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperinverter.evaluation import measure, timing

    asked = [0]
    real = timing.time_models

    def quick(*given: object, **named: object) -> object:
        asked[0] += 1
        return real(*given, budget=0.2, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "time_models", quick)
    typed = ["evaluate", "digiface", "--n", "2", *PLAIN, "--out", str(tmp_path)]
    assert main([*typed, "--time"]) == 0
    assert main([*typed, "--time"]) == 0
    assert asked == [1]
    timed = {(row["part"], row["batch"]): row for row in rows(tmp_path / "timing.csv")}
    assert {part for part, _ in timed} == {"inversion", "phase I", "phase II", "edit", "prepared edit"}
    one = timed["inversion", "1"]
    assert 0 < float(one["p5"]) <= float(one["median"]) <= float(one["p95"])
    assert float(one["peak_mb"]) > 50
    assert one["device"]
    assert "## Time" in (tmp_path / "table.md").read_text()


def test_phase_one_and_searches_stand_in_the_same_table(tmp_path: Path) -> None:
    models = ["phase1@digiface", "digiface", "few=w_opt:2", "pti:2,pivot=2"]
    assert main(["evaluate", *models, "--n", "2", *PLAIN, "--out", str(tmp_path)]) == 0
    table = {row["model"]: float(row["l2"]) for row in rows(tmp_path / "table.csv")}
    assert list(table) == ["phase1@digiface", "digiface", "few", "pti_2_pivot_2"]
    assert table["digiface"] < table["phase1@digiface"] < table["few"]  # two steps are none


def test_seconds_until_a_search_is_as_close_as_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functools import partial

    from hyperinverter.evaluation import measure, timing
    from hyperinverter.evaluation.reach import seconds_until

    monkeypatch.setattr(measure, "time_models", partial(timing.time_models, budget=0.05))
    typed = ["evaluate", "digiface", "few=w_opt:12", "tuned=digiface+pti:21", "--n", "2", *PLAIN]
    assert main([*typed, "--time", "--out", str(tmp_path)]) == 0
    reached = {row["search"]: row for row in rows(tmp_path / "reach.csv")}
    assert set(reached) == {"few", "tuned"}
    assert {row["model"] for row in reached.values()} == {"digiface"}
    first = next(row for row in rows(tmp_path / "per_photo.csv") if row["model"] == "digiface")
    assert float(reached["few"]["l2"]) == pytest.approx(float(first["l2"]), rel=1e-4)
    assert reached["few"]["seconds"] == ""  # a few steps are none
    assert float(reached["tuned"]["seconds"]) > 0  # begins where the model ends
    assert "| few | never |" in (tmp_path / "table.md").read_text()
    trace = [(0.1, 0.5), (0.2, 0.3), (0.3, 0.1)]
    assert seconds_until(trace, 0.3) == 0.2
    assert np.isnan(seconds_until(trace, 0.05))


def test_who_asks_for_fewer_photos_after_a_stop_gets_a_table_of_these(tmp_path: Path) -> None:
    typed = ["evaluate", "phase1@digiface", "--n", "2", *PLAIN, "--out", str(tmp_path)]
    assert main(typed) == 0
    record = json.loads((tmp_path / "protocol.json").read_text())
    record["models"]["phase1@digiface"]["n"] = 4  # what was asked for before it was stopped
    (tmp_path / "protocol.json").write_text(json.dumps(record))
    assert main(typed) == 0
    assert [row["n"] for row in rows(tmp_path / "table.csv")] == ["2"]
