"""A sweep on a real Slurm cluster of one machine: jobs queue, one is preempted, saves, is requeued and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster

from hyperinverter.runs import read_metrics

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "helpers" / "fake_job.py"
# long enough to be interrupted in the middle, on networks as narrow as the options allow
SHORT = [
    *(
        "phase.kimg=0.1",
        "phase.epoch_kimg=0.05",
        "phase.batch_size=2",
        "phase.warmup_kimg=0.02",
        "logger=csv",
    ),
    *(
        "trainer.log_every=1",
        "trainer.save_every_kimg=0.01",
        "data.num_workers=0",
        "loss.lpips=0",
        "loss.id=0",
    ),
    *("hypernet.hidden_dim=4", "hypernet.channels=16", "hypernet.extractor_channels=8", "panels.num_saved=2"),
]
FUSIONS = ("concat", "add", "difference", "gated")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a running cluster."""
    pytest.importorskip("submitit")
    reason = slurm_cluster.missing()
    if reason is not None:
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**environment, "OMP_NUM_THREADS": "1"}


def cards(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / str(num) / "run.json").read_text()) for num in range(len(FUSIONS))]


def numbers(card: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in card["metrics"].items() if "seconds" not in name}


def rows(folder: Path) -> list[dict[str, str]]:
    return [{n: v for n, v in row.items() if "seconds" not in n and v} for row in read_metrics(folder)]


def slurm_id(num: int, environment: dict[str, str]) -> str:
    """Slurm's own number of the running job that has this place in the array."""
    told = subprocess.run(
        ["squeue", "--noheader", "--array", "--states=RUNNING", "--format=%A,%K"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = {line.split(",")[0] for line in told.stdout.split() if line.endswith(f",{num}")}
    return found


def test_failures_and_results_come_back_from_the_cluster(slurm: dict[str, str], tmp_path: Path) -> None:
    typed = ["phase=2", "-m", "fusion=concat,add,gated", "hydra/launcher=slurm", "hydra.launcher.poll=0.5"]
    done = subprocess.run(
        [sys.executable, str(FAKE), *typed],
        cwd=tmp_path,
        env={**slurm, "FAKE": "add=fail gated=silent"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 1, done.stderr
    assert "job 0 fusion=concat: l2 0.05" in done.stderr
    assert "job 1 fusion=add: FAILED: this one is broken: choose another" in done.stderr
    assert "job 2 fusion=gated: FAILED" in done.stderr
    assert "error: 2 of 3 jobs failed (1, 2)" in done.stderr


def test_a_preempted_job_saves_is_requeued_and_ends_as_if_nothing_had_been(
    slurm: dict[str, str], photo_folder: Path, phase1_file: Path, v0_file: Path, tmp_path: Path
) -> None:
    places = [f"data.root={photo_folder}", f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path}"]
    places += [f"generator.path={v0_file}", f"phase.from_run={phase1_file}"]
    common = ["phase=2", "-m", f"fusion={','.join(FUSIONS)}", *SHORT, *places]
    cluster = ["hydra/launcher=slurm", "hydra.launcher.jobs=2", "hydra.launcher.cpus_per_task=1"]
    cluster += [f"hydra.sweep.dir={tmp_path / 'cluster'}", "hydra.launcher.poll=1"]
    sweep = subprocess.Popen(
        [sys.executable, "train.py", *common, *cluster],
        cwd=ROOT,
        env=slurm,
        stderr=subprocess.PIPE,
        text=True,
    )
    job = tmp_path / "cluster" / "1"
    try:
        deadline = time.monotonic() + 3600
        while not (job / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < deadline:
            assert sweep.poll() is None, sweep.stderr.read() if sweep.stderr else ""
            time.sleep(0.05)
        # To the step: of a whole array job, Slurm 22.05 delivers the signal, says it could not, and tries again.
        preempt = ["scancel", "--signal=USR2", f"{slurm_id(1, slurm)}.0"]
        told = subprocess.run(preempt, env=slurm, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        _, said = sweep.communicate(timeout=7200)
    finally:
        sweep.kill()  # it has ended, unless something went wrong above
        sweep.communicate()
    assert sweep.returncode == 0, said

    here = [f"hydra.sweep.dir={tmp_path / 'here'}"]
    done = subprocess.run(
        [sys.executable, "train.py", *common, *here], cwd=ROOT, env=slurm, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    there, local = cards(tmp_path / "cluster"), cards(tmp_path / "here")
    assert [card["status"] for card in there] == ["finished"] * 4
    assert [card["sessions"] for card in there] == [1, 2, 1, 1]
    for num in range(4):
        assert numbers(there[num]) == numbers(local[num])
        assert rows(tmp_path / "cluster" / str(num)) == rows(tmp_path / "here" / str(num))
    record = os.environ.get("HYPERINVERTER_RECORD")  # a folder that keeps the log
    if record:
        keep(Path(record), said, job, tmp_path)


def keep(folder: Path, said: str, job: Path, place: Path) -> None:
    """Write what the sweep and the preempted job said, without the names of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# the sweep\n{said}\n# log.txt of the preempted job\n{(job / 'log.txt').read_text()}"
    for secret, word in (
        (str(place), "."),
        (str(place.parent), "."),
        (str(ROOT), "."),
        (os.uname().nodename, "node"),
    ):
        text = text.replace(secret, word)
    (folder / "log.txt").write_text(text)
    told = [
        {key: card[key] for key in ("name", "status", "sessions", "metrics")}
        for card in cards(place / "cluster")
    ]
    (folder / "cards.json").write_text(json.dumps(told, indent=2) + "\n")
