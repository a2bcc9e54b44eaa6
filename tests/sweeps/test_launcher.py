"""Sweeps from the command line: each job in a fresh process, failures reported, Ctrl-C obeyed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hyperinverter.system.files import hold

HELPERS = Path(__file__).parents[1] / "helpers"
FAKE = HELPERS / "fake_job.py"
STUB = HELPERS / "stub_train.py"


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "HYPERINVERTER_DEBUG": "", **extra}


def sweep(cwd: Path, *typed: str, script: Path = FAKE, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *typed]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=1800, cwd=cwd, env=environment(**extra)
    )


def folder_of(cwd: Path) -> Path:
    (folder,) = (cwd / "outputs" / "sweeps").iterdir()
    return folder


def cards(folder: Path) -> dict[int, dict[str, Any]]:
    return {int(path.parent.name): json.loads(path.read_text()) for path in folder.glob("*/run.json")}


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


def test_failures_are_reported_at_once_the_others_go_on_and_the_exit_status_says_so(tmp_path: Path) -> None:
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
    assert lines[-1].startswith("error: 3 of 4 jobs failed (0, 1, 2): see ")
    told = cards(folder_of(tmp_path))
    assert [told[num]["status"] for num in range(4)] == ["failed"] * 3 + ["finished"]
    assert "Traceback" not in done.stderr


def test_a_resumed_sweep_does_what_is_left_and_nothing_twice(tmp_path: Path) -> None:
    first = sweep(tmp_path, "phase=2", "+sweep=fusion", "fusion=concat,add", "phase.kimg=3", FAKE="add=crash")
    assert first.returncode == 1
    folder = folder_of(tmp_path)
    assert f"python train.py resume={folder.relative_to(tmp_path)} runs these alone" in first.stderr
    before = cards(folder)
    again = sweep(tmp_path, f"resume={folder.relative_to(tmp_path)}", "hydra.launcher.jobs=2")
    assert again.returncode == 0, again.stderr
    assert folder_of(tmp_path) == folder
    assert "1 of 2 jobs have finished before" in again.stderr
    after = cards(folder)
    assert after[0] == before[0]
    assert after[1]["status"] == "finished"
    assert after[1]["kimg"] == 3
    assert after[1]["overrides"][-1] == "resume=auto"  # had it saved anything, it would go on from there
    record = json.loads((folder / "sweep.json").read_text())
    assert record["command"] == "python train.py phase='2' +sweep=fusion fusion=concat,add phase.kimg=3"
    changed = sweep(tmp_path, f"resume={folder.relative_to(tmp_path)}", "phase.kimg=4")
    assert changed.returncode == 1
    assert "was run with other settings (phase.kimg=3; now phase.kimg=4)" in changed.stderr
    assert cards(folder) == after


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
def test_a_mistake_is_reported_before_the_first_job(tmp_path: Path, typed: list[str], told: str) -> None:
    done = sweep(tmp_path, *typed)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {told}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("outputs/sweeps/*/0"))


def test_under_torchrun_the_sweep_refuses(tmp_path: Path) -> None:
    as_torchrun = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    done = sweep(tmp_path, "phase=2", "+sweep", **as_torchrun)
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


@pytest.mark.slow
def test_devices_can_be_swept_and_a_process_that_fails_takes_its_job_alone(
    tmp_path: Path, short: list[str]
) -> None:
    short = [item for item in short if item != "logger=csv"]  # one W&B run per job, however many processes
    begin = time.monotonic()
    done = sweep(
        tmp_path,
        *("phase=2", "-m", "trainer=ddp_cpu", "fusion=concat,add", "trainer.devices=1,2", *short),
        script=STUB,
        OMP_NUM_THREADS="1",
    )
    length = time.monotonic() - begin
    assert done.returncode == 1
    folder = folder_of(tmp_path)
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    told = {(job["settings"]["fusion"], job["settings"]["trainer.devices"]): job["num"] for job in jobs}
    found = cards(folder)
    for (fusion, devices), num in told.items():
        assert found[num]["world_size"] == devices
        broken = (fusion, devices) == ("add", 2)
        assert found[num]["status"] == ("failed" if broken else "finished"), found[num]["error"]
        assert len(list((folder / str(num) / "wandb").glob("offline-run-*"))) == 1
        assert not list((folder / str(num)).glob("**/.*.part"))
    num = told["add", 2]
    assert found[num]["error"] == "process 1: RuntimeError: process one is broken"
    assert "process one is broken" in (folder / str(num) / "error.process1.log").read_text()
    assert (
        f"job {num} fusion=add trainer.devices=2: FAILED: process 1: RuntimeError: process one is broken"
        in done.stderr
    )
    assert found[num]["seconds"] < length  # no hang: the sweep came to its end
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_under_torchrun_the_processes_are_one_run_in_one_folder(tmp_path: Path, short: list[str]) -> None:
    def torchrun(*typed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command += ["--log-dir", str(tmp_path / "logs")]  # it never removes a folder of its own
        return subprocess.run(
            [*command, str(STUB), "phase=2", *typed, *short],
            capture_output=True,
            text=True,
            timeout=1800,
            cwd=tmp_path,
            env=environment(OMP_NUM_THREADS="1"),
        )

    alone = torchrun("trainer=cpu")
    assert alone.returncode != 0
    assert "2 processes were started from outside, but this trainer has 1" in alone.stderr
    together = torchrun("trainer=ddp_cpu", f"paths.outputs={tmp_path / 'together'}")
    assert together.returncode == 0, together.stderr
    (folder,) = (tmp_path / "together" / "runs").iterdir()
    card = json.loads((folder / "run.json").read_text())
    assert (card["status"], card["world_size"], card["images_seen"]) == ("finished", 2, 64)
    assert (folder / ".hydra" / "overrides.yaml").is_file()
    assert together.stderr.count("finished in") == 1


def test_a_job_that_is_still_running_elsewhere_is_waited_for_and_left_alone(tmp_path: Path) -> None:
    """The launcher was killed and its job was not: the resumed sweep must not start it a second time."""
    command = [sys.executable, str(FAKE), "phase=2", "+sweep=fusion", "fusion=concat,add"]
    sweep(tmp_path, *command[2:])
    folder = folder_of(tmp_path)
    finished = json.loads((folder / "0" / "run.json").read_text())
    running = {**finished, "status": "running", "metrics": {}, "pid": 1}
    (folder / "0" / "run.json").write_text(json.dumps(running))
    with subprocess.Popen(
        [sys.executable, str(FAKE), f"resume={folder.relative_to(tmp_path)}"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as again:
        claim = hold(folder / "0")
        assert claim is not None
        assert again.stderr is not None
        lines = iter(again.stderr.readline, "")
        assert any("job 0 " in line and "still running elsewhere (process" in line for line in lines)
        assert json.loads((folder / "0" / "run.json").read_text()) == running, "its card is its own"
        (folder / "0" / "run.json").write_text(json.dumps(finished))
        claim.close()
        rest = again.stderr.read()
    assert again.returncode == 0, rest
    assert json.loads((folder / "0" / "run.json").read_text()) == finished
