"""Reading finished runs: tables, ranking with spread, pictures, publishing."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from hyperinverter import cli, config, runs
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


@pytest.mark.parametrize(
    ("metric", "more"),
    [("l2", False), ("st_lpips_alex", False), ("psnr", True), ("ms_ssim", True), ("id_facenet", True)],
)
def test_which_way_is_better(metric: str, more: bool) -> None:
    assert runs.higher_is_better(metric) is more


def test_an_unknown_number_has_no_better_way() -> None:
    with pytest.raises(UserError, match="whether more beauty is better is unknown"):
        runs.higher_is_better("beauty")


def test_markdown_joins_mean_and_spread_and_shows_where_phase_two_started(sweep: Path) -> None:
    lines = runs.markdown(runs.summary(sweep)).splitlines()
    assert lines[0] == "| rank | name | seeds | l2 | psnr | parameters | seconds | failed |"
    assert lines[2].startswith("| 1 | fusion=add | 2 | 0.0350 ± 0.0071 | 16.50 ± 0.71 | 0.00 M | 12 |")
    assert lines[-1].startswith("|  | phase I |  | 0.0900 |")


def test_curves_put_all_jobs_under_one_another(sweep: Path) -> None:
    frame = runs.curves(sweep)
    assert set(frame.name) == {"baseline (fusion=concat)", "fusion=add", "fusion=gated"}
    assert len(frame) == 10
    assert list(frame[frame.job == 1]["train/loss"]) == pytest.approx([0.14, 0.09])


def test_panel_has_the_photos_as_rows_and_the_jobs_as_columns_best_first(sweep: Path) -> None:
    with Image.open(runs.panel(sweep)) as picture:
        width, height = picture.size
        pixel = [picture.getpixel((3 + column * 99 + 48, height - 40)) for column in range(4)]
    assert width == 4 * 99 + 3  # input, phase I, the best setting, the other; the failed one has no picture
    assert [red for red, _, _ in pixel] == [10, 90, 20, 0]
    assert 2 * 99 < height < 2 * 99 + 80


def test_panel_without_pictures_or_common_photos(
    sweep: Path, tmp_path: Path, make_job: Callable[..., Path]
) -> None:
    make_job(tmp_path / "bare", 0, "x", 0.1, status="failed")
    with pytest.raises(UserError, match="no finished job of .* kept test photos"):
        runs.panel(tmp_path / "bare")
    for photo in ("a", "b"):
        (sweep / "0" / "test_photos" / photo).rename(sweep / "0" / "test_photos" / f"{photo}{photo}")
    with pytest.raises(UserError, match="tested on different photos"):
        runs.panel(sweep)


def test_finish_writes_tables_and_picture_and_a_failed_sweep_only_tables(
    sweep: Path, tmp_path: Path, make_job: Callable[..., Path]
) -> None:
    assert [path.name for path in runs.finish(sweep)] == ["table.csv", "summary.csv", "table.md", "panel.png"]
    assert len(pd.read_csv(sweep / "table.csv")) == 5
    make_job(tmp_path / "bare", 0, "x", 0.1, status="failed")
    assert [path.name for path in runs.finish(tmp_path / "bare")] == ["table.csv", "summary.csv", "table.md"]


def test_no_sweep_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no sweep folder"):
        runs.table(tmp_path)


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


def test_latest_finished_is_the_newest_complete_run_of_domain_and_phase(tmp_path: Path) -> None:
    def run(name: str, **facts: object) -> None:
        card = {"status": "finished", "complete": True, "domain": "digiface", "phase": 1, **facts}
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(card))

    assert runs.latest_finished(tmp_path, domain="digiface", phase=1) is None
    run("a", finished="2026-01-01T10:00:00+00:00")
    run("b", finished="2026-01-02T10:00:00+00:00")
    run("c", finished="2026-01-03T10:00:00+00:00", status="interrupted")
    run("d", finished="2026-01-04T10:00:00+00:00", complete=False)
    run("e", finished="2026-01-05T10:00:00+00:00", domain="faces")
    run("f", finished="2026-01-06T10:00:00+00:00", phase=2)
    (tmp_path / "runs" / "g").mkdir()
    (tmp_path / "runs" / "g" / "run.json").write_text("{ cut off")
    found = runs.latest_finished(tmp_path, domain="digiface", phase=1)
    assert found == tmp_path / "runs" / "b"
    run("h", finished="2026-01-01T09:00:00+00:00", loaded={"generator": {"path": "cats.pkl"}})
    run("i", finished="2026-01-07T10:00:00+00:00", loaded={"generator": {"path": "dogs.pkl"}})
    by_cats = runs.latest_finished(tmp_path, domain="digiface", phase=1, generator="cats.pkl")
    assert by_cats == tmp_path / "runs" / "b"  # a card that names no generator may be any one's
    assert runs.latest_finished(tmp_path, domain="digiface", phase=1) == tmp_path / "runs" / "i"


@pytest.mark.usefixtures("toy")
def test_a_finished_run_loads_with_its_best_weights(tmp_path: Path, short: list[str]) -> None:
    import torch

    cli.train(config.compose(["phase=2", *short]), tmp_path)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    task = runs.load(tmp_path).task
    assert torch.equal(task.inverter.gain, best["inverter.gain"])
    assert not task.training
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"PK cut off")
    with pytest.raises(UserError, match="does not fit the run's configuration"):
        runs.load(tmp_path)
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match="has no best.ckpt"):
        runs.load(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        runs.load(tmp_path / "checkpoints")
