"""Stop, resume, and land where the run that never stopped lands: weights, optimizers, tables, to the last bit."""

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

from hyperinverter import config
from hyperinverter.contracts import Batch
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.training import job
from hyperinverter.training.stopping import Interrupted

KILLING = Path(__file__).parents[1] / "helpers" / "killing.py"
# Twelve photos in six steps and two epochs, on networks as narrow as the options allow.
SHORT = [
    *("phase.kimg=0.012", "phase.epoch_kimg=0.006", "phase.batch_size=2", "phase.warmup_kimg=0.004"),
    *("data.num_workers=0", "logger=csv", "trainer.log_every=1", "loss.lpips=0", "loss.id=0"),
    *("hypernet.hidden_dim=4", "hypernet.channels=16", "hypernet.extractor_channels=8"),
]

E4E = [
    "phase=1",
    "method=e4e",
    "method.channels=8",
    "method.pool=4",
    "method.latent_lr=0.01",
    "method.latent_r1_every=2",
]
HYPERSTYLE = ["phase=2", "method=hyperstyle", "method.hidden_dim=4"]
AVERAGED = ["phase.ema_kimg=0.002", "phase.accumulate=2"]


@pytest.fixture
def overrides(photo_folder: Path, phase1_file: Path, v0_file: Path, tmp_path: Path) -> list[str]:
    places = [f"data.root={photo_folder}", f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path}"]
    return [*SHORT, *places, f"generator.path={v0_file}", f"phase.from_run={phase1_file}"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in table]


def metrics(folder: Path) -> dict[str, float]:
    measured = json.loads((folder / "run.json").read_text())["metrics"]
    return {name: value for name, value in measured.items() if "seconds" not in name}


