"""A search by Optuna: jobs of a sweep whose settings follow from what the jobs before measured."""

import json
import os
import signal
import subprocess
import sys
import time
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


def test_a_search_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = ("fusion=concat,add", "phase.optimizer.lr=interval(0.1,0.9)")
    typed = ("hydra.sweeper.trials=3", "hydra.sweeper.seed=1", "phase.kimg=3", *space)
    command = [sys.executable, str(FAKE), "phase=2", "-m", "hydra/sweeper=optuna", *typed]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "FAKE": "add=hang"}
    )
    sweeps = tmp_path / "outputs" / "sweeps"
    deadline = time.monotonic() + 60
    while not list(sweeps.glob("*/*/ready")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    (folder,) = sweeps.iterdir()
    assert f"resume={folder.relative_to(tmp_path)}" in said
    assert (folder / "table.md").is_file()
    begun = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert 0 < len(begun) <= 3
    other = search(tmp_path, f"resume={folder}", "fusion=concat,gated")
    assert other.returncode == 1
    assert "has searched another space" in other.stderr.splitlines()[-1]
    done = search(tmp_path, *typed, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in sweeps.iterdir()] == [folder.name]
    record = json.loads((folder / "sweep.json").read_text())
    assert record["jobs"][: len(begun)] == begun
    assert (
        len({job["settings"]["phase.optimizer.lr"] for job in record["jobs"]}) == 3
    )  # nothing is tried twice
    statuses = {json.loads((folder / str(n) / "run.json").read_text())["status"] for n in range(3)}
    assert statuses == {"finished"}
    assert "best: job " in done.stderr
