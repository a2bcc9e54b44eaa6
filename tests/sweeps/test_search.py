"""A search by Optuna: jobs of a sweep whose settings follow from what the jobs before measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = Path(__file__).parents[1] / "helpers" / "fake_job.py"


def search(cwd: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FAKE), "phase=2", "-m", "hydra/sweeper=optuna", *typed]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=cwd, env=os.environ)


def test_it_finds_the_best_of_a_few_and_leaves_a_sweep(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    typed = ("hydra.sweeper.trials=6", "hydra.sweeper.at_once=2", "hydra.launcher.jobs=2", "phase.kimg=3")
    done = search(
        tmp_path, *typed, "fusion=concat,difference", "phase.optimizer.lr=tag(log,interval(1e-4,1e-2))"
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    record = json.loads((folder / "sweep.json").read_text())
    tried = [job["settings"] for job in record["jobs"]]
    assert len(tried) == 6
    assert all(1e-4 <= settings["phase.optimizer.lr"] <= 1e-2 for settings in tried)
    scores = [json.loads((folder / str(n) / "run.json").read_text())["metrics"]["test/l2"] for n in range(6)]
    best = next(line for line in done.stderr.splitlines() if line.startswith("best: job "))
    assert scores[int(best.split()[2].rstrip(","))] == min(scores)
    assert (folder / "table.md").is_file()


def test_nothing_to_search(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    done = search(tmp_path, "phase.kimg=3")
    assert done.returncode == 1
    assert done.stderr.startswith("error: nothing varies in this search")


def test_pruning_needs_jobs_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("submitit")
    done = search(tmp_path, "fusion=concat,add", "hydra.sweeper.prune=true", "hydra/launcher=slurm")
    assert done.returncode == 1
    assert done.stderr.startswith("error: hydra.sweeper.prune=true needs jobs on this machine")
    assert not (tmp_path / "outputs" / "sweeps").exists()
