"""``evaluation=full``: a run ends with the tables of its best weights."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hyperinverter import config
from hyperinverter.contracts import UserError
from hyperinverter.training import job as jobs

SMALL = [
    *(
        "phase=2",
        "phase.from_run=packaged",
        "phase.kimg=0.004",
        "phase.epoch_kimg=0.004",
        "phase.batch_size=2",
    ),
    *("data.num_train=4", "data.num_val=2", "data.num_test=3", "logger=csv", "panels.num_photos=1"),
    *("evaluation=full", "evaluation.time=false", "hypernet.hidden_dim=4"),
]


def test_a_run_ends_with_the_tables_of_its_best_weights(tmp_path: Path) -> None:
    jobs.train(config.compose(SMALL), tmp_path / "run")
    found = tmp_path / "run" / "evaluation"
    with (found / "per_photo.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["phase1"] * 3 + ["phase2"] * 3
    assert rows[0]["photo"] == rows[3]["photo"] == "000000"
    assert "phase1" in (found / "table.md").read_text()
    assert (found / "worst_best.png").is_file()


def test_a_protocol_that_cannot_be_measured_stops_the_run_before_training(tmp_path: Path) -> None:
    asked = ["evaluation.protocol=paper", f"paths.cache={tmp_path}"]
    with pytest.raises(UserError, match="weights fetch lpips_alex"):
        jobs.train(config.compose([*SMALL, *asked]), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
