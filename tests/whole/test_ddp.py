"""Several processes train as one: the same photos, the same losses, every number told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperinverter.runs import read_metrics

ROOT = Path(__file__).parents[2]
SHORT = [
    *("phase.batch_size=8", "phase.warmup_kimg=0.02", "logger=csv"),
    *(
        "trainer.log_every=1",
        "trainer.save_every_kimg=0.1",
        "data.num_workers=0",
        "loss.lpips=0",
        "loss.id=0",
    ),
    *("hypernet.hidden_dim=4", "hypernet.channels=16", "hypernet.extractor_channels=8", "panels.num_saved=2"),
    # Adam would hide a gradient twice too large, and makes whole steps of gradients that are nothing but the last
    # digits of a sum, which differ with its order: two runs part within ten steps, on one process too.
    "phase/optimizer=adam",
    *("phase.optimizer._target_=torch.optim.SGD", "~phase.optimizer.betas", "phase.optimizer.lr=0.0003"),
]


@pytest.fixture
def overrides(photo_folder: Path, phase1_file: Path, v0_file: Path, tmp_path: Path) -> list[str]:
    places = [f"data.root={photo_folder}", f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path}"]
    return [*SHORT, *places, f"generator.path={v0_file}", f"phase.from_run={phase1_file}"]


def train(place: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    """``place/one`` and ``place/two``: the same run in one process and in two."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helpers" / "together.py"), str(place), *typed],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )


def card(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


DISCRIMINATOR = [
    "phase=2",
    "loss.adv=0.01",
    "loss.r1_every=4",
]  # it joins in the middle, with a penalty every fourth step


@pytest.mark.parametrize(
    ("what", "steps"),
    [
        ([*DISCRIMINATOR, "loss.adv_from_kimg=0.024", "phase.ema_kimg=0.01"], 8),
        (
            ["phase=2", "phase.accumulate=4"],
            4,
        ),  # by a discriminator the parts would show: its statistic over a group
        pytest.param(["phase=1"], 50, marks=pytest.mark.slow),
        pytest.param(["phase=2"], 50, marks=pytest.mark.slow),
        pytest.param([*DISCRIMINATOR, "loss.adv_from_kimg=0.1"], 50, marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_learns(
    what: list[str], steps: int, overrides: list[str], tmp_path: Path
) -> None:
    length = [f"phase.kimg={steps * 8 / 1000}", f"phase.epoch_kimg={steps * 4 / 1000}"]
    done = train(tmp_path, *what, *overrides, *length)
    assert done.returncode == 0, done.stderr
    one, two = (
        [row for row in read_metrics(tmp_path / name) if row["train/loss"]] for name in ("one", "two")
    )
    assert len(one) == len(two) == steps
    parts = [name for name in one[0] if name.startswith("train/")]
    assert ("train/r1" in parts) == ("loss.adv=0.01" in what)
    for first, second in zip(one, two, strict=True):
        assert first["images"] == second["images"]
        for part in parts:
            assert bool(first[part]) == bool(second[part]), part
            if first[part]:
                assert float(second[part]) == pytest.approx(float(first[part]), rel=1e-5, abs=1e-5), (
                    part,
                    first,
                )
    told = card(tmp_path / "two")
    assert (told["world_size"], told["batch_per_process"], told["images_seen"]) == (2, 4, 8 * steps)
    assert told["gradient_mb_per_step"] == pytest.approx(4e-6 * told["parameters"]["trained"], abs=1e-3)
    alone = card(tmp_path / "one")["metrics"]
    for name, value in told["metrics"].items():
        if "seconds" not in name:
            assert value == pytest.approx(alone[name], rel=1e-3, abs=1e-4), name
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )
