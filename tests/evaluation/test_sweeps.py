"""A sweep's folder stands for its finished jobs, and several seeds of one recipe are a second level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from blurring import Blurring

from hyperinverter.commands import evaluating, main
from hyperinverter.evaluation.recipes import recipes_of, seeds_markdown
from hyperinverter.evaluation.tables import Measured
from hyperinverter.networks.generator import Generator

WITHOUT = [f"--without={name}" for name in ("st_lpips_alex", "id_descriptor")]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two recipes with two seeds each, and a job that failed; their errors are in their names."""
    folder = tmp_path / "sweep"
    for number, (name, seed, status) in enumerate(
        [
            ("small=0.1", 0, "finished"),
            ("large=0.3", 0, "finished"),
            ("small=0.1 seed=1", 1, "finished"),
            ("large=0.3 seed=1", 1, "finished"),
            ("broken", 0, "failed"),
        ]
    ):
        (folder / str(number)).mkdir(parents=True)
        setting = name.split(" ")[0]
        card = {"name": name, "seed": seed, "status": status, "phase": 2}
        card["overrides"] = ["phase=2", setting, f"seed={seed}", f"name={name}"]
        (folder / str(number) / "run.json").write_text(json.dumps(card))
    (folder / "sweep.json").write_text("{}")
    return folder


def test_a_sweep_is_its_finished_jobs_and_seeds_are_joined(
    sweep: Path, faces: Path, small_generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, cache: Path) -> Blurring:
        card = json.loads((Path(name) / "run.json").read_text())
        size = float(card["overrides"][1].partition("=")[2])
        model = Blurring(small_generator, size + 0.01 * card["seed"])
        model.source = name
        return model

    monkeypatch.setattr(evaluating, "load_inverter", load)
    out = tmp_path / "out"
    assert main(["evaluate", str(sweep), "--data", str(faces), *WITHOUT, "--out", str(out)]) == 0
    record = json.loads((out / "protocol.json").read_text())
    assert list(record["models"]) == ["small_0.1", "large_0.3", "small_0.1_seed_1", "large_0.3_seed_1"]
    assert record["models"]["small_0.1_seed_1"]["recipe"] == record["models"]["small_0.1"]["recipe"]
    over = (out / "table.md").read_text().partition("## Over seeds")[2]
    assert "| small_0.1 | 2 |" in over
    assert "Over 2 seeds, the recipe of **small_0.1** against that of large_0.3: better in l2" in over


def test_a_difference_of_one_seed_is_no_difference_of_recipes() -> None:
    draw = np.random.default_rng(0)
    photos = draw.gamma(2.0, size=50)
    shifts = {"a": 0.0, "a1": 0.4, "b": 0.1, "b1": 0.2}
    names = [str(i) for i in range(50)]
    models = {label: Measured(names, {"l2": photos + shift}, {}) for label, shift in shifts.items()}
    record: dict[str, dict[str, object]] = {
        label: {"recipe": label[0], "seed": int(label[1:] or 0)} for label in models
    }
    found = recipes_of(record, models)
    assert found == {"a": {0: "a", 1: "a1"}, "b": {0: "b", 1: "b1"}}
    assert "not to be told apart" in seeds_markdown(models, found)
    assert recipes_of({"a": record["a"]}, models) == {}
