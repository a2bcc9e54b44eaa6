"""Phase II can learn a handful of photos by heart: nothing between photo and image stands in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hyperinverter import config
from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter.training import job

PHOTOS, STEPS, DECIBELS = 8, 120, 30.0


@pytest.fixture
def same_faces_everywhere(tmp_path: Path) -> Path:
    """A folder whose training, validation and test photos are the same eight faces."""
    for index, face in enumerate(sample_faces(accepted_indices()[:PHOTOS])):
        for split in ("train", "val", "test"):
            path = tmp_path / "photos" / split / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(face).save(path)
    return tmp_path / "photos"


@pytest.mark.slow
def test_eight_photos_are_learnt_by_heart(same_faces_everywhere: Path, tmp_path: Path) -> None:
    kimg = PHOTOS * STEPS / 1000
    typed = [
        *("phase=2", f"phase.kimg={kimg}", f"phase.epoch_kimg={kimg / 4}", f"phase.batch_size={PHOTOS}"),
        *("phase.warmup_kimg=0.1", "loss.lpips=0", "loss.id=0", "logger=csv"),
        *(f"data.root={same_faces_everywhere}", "data.flip=false", "data.num_workers=0"),
        *(f"paths.outputs={tmp_path}", f"paths.cache={tmp_path / 'cache'}"),
    ]
    job.train(config.compose(typed), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["test/psnr"] > DECIBELS
    assert metrics["test/psnr"] > metrics["test/phase1/psnr"] + 5
