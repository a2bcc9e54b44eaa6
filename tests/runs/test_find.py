"""Runs and sweeps on disk."""

import json
import os
from pathlib import Path

import pytest

from hyperinverter import runs


def test_latest_finished_is_the_newest_complete_run_of_domain_and_phase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    run("j", finished="2026-01-08T10:00:00+00:00", best={"file": "checkpoints/best.ckpt"})
    assert runs.latest_finished(tmp_path, domain="digiface", phase=1) == tmp_path / "runs" / "i"
    assert "runs/j: its checkpoints/best.ckpt is gone" in capsys.readouterr().err


def test_times_of_two_zones_are_compared_as_instants(tmp_path: Path) -> None:
    for name, finished in (
        ("early", "2026-01-01T12:00:00+02:00"),
        ("late", "2026-01-01T11:00:00Z"),
        ("no time", "yesterday"),
    ):
        card = {"status": "finished", "complete": True, "domain": "x", "phase": 1, "finished": finished}
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(card))
    assert runs.latest_finished(tmp_path, domain="x", phase=1) == tmp_path / "runs" / "late"


def test_a_card_that_is_no_file_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("folder", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "run.json").mkdir()
    os.mkfifo(tmp_path / "pipe" / "run.json")
    for name in ("folder", "pipe", "nothing"):
        assert runs.read_card(tmp_path / name) is None
    assert capsys.readouterr().err.count("run.json: it is no file\n") == 2
