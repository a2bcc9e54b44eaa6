"""What a configuration leaves open is settled once, on a copy."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from tiny import make_generator

from hyperinverter import assembly, config
from hyperinverter.contracts import UserError
from hyperinverter.networks.generator import Generator


@pytest.fixture
def built_in_size() -> Generator:
    return make_generator(64)


def compose(outputs: Path, *typed: str) -> config.Config:
    return config.compose([f"paths.outputs={outputs}", *typed])


def finished_phase1(outputs: Path, name: str) -> Path:
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    card = {"status": "finished", "complete": True, "domain": "digiface", "phase": 1, "finished": name}
    (folder / "run.json").write_text(json.dumps(card))
    return folder


def test_the_configuration_that_was_given_is_left_as_it_is(tmp_path: Path, built_in_size: Generator) -> None:
    cfg = compose(tmp_path, "phase=2")
    before = copy.deepcopy(cfg)
    settled = assembly.settle(cfg, built_in_size)
    assert cfg == before
    assert (cfg.domain.resolution, cfg.phase.from_run) == (None, None)
    assert (settled.domain.resolution, settled.phase.from_run) == (64, "packaged")
    assert assembly.settle(settled, built_in_size) == settled


def test_the_newest_complete_phase_one_is_taken(tmp_path: Path, built_in_size: Generator) -> None:
    finished_phase1(tmp_path, "2026-01-01")
    newest = finished_phase1(tmp_path, "2026-01-02")
    assert assembly.settle(compose(tmp_path, "phase=2"), built_in_size).phase.from_run == str(newest)
    asked = compose(tmp_path, "phase=2", "phase.from_run=packaged")
    assert assembly.settle(asked, built_in_size).phase.from_run == "packaged"
    assert assembly.settle(compose(tmp_path, "phase=1"), built_in_size).phase.from_run is None


def test_paths_are_kept_so_that_they_lead_there_from_another_folder(
    tmp_path: Path, built_in_size: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "g.pkl").touch()
    monkeypatch.chdir(tmp_path)
    typed = ["generator.path=g.pkl", "data=folder", "data.root=photos", "domain.resolution=64"]
    settled = assembly.settle(compose(tmp_path, *typed), built_in_size)
    assert (settled.generator.path, settled.data.root) == (str(tmp_path / "g.pkl"), str(tmp_path / "photos"))
    run = tmp_path / "run"
    config.save(settled, run / "config.yaml")
    (run / "run.json").write_text(json.dumps({"overrides": typed}))
    assert typed[0] in config.normalise_overrides([f"resume={run}"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = config.normalise_overrides([f"resume={run}"])
    assert f"generator.path={tmp_path}/g.pkl" in again
    assert f"data.root={tmp_path}/photos" in again


def test_a_phase_one_that_moved_with_the_run_is_found(tmp_path: Path, built_in_size: Generator) -> None:
    moved = finished_phase1(tmp_path / "moved", "2026-01-01")
    began = assembly.settle(compose(tmp_path, "phase=2"), built_in_size)
    began.phase.from_run = str(tmp_path / "outputs" / "runs" / "2026-01-01")
    run = moved.parent / "2026-01-02"
    config.save(began, run / "config.yaml")
    cfg = compose(tmp_path, "phase=2")
    cfg.resume = "auto"
    assert assembly.settle(cfg, built_in_size, run).phase.from_run == str(moved)


def test_a_resumed_run_keeps_the_phase_one_it_began_with(tmp_path: Path, built_in_size: Generator) -> None:
    run = tmp_path / "run"
    began = assembly.settle(compose(tmp_path, "phase=2"), built_in_size)
    config.save(began, run / "config.yaml")
    finished_phase1(tmp_path, "2026-01-02")  # since then
    cfg = compose(tmp_path, "phase=2")
    cfg.resume = "auto"
    assert assembly.settle(cfg, built_in_size, run).phase.from_run == "packaged"


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="draws 16 px and the built-in faces have 64"):
        assembly.settle(compose(tmp_path), make_generator())
    with pytest.raises(UserError, match=r"draws 16 px, domain\.resolution is 32; set domain\.resolution=16"):
        assembly.settle(compose(tmp_path, "domain.resolution=32"), make_generator())
