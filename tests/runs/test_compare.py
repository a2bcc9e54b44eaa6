"""Tables of a sweep: one row per job, one per setting, every logged number."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperinverter import runs
from hyperinverter.contracts import UserError


def test_table_has_a_row_per_job_with_settings_numbers_and_costs(sweep: Path) -> None:
    frame = runs.table(sweep)
    assert list(frame.job) == [0, 1, 2, 3, 4]
    assert list(frame.fusion) == ["concat", "add", "gated", "concat", "add"]
    assert list(frame.l2.dropna()) == [0.05, 0.04, 0.07, 0.03]
    assert frame.status[2] == "failed"
    assert frame.error[2] == "it broke"
    assert list(frame.parameters) == [1000, 2000, 3000, 4000, 5000]
    assert list(frame)[:5] == ["job", "name", "status", "fusion", "seed"]


def test_no_sweep_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a sweep"):
        runs.table(tmp_path)


def test_summary_ranks_the_means_and_shows_the_spread(sweep: Path) -> None:
    frame = runs.summary(sweep)
    assert list(frame.fusion) == ["add", "concat", "gated"]
    assert list(frame["rank"]) == [1, 2, 3]
    assert frame.l2[0] == pytest.approx(0.035)
    assert frame.l2_std[0] == pytest.approx(0.00707107, rel=1e-4)  # of 0.04 and 0.03
    assert list(frame.seeds) == [2, 2, 0]
    assert list(frame.failed) == [0, 0, 1]
    assert list(runs.summary(sweep, by="psnr").fusion) == ["add", "concat", "gated"]
    with pytest.raises(UserError, match="no job measured l3; there are: l2, phase1/l2, psnr"):
        runs.summary(sweep, by="l3")


def test_the_same_setting_and_seed_twice_count_once(tmp_path: Path, make_job: Callable[..., Path]) -> None:
    for num, (l2, seed) in enumerate([(0.1, 0), (0.1, 0), (0.3, 1)]):
        make_job(tmp_path, num, "fusion=add", l2, seed=seed)
    (row,) = runs.summary(tmp_path).to_dict("records")
    assert (row["seeds"], row["failed"]) == (2, 0)
    assert row["l2"] == pytest.approx(0.2)


def test_a_ranking_by_a_number_that_has_no_better_way(sweep: Path) -> None:
    card = json.loads((sweep / "0" / "run.json").read_text())
    card["metrics"]["test/beauty"] = 1.0
    (sweep / "0" / "run.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="not known whether a high or a low beauty is better"):
        runs.summary(sweep, by="beauty")


def test_curves_put_all_jobs_under_one_another(sweep: Path) -> None:
    frame = runs.curves(sweep)
    assert set(frame.name) == {"baseline (fusion=concat)", "fusion=add", "fusion=gated"}
    assert len(frame) == 10
    assert list(frame[frame.job == 1]["train/loss"]) == pytest.approx([0.14, 0.09])


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'"a\n'])
def test_metrics_that_are_no_table_are_named(content: bytes, sweep: Path) -> None:
    file = sweep / "0" / "metrics.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file} is no table of metrics .*; restore it, or remove it"):
        runs.curves(sweep)


def test_sweeps_are_found_below_the_home_folder(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(sweep.parent))
    assert len(runs.table(f"~/{sweep.name}")) == 5
    with pytest.raises(UserError, match="expected the path of a file, got int"):
        runs.table(3)  # type: ignore[arg-type]
