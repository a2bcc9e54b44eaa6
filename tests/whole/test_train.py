"""Both main commands through train.py, a few photos long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Batches that do not divide an epoch: a run of such a length counts as complete all the same.
SHORT = [
    *("phase.kimg=0.032", "phase.epoch_kimg=0.016", "phase.batch_size=6", "phase.warmup_kimg=0.01"),
    *("data.num_train=40", "data.num_val=8", "data.num_test=8", "logger=csv"),
]


def train(outputs: Path, *overrides: str) -> dict[str, object]:
    """Run train.py on the built-in faces and return the run card."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {
        "HYPERINVERTER_CACHE": str(outputs.parent / "cache"),
        "HYPERINVERTER_OUTPUTS": str(outputs),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "train.py", *SHORT, *overrides]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    cards = sorted((outputs / "runs").glob("*/run.json"))
    return json.loads(cards[-1].read_text(encoding="utf-8"))


def test_phase_two_stands_on_the_packaged_phase_one(tmp_path: Path) -> None:
    card = train(tmp_path / "outputs", "phase=2")
    assert card["status"] == "finished"
    assert card["loaded"]["phase1"]["path"] == "digiface"  # type: ignore[index]
    assert set(card["memory_need_mb"]) == {"weights", "gradients", "optimizer", "activations", "process"}  # type: ignore[arg-type]
    assert sum(card["memory_need_mb"].values()) == pytest.approx(card["peak_memory_mb"], rel=0.2)  # type: ignore[attr-defined]
    metrics = card["metrics"]
    assert {"test/l2", "test/phase1/l2", "test/st_lpips_alex", "test/id_descriptor"} <= set(metrics)  # type: ignore[arg-type]


def test_phase_two_finds_the_phase_one_that_was_just_trained(tmp_path: Path) -> None:
    first = train(tmp_path / "outputs")
    assert first["phase"] == 1
    second = train(tmp_path / "outputs", "phase=2")
    assert "phase1" in str(second["loaded"]["phase1"]["path"])  # type: ignore[index]
    assert second["metrics"]["test/phase1/l2"] == pytest.approx(first["metrics"]["test/l2"], rel=1e-5)  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["1", "2"])
def test_same_seed_same_machine_same_numbers(tmp_path: Path, phase: str) -> None:
    first, second = (train(tmp_path / name, f"phase={phase}")["metrics"] for name in ("one", "two"))
    timed = [name for name in first if "seconds" in name]  # type: ignore[union-attr]
    for name in timed:
        first.pop(name), second.pop(name)  # type: ignore[union-attr]
    assert first == second
