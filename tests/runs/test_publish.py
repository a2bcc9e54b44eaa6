"""What compares the jobs, and copies of what is worth citing."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hyperinverter import runs
from hyperinverter.contracts import UserError


def test_a_comparison_is_tables_and_picture_and_a_failed_sweep_only_tables(
    sweep: Path, tmp_path: Path, make_job: Callable[..., Path]
) -> None:
    assert [path.name for path in runs.write_comparison(sweep)] == [
        "table.csv",
        "summary.csv",
        "table.md",
        "panel.png",
    ]
    assert len(pd.read_csv(sweep / "table.csv")) == 5
    make_job(tmp_path / "bare", 0, "x", 0.1, status="failed")
    assert [path.name for path in runs.write_comparison(tmp_path / "bare")] == [
        "table.csv",
        "summary.csv",
        "table.md",
    ]


def test_a_sweep_without_a_picture_still_has_its_tables(
    sweep: Path, make_job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for photo in ("a", "b"):  # as where every job reads another folder
        (sweep / "0" / "test_photos" / photo).rename(sweep / "0" / "test_photos" / f"{photo}{photo}")
    assert [path.name for path in runs.write_comparison(sweep)] == ["table.csv", "summary.csv", "table.md"]
    assert "no picture: the jobs of" in capsys.readouterr().err
    job = make_job(tmp_path / "diverged", 0, "x", 0.1)  # failed after its test
    (job / "run.json").write_text((job / "run.json").read_text().replace('"finished"', '"failed"'))
    assert len(runs.write_comparison(tmp_path / "diverged")) == 3
    whole = make_job(tmp_path / "damaged", 0, "x", 0.1)
    (whole / "test_photos" / "a" / "photo.png").write_bytes(b"no picture")
    assert len(runs.write_comparison(tmp_path / "damaged")) == 3
    assert "photo.png cannot be read as a picture" in capsys.readouterr().err


def test_publish_a_sweep_and_a_run(sweep: Path, tmp_path: Path) -> None:
    place = runs.publish(sweep, "fusion-study", tmp_path / "outputs")
    names = sorted(path.name for path in place.iterdir())
    assert names == [
        "cards.json",
        "command.txt",
        "panel.png",
        "summary.csv",
        "sweep.json",
        "table.csv",
        "table.md",
    ]
    assert (place / "command.txt").read_text() == "python train.py phase=2 +sweep=fusion\n"
    (sweep / "0" / "config.yaml").write_text("a: 1\n")
    single = runs.publish(sweep / "0", "one", tmp_path / "outputs")
    assert {"run.json", "config.yaml", "metrics.csv"} <= {path.name for path in single.iterdir()}
    for name in ("", "a/b", ".."):
        with pytest.raises(UserError, match="is not a folder name"):
            runs.publish(sweep, name, tmp_path)
