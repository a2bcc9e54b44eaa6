"""What goes wrong at the front door gets one sentence with the way out, a status that is not 0, and no traceback.

Bad photos one by one, typos and full disks have their tests in the rooms they belong to; here whole commands run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    *("phase.kimg=0.008", "phase.epoch_kimg=0.008", "phase.batch_size=2", "phase.warmup_kimg=0"),
    *("data.num_workers=0", "logger=csv", "loss.lpips=0", "loss.id=0"),
]


class Door:
    """``python train.py`` in an empty world."""

    def __init__(self, folder: Path, always: list[str]) -> None:
        self.folder, self.always = folder, always

    def refuses(self, *typed: str) -> str:
        """Type a command, see that it fails as it should, and return what it said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        environment |= {"HYPERINVERTER_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        environment |= {"HYPERINVERTER_OUTPUTS": str(self.folder / "outputs")}
        environment |= {"PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, str(ROOT / "train.py"), *self.always, *typed]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        *_, last = done.stderr.splitlines()
        assert last.startswith("error: "), done.stderr
        assert done.stderr.count("error: ") == 1
        return last.removeprefix("error: ")


@pytest.fixture
def door(tmp_path: Path, photo_folder: Path, v0_file: Path) -> Door:
    return Door(tmp_path, [*SHORT, f"data.root={photo_folder}", f"generator.path={v0_file}"])


def test_foreign_checkpoint(door: Door, tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv.weight": torch.zeros(2)}, "epoch": 3}, tmp_path / "other.ckpt")
    said = door.refuses("phase=2", f"phase.from_run={tmp_path / 'other.ckpt'}")
    assert said == (
        f"{tmp_path / 'other.ckpt'} is not a checkpoint of this project: it names no model; give a W encoder of "
        "HyperInverter's release, a phase I run folder, its checkpoint, or a packaged name such as digiface"
    )


def test_resolution_that_does_not_fit(door: Door) -> None:
    said = door.refuses("domain.resolution=32")
    assert (
        "draws 64 px, domain.resolution is 32; set domain.resolution=64 or choose another generator" in said
    )


def test_batch_far_too_large_for_the_memory(door: Door, tmp_path: Path) -> None:
    said = door.refuses("phase.batch_size=100000", "phase.kimg=100", "phase.epoch_kimg=100")
    assert "training needs about" in said
    assert "activations" in said
    assert "double phase.accumulate=1, halve phase.batch_size=100000" in said
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert '"status": "failed"' in (run / "run.json").read_text()
    assert not (run / "checkpoints").exists()


def test_loss_that_becomes_nan_keeps_what_was_good(door: Door, tmp_path: Path) -> None:
    said = door.refuses("phase.optimizer.lr=1e30")
    assert "became nan after" in said
    assert "lower phase.optimizer.lr" in said
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert '"status": "failed"' in (run / "run.json").read_text()
    assert "Traceback" in (run / "error.log").read_text()


def test_truncated_photo_in_the_folder(door: Door, tmp_path: Path, photo_folder: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(photo_folder, photos)
    victim = photos / "train" / "05.png"
    victim.write_bytes(victim.read_bytes()[:2000])
    said = door.refuses(f"data.root={photos}")
    assert "1 of 12 train photos cannot be read" in said
    assert "05.png" in said
    assert "data.skip_unreadable=true" in said


@pytest.mark.slow
def test_missing_phase_one(door: Door, tmp_path: Path) -> None:
    said = door.refuses("phase=2")
    assert "no finished phase I run for domain 'digiface'" in said
    assert "run `python train.py domain=digiface` or pass phase.from_run=PATH" in said
    said = door.refuses("phase=2", f"phase.from_run={tmp_path / 'absent'}")
    assert said == f"there is no checkpoint {tmp_path / 'absent'}; give a run folder or a file"


@pytest.mark.slow
def test_missing_and_truncated_generator(door: Door, tmp_path: Path, v0_file: Path) -> None:
    said = door.refuses(f"generator.path={tmp_path / 'absent.safetensors'}")
    assert "there is no generator file" in said
    assert "or use a packaged one: digiface" in said
    (tmp_path / "cut.safetensors").write_bytes(v0_file.read_bytes()[:100_000])
    said = door.refuses(f"generator.path={tmp_path / 'cut.safetensors'}")
    assert "cannot be read as safetensors" in said
    assert "cut short" in said


@pytest.mark.slow
def test_phase_one_of_another_generator(door: Door, tmp_path: Path, phase1_file: Path) -> None:
    said = door.refuses("phase=2", f"phase.from_run={phase1_file}", "generator.path=digiface")
    assert "was trained with another generator" in said
    assert "generator.path=FILE" in said


@pytest.mark.slow
def test_unknown_layer_name_lists_those_there_are(door: Door, phase1_file: Path) -> None:
    said = door.refuses(
        "phase=2", f"phase.from_run={phase1_file}", "coverage=custom", "coverage.include=[b64.conv7]"
    )
    assert "coverage 'b64.conv7' selects no kernel" in said
    assert "b64.conv0.weight" in said


@pytest.mark.slow
def test_typo_in_group_and_key(door: Door) -> None:
    assert "did you mean 'concat'?" in door.refuses("phase=2", "fusion=conct")
    assert "did you mean phase.kimg?" in door.refuses("phase.kmig=3")


@pytest.mark.slow
def test_empty_folder(door: Door, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    said = door.refuses(f"data.root={tmp_path / 'nothing'}")
    assert str(tmp_path / "nothing") in said
    said = door.refuses(f"data.root={tmp_path / 'absent'}")
    assert "give the folder of your photos with data.root=PATH" in said


@pytest.mark.slow
def test_resume_of_something_else(door: Door, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "is not a run" in door.refuses(f"resume={tmp_path / 'folder'}")
