"""What edits do is set in a model file without touching a weight."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hyperinverter import load_inverter
from hyperinverter.checkpoints.registry import packaged
from hyperinverter_recipes import shrink


def test_edits_are_set_in_a_small_file_and_no_weight_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = packaged("phase2", "digiface_best")[0], tmp_path / "out.safetensors"
    monkeypatch.setattr(
        sys, "argv", ["shrink", "edits", str(source), str(out), "--edit-gain", "1.5", "--rule", "warp"]
    )
    shrink.main()
    before, after = load_inverter("digiface_best"), load_inverter(out)
    assert (before.edit_gain, before.edit_strength, before.rule) == (1.1, 0.0, "picture")
    assert (after.edit_gain, after.edit_strength, after.rule) == (1.5, 0.0, "warp")
    one, two = before.state_dict(), after.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
