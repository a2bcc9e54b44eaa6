"""Complete runs on the device: training with its end, evaluating what it left, several processes, exact resume."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from place import DEVICE, REHEARSAL, TRAINER

from hyperinverter import config, directions, load_hyperinverter
from hyperinverter.commands.evaluate import evaluate
from hyperinverter.contracts import Batch
from hyperinverter.runs import read_metrics
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.training import job
from hyperinverter.training.stopping import Interrupted

ROOT = Path(__file__).parents[2]
NARROW = ["hypernet.hidden_dim=4", "hypernet.channels=16", "hypernet.extractor_channels=8"]
SHORT = [
    *NARROW,
    *("logger=csv", "data.num_workers=0", "loss.lpips=0", "loss.id=0", "trainer.log_every=1"),
    *("panels.num_saved=1", "check_memory=false"),
]
DISCRIMINATOR = ["loss.adv=0.01", "loss.r1_every=3"]


@pytest.fixture
def overrides(photo_folder: Path, phase1_file: Path, v0_file: Path, tmp_path: Path) -> list[str]:
    places = [f"data.root={photo_folder}", f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path}"]
    return [*SHORT, *places, f"generator.path={v0_file}", f"phase.from_run={phase1_file}"]


def metrics(folder: Path) -> dict[str, float]:
    measured = json.loads((folder / "run.json").read_text())["metrics"]
    return {name: value for name, value in measured.items() if "seconds" not in name}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in table]


# What a person does first -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])  # photos are copied from pinned memory
def test_a_run_as_people_start_it_and_what_follows(
    workers: int, overrides: list[str], photo_folder: Path, tmp_path: Path
) -> None:
    precision = [] if TRAINER == "gpu" else ["trainer.precision=bf16-mixed"]
    typed = ["phase=2", f"trainer={TRAINER}", *precision, *DISCRIMINATOR, "loss.adv_from_kimg=0.004"]
    length = ["phase.kimg=0.012", "phase.epoch_kimg=0.006", "phase.batch_size=2", "phase.warmup_kimg=0.004"]
    run = tmp_path / "run"
    job.train(config.compose([*typed, *overrides, *length, f"data.num_workers={workers}"]), run)
    card = json.loads((run / "run.json").read_text())
    assert card["status"] == "finished"
    assert all(value == value for value in card["metrics"].values())
    if workers:
        return
    out = tmp_path / "evaluated"
    assert evaluate([str(run)], data=str(photo_folder / "test"), out=out, device=str(DEVICE), time=True) == 0
    assert "l2" in (out / "table.csv").read_text()
    model = load_hyperinverter(str(run)).to(DEVICE)
    inversion = model.invert(torch.rand(1, 3, 64, 64, device=DEVICE) * 2 - 1)
    direction = next(iter(directions.load("digiface").values()))
    image = model.edit(inversion, direction, 1.0)
    assert image.device.type == DEVICE.type
    assert image.isfinite().all()


# Resuming ---------------------------------------------------------------------------------------------------------


def same(first: Any, second: Any, where: str = "") -> None:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            same(*pair, f"{where}/{index}")
    else:
        assert first == second, where


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "what",
    [
        ["phase=1"],
        ["phase=2", *DISCRIMINATOR, "loss.adv_from_kimg=0.004", "phase.ema_kimg=0.002", "phase.accumulate=2"],
        ["phase=2", "fusion=attention", "coverage=all"],
    ],
    ids=["phase1", "discriminator", "attention"],
)
def test_stopped_and_resumed_equals_never_stopped(
    what: list[str], precision: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = ["phase.kimg=0.012", "phase.epoch_kimg=0.006", "phase.batch_size=2", "phase.warmup_kimg=0.004"]
    exact = [f"trainer={TRAINER}", "trainer.deterministic=true", f"trainer.precision={precision}"]
    typed = [*what, *exact, *overrides, *length]
    job.train(config.compose(typed), tmp_path / "whole")
    count = PhaseTask.count

    def counted(self: PhaseTask, batch: Batch) -> None:
        count(self, batch)
        if self.seen == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PhaseTask, "count", counted)
        with pytest.raises(Interrupted):
            job.train(config.compose(typed), tmp_path / "halves")
    job.train(config.compose([*typed, f"resume={tmp_path / 'halves'}"]), tmp_path / "halves")
    torch.use_deterministic_algorithms(False)
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "whole")
    assert rows(tmp_path / "halves") == rows(tmp_path / "whole")
    whole, halves = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "halves")
    )
    for part in {"state_dict", "learning", "optimizer_states"} & set(whole):
        same(whole[part], halves[part], part)


# Several processes ------------------------------------------------------------------------------------------------


def devices() -> int:
    return 2 if REHEARSAL else torch.cuda.device_count()


def start(folder: Path, typed: list[str]) -> list[dict[str, float | str | None]]:
    """Rows of a run that the command line starts."""
    done = subprocess.run(
        [sys.executable, "train.py", *typed, f"hydra.run.dir={folder}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HYPERINVERTER_OUTPUTS": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [row for row in read_metrics(folder) if row["train/loss"]]


@pytest.mark.parametrize("count", [1, 2])
def test_processes_learn_what_one_learns(count: int, overrides: list[str], tmp_path: Path) -> None:
    if devices() < count:
        pytest.skip(f"needs {count} GPUs, and there is {devices()}")
    length = ["phase.kimg=0.032", "phase.epoch_kimg=0.016", "phase.batch_size=8", "phase.warmup_kimg=0.02"]
    sgd = [  # Adam makes whole steps of the last digits of a sum, which differ with its order
        *("phase/optimizer=adam", "phase.optimizer._target_=torch.optim.SGD", "~phase.optimizer.betas"),
        "phase.optimizer.lr=0.0003",
    ]
    typed = ["phase=2", *DISCRIMINATOR, "loss.adv_from_kimg=0.008", *overrides, *length, *sgd]
    typed.append("trainer.precision=32-true")
    many = "trainer=ddp_cpu" if REHEARSAL else "trainer=ddp"
    one = start(tmp_path / "one", [*typed, f"trainer={TRAINER}"])
    together = start(tmp_path / "together", [*typed, many, f"trainer.devices={count}"])
    assert len(one) == len(together) == 4
    card = json.loads((tmp_path / "together" / "run.json").read_text())
    assert card["world_size"] == count
    for first, second in zip(one, together, strict=True):
        for name in (name for name in first if name.startswith("train/")):
            assert bool(first[name]) == bool(second[name]), name
            if first[name]:
                assert float(str(second[name])) == pytest.approx(
                    float(str(first[name])), rel=1e-3, abs=1e-4
                ), name
