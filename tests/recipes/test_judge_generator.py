"""The measure of a generator."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from hyperinverter.checkpoints import load_generator, save_generator
from hyperinverter_recipes import judge_generator
from hyperinverter_recipes.edit_strengths import validation_faces


def test_photos_are_nearer_to_photos_than_noise_is() -> None:
    photos = validation_faces(24)
    first, second = photos[:12], photos[12:]
    noise = torch.rand(photos[:12].shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert judge_generator.frechet(first, first) == pytest.approx(0, abs=1e-3)
    assert judge_generator.frechet(first, second) < judge_generator.frechet(noise, second)


def test_a_longer_search_reaches_photos_better(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"  # not the file that ships, for which there are measures of its own
    save_generator(load_generator("digiface"), file, {"recipe": "as it ships"})
    photos = validation_faces(2)
    short, long = (judge_generator.reached(str(file), photos, steps) for steps in (2, 20))
    assert long < 0.8 * short


def test_figures_and_samples_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["digiface", "--out", str(tmp_path), "--count", "8", "--reach", "1", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["judge_generator", *typed])
    judge_generator.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["images"] == 8
    assert figures["w_opt_l2"] > 0 < figures["frechet_effnet_lite0_samples"]
    assert figures["mtcnn_on_samples"]["any"] > 0.8
    assert figures["command"].endswith("judge_generator digiface --count 8 --reach 1 --steps 2")
    assert (tmp_path / "samples.png").is_file()