def saved(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return content


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert first == second, where


@pytest.mark.parametrize(
    ("what", "stop_after"),
    [
        (["phase=1"], 4),
        (["phase=2", "loss.adv=0.01", "loss.adv_from_kimg=0.004", "loss.r1_every=3", *AVERAGED], 4),
        (E4E, 3),  # at the end of an epoch, with the discriminator of codes, its optimizer and its pool
        pytest.param(HYPERSTYLE, 2, marks=pytest.mark.slow),
        pytest.param(E4E, 4, marks=pytest.mark.slow),
        pytest.param(["phase=1"], 1, marks=pytest.mark.slow),
        pytest.param(["phase=2", "fusion=gated", "coverage=all"], 2, marks=pytest.mark.slow),
    ],
)
def test_stop_and_resume_equals_never_stopped(
    what: list[str], stop_after: int, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [*what, *overrides]
    score = job.train(config.compose(typed), tmp_path / "whole")

    steps: list[int] = []
    count = PhaseTask.count

    def counted(self: PhaseTask, batch: Batch) -> None:
        count(self, batch)
        steps.append(int(self.images_seen))
        if len(steps) == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PhaseTask, "count", counted)
    with pytest.raises(Interrupted):
        job.train(config.compose(typed), tmp_path / "halves")
    assert int(saved(tmp_path / "halves", "last.ckpt")["state_dict"]["images_seen"]) == 2 * stop_after
    assert not metrics(tmp_path / "halves")
    resumed = job.train(config.compose([*typed, f"resume={tmp_path / 'halves'}"]), tmp_path / "halves")

    assert steps == [2, 4, 6, 8, 10, 12], "every step was made once"
    assert resumed == score
    assert metrics(tmp_path / "halves") == metrics(tmp_path / "whole")
    assert rows(tmp_path / "halves") == rows(tmp_path / "whole")
    for name in ("last.ckpt", "best.ckpt"):
        whole, halves = saved(tmp_path / "whole", name), saved(tmp_path / "halves", name)
        assert ("learning" in whole) == ("phase.ema_kimg=0.002" in what)
        for part in {"state_dict", "learning", "optimizer_states", "model"} & set(whole):
            assert_same(whole[part], halves[part], f"{name}/{part}")


def test_resumed_twice_equals_never_stopped(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside an epoch, and then from the validation at the end of the same epoch."""
    typed = ["phase=1", *overrides, "trainer.log_every=2"]
    job.train(config.compose(typed), tmp_path / "whole")
    count = PhaseTask.count
    steps: list[int] = []

    def counted(self: PhaseTask, batch: Batch) -> None:
        count(self, batch)
        steps.append(int(self.images_seen))
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(steps) == 5:
            raise KeyboardInterrupt  # as sudden as a kill: nothing more is saved

    monkeypatch.setattr(PhaseTask, "count", counted)
    for _ in range(2):
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            job.train(config.compose([*typed, "resume=auto"]), tmp_path / "thirds")
    assert int(saved(tmp_path / "thirds", "last.ckpt")["state_dict"]["images_seen"]) == 6
    job.train(config.compose([*typed, "resume=auto"]), tmp_path / "thirds")

    assert steps == [2, 4, 6, 8, 10, 8, 10, 12], "the second epoch was begun once more, not the first"
    assert rows(tmp_path / "thirds") == rows(tmp_path / "whole")
    whole, thirds = saved(tmp_path / "whole", "last.ckpt"), saved(tmp_path / "thirds", "last.ckpt")
    for part in ("state_dict", "optimizer_states", "random"):
        assert_same(whole[part], thirds[part], part)


@pytest.mark.parametrize(
    "which",
    [1, pytest.param(2, marks=pytest.mark.slow)],  # the second is the last
)
def test_stop_in_a_validation_and_resume_equals_never_stopped(
    which: int, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["phase=1", *AVERAGED, *overrides]
    job.train(config.compose(typed), tmp_path / "whole")
    begun: list[int] = []
    start = PhaseTask.on_validation_epoch_start

    def started(self: PhaseTask) -> None:
        start(self)
        begun.append(int(self.images_seen))
        if len(begun) == which:
            os.kill(os.getpid(), signal.SIGUSR1)  # as a cluster warns

    monkeypatch.setattr(PhaseTask, "on_validation_epoch_start", started)
    with pytest.raises(Interrupted):
        job.train(config.compose(typed), tmp_path / "halves")
    assert begun[-1] == 6 * which
    job.train(config.compose([*typed, "resume=auto"]), tmp_path / "halves")
    assert begun == {1: [6, 6, 12], 2: [6, 12, 12]}[which], (
        "the validation was begun again, no step made twice"
    )
    assert rows(tmp_path / "halves") == rows(tmp_path / "whole")
    for name in ("last.ckpt", "best.ckpt"):
        whole, halves = saved(tmp_path / "whole", name), saved(tmp_path / "halves", name)
        for part in ("state_dict", "learning", "optimizer_states", "random"):
            assert_same(whole[part], halves[part], f"{name}/{part}")


def killed_at_random(
    overrides: list[str], place: Path, what: list[str], kills: int, seed: int
) -> dict[str, Any]:
    command = [sys.executable, str(KILLING), str(place), str(kills), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *what, *overrides], env=environment, capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("what", "kills", "seed"),
    [
        (["phase=1"], 3, 1),
        pytest.param(["phase=1"], 12, 2, marks=pytest.mark.slow),
        pytest.param(
            ["phase=2", "loss.adv=0.01", "loss.adv_from_kimg=0.02", *AVERAGED], 12, 3, marks=pytest.mark.slow
        ),
    ],
)
def test_killed_at_any_moment_it_goes_on_and_lands_in_the_same_place(
    what: list[str], kills: int, seed: int, overrides: list[str], tmp_path: Path
) -> None:
    # saved every 8 photos: long enough to be killed before, between, inside and after saves and validations
    longer = ["phase.kimg=0.048", "phase.epoch_kimg=0.016", "trainer.save_every_kimg=0.008"]
    told = killed_at_random([*overrides, *longer], tmp_path, what, kills, seed)
    assert len(told["kills"]) == kills
    for kill in told["kills"]:
        assert kill["readable"], kill
        # one step more than the interval: a row is written behind its step, the save before the next one
        assert kill["seen"] - kill["saved"] <= 8 + 2, kill
        if kill["signal"] == "SIGTERM":
            assert kill["seconds"] < 60, kill  # a few, unless the machine is busy
            # a session that had not begun to train leaves the table of the one before
            assert kill["seen"] in (kill["before"], kill["saved"]), kill
    for end in told["ends"]:
        assert end == {"finished": True, "metrics": True, "rows": True, "weights": True}, told
