"""Sweeps: which jobs, each in a fresh process, failures told, Ctrl-C obeyed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hydra_plugins.hyperinverter_launcher import FreshLauncher, design_points, refuse_ranks
from hyperinverter.contracts import UserError

FAKE = Path(__file__).with_name("fake_job.py")
STUB = Path(__file__).with_name("stub_train.py")


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "HYPERINVERTER_DEBUG": "", **extra}


def sweep(cwd: Path, *typed: str, script: Path = FAKE, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *typed]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=cwd, env=environment(**extra)
    )


def folder_of(cwd: Path) -> Path:
    (folder,) = (cwd / "outputs" / "sweeps").iterdir()
    return folder


def cards(folder: Path) -> dict[int, dict[str, Any]]:
    return {int(path.parent.name): json.loads(path.read_text()) for path in folder.glob("*/run.json")}


# Which jobs


def test_one_at_a_time_has_the_baseline_first_and_every_other_value_once() -> None:
    points = design_points("one_at_a_time", {"fusion": ["concat", "add", "film"], "loss.id": [0.1, 0.0]})
    assert [(point.settings["fusion"], point.settings["loss.id"]) for point in points] == [
        ("concat", 0.1),
        ("add", 0.1),
        ("film", 0.1),
        ("concat", 0.0),
    ]
    names = [point.name for point in points]
    assert names == ["baseline (fusion=concat loss.id=0.1)", "fusion=add", "fusion=film", "loss.id=0.0"]


def test_grid_has_every_combination_under_its_own_name() -> None:
    points = design_points(
        "grid", {"fusion": ["concat", "add"], "coverage": ["convs", "fine", "all"], "seed_": [1]}
    )
    assert len({point.name for point in points}) == 6
    assert points[1].name == "fusion=concat coverage=fine"


def test_a_design_that_cannot_be() -> None:
    with pytest.raises(UserError, match="one_at_a_time or grid, got 'star'"):
        design_points("star", {"fusion": ["add"]})
    with pytest.raises(UserError, match="factor fusion of this sweep has no values"):
        design_points("grid", {"fusion": []})
    with pytest.raises(UserError, match="jobs must be at least 1"):
        FreshLauncher(jobs=0)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"TORCHELASTIC_RUN_ID": "x"}, "under torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "under torchrun"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}, "under srun"),
    ],
)
def test_a_sweep_in_every_rank_is_refused(found: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=f"{told}.*trainer=ddp"):
        refuse_ranks(found)


def test_one_task_is_no_rank() -> None:
    refuse_ranks({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "WORLD_SIZE": "1"})


# How they run


def test_a_study_from_the_command_line_to_the_table(tmp_path: Path) -> None:
    done = sweep(
        tmp_path,
        *("phase=2", "+sweep=fusion", "fusion=concat,add,difference", "phase.kimg=3"),
        *("hydra.sweeper.top=1", "hydra.sweeper.top_seeds=[1,2]", "hydra.launcher.jobs=3"),
        LOCAL_RANK="0",
        OMP_NUM_THREADS="7",
    )
    assert done.returncode == 0, done.stderr
    folder = folder_of(tmp_path)
    told = cards(folder)
    assert len(told) == 5  # three settings, and the best one with two more seeds
    assert len({card["pid"] for card in told.values()}) == 5
    assert [told[num]["seed"] for num in range(5)] == [0, 0, 0, 1, 2]
    assert told[3]["name"] == "fusion=difference seed=1"
    assert {card["group"] for card in told.values()} == {folder.name}
    assert {card["kimg"] for card in told.values()} == {3}
    assert told[0]["environment"] == {"RANK": None, "WORLD_SIZE": None, "OMP_NUM_THREADS": "1"}
    assert "[5/5]" not in done.stderr  # the two batches count on their own
    assert "job 1 fusion=add: l2 0.04, 1 s" in done.stderr
    record = json.loads((folder / "sweep.json").read_text())
    assert record["command"].endswith(
        "phase.kimg=3 hydra.sweeper.top=1 hydra.sweeper.top_seeds=[1,2] hydra.launcher.jobs=3"
    )
    assert record["factors"] == {"fusion": ["concat", "add", "difference"]}
    assert (
        (folder / "table.md")
        .read_text()
        .splitlines()[2]
        .startswith("| 1 | fusion=difference | 3 | 0.0310 ± 0.001 |")
    )
    assert "fusion=difference" in done.stdout
    assert (folder / "0" / "log.txt").is_file()
    assert (folder / "0" / ".hydra" / "overrides.yaml").is_file()


def test_failures_are_told_at_once_the_others_go_on_and_the_exit_status_says_so(tmp_path: Path) -> None:
    done = sweep(
        tmp_path,
        *("phase=2", "-m", "fusion=add,gated,attention,concat"),
        FAKE="add=fail gated=crash attention=silent",
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("[1/4] job 0 fusion=add: FAILED: this one is broken: choose another (")
    assert lines[1].startswith(
        "[2/4] job 1 fusion=gated: FAILED: ended by SIGKILL (most often: out of memory)"
    )
    assert lines[2].startswith("[3/4] job 2 fusion=attention: FAILED: ValueError: without a card")
    assert lines[3].startswith("[4/4] job 3 fusion=concat: l2 0.05")
    assert lines[-1].startswith("error: 3 of 4 jobs failed (0, 1, 2); see ")
    told = cards(folder_of(tmp_path))
    assert [told[num]["status"] for num in range(4)] == ["failed"] * 3 + ["finished"]
    assert "Traceback" not in done.stderr


def test_fail_fast_stops_after_the_first(tmp_path: Path) -> None:
    done = sweep(
        tmp_path, "phase=2", "-m", "fusion=add,concat", "hydra.launcher.fail_fast=true", FAKE="add=fail"
    )
    assert done.returncode == 1
    assert "the remaining jobs are not started" in done.stderr
    assert list(cards(folder_of(tmp_path))) == [0]


def test_jobs_at_the_same_time_overlap_and_one_at_a_time_do_not(tmp_path: Path) -> None:
    typed = ("phase=2", "-m", "fusion=add,concat")
    for jobs in (1, 2):
        place = tmp_path / str(jobs)
        place.mkdir()
        assert sweep(place, *typed, f"hydra.launcher.jobs={jobs}", FAKE_SECONDS="2").returncode == 0
    apart, together = (list(cards(folder_of(tmp_path / str(jobs))).values()) for jobs in (1, 2))
    overlap = [min(c["ended"] for c in told) - max(c["begun"] for c in told) for told in (apart, together)]
    assert overlap[0] < 0 < overlap[1]


@pytest.mark.parametrize("fate", ["hang", "stubborn"])
def test_ctrl_c_ends_the_jobs_after_they_saved(tmp_path: Path, fate: str) -> None:
    command = [sys.executable, str(FAKE), "phase=2", "-m", "fusion=film,concat", "hydra.launcher.grace=1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(FAKE=f"film={fate}"), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/sweeps/*/0/ready")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "each saves its state first" in said
    folder = folder_of(tmp_path)
    assert not (folder / "1").exists()
    if fate == "hang":
        assert cards(folder)[0]["status"] == "interrupted"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            ["phase=2", "+sweep=fusion", "fusion=concat,gatd"],
            "fusion has no option 'gatd', did you mean 'gated'?",
        ),
        (["phase=2", "+sweep", "phase.kmig=3"], "there is no 'phase.kmig'; did you mean phase.kimg?"),
        (["phase=2", "+sweep=fusion", "loss.id=0,many"], "loss.id must be a number, got 'many'"),
        (["+sweep=fusion"], "phase I has no fusion: write `python train.py phase=2 +sweep`"),
        (["phase=2", "+sweep=fusion", "fusion=add"], "this sweep has a single job"),
    ],
)
def test_a_mistake_is_told_before_the_first_job(tmp_path: Path, typed: list[str], told: str) -> None:
    done = sweep(tmp_path, *typed)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {told}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("outputs/sweeps/*/0"))


def test_under_torchrun_the_sweep_refuses(tmp_path: Path) -> None:
    done = sweep(tmp_path, "phase=2", "+sweep", WORLD_SIZE="2", RANK="1")
    assert done.returncode == 1
    assert "error: a sweep under torchrun would run once in every process" in done.stderr


@pytest.mark.slow
def test_two_real_jobs_compare(tmp_path: Path, short: list[str]) -> None:
    """Everything but the networks is real: train.py's door, the launcher, Lightning, W&B offline, the table."""
    done = sweep(
        tmp_path,
        *("phase=2", "+sweep=fusion", "fusion=concat,add,gated", *short[:-1], "hydra.launcher.jobs=2"),
        script=STUB,
    )
    assert done.returncode == 1
    assert "job 2 fusion=gated: FAILED: RuntimeError: a fault of ours" in done.stderr
    folder = folder_of(tmp_path)
    told = cards(folder)
    assert [told[num]["status"] for num in range(3)] == ["finished", "finished", "failed"]
    assert (folder / "panel.png").is_file()
    for num in (0, 1):
        log = (folder / str(num) / "log.txt").read_text()
        assert log.count("wandb") == 2  # one line: its command and its path
        assert "W&B offline (no key): wandb sync" in log
        assert len(list((folder / str(num) / "wandb").glob("offline-run-*/*.wandb"))) == 1
