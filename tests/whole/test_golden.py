"""What must not change: the first losses of every kind of training, and everything that version 0.1.0 has written."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from hyperinverter.checkpoints import load_hyperinverter
from hyperinverter.data.transforms import read_photo
from hyperinverter.runs import read_metrics

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
LEGACY = GOLDEN / "legacy"


def _losses() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_losses", GOLDEN / "losses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


losses = _losses()


@pytest.fixture(scope="module")
def place(module_folder: Path) -> Path:
    losses.photos(module_folder / "photos")
    return module_folder


# In the order of CASES: every phase II uses the phase I of the first. The command compares all of them.
QUICK = ("phase1", "phase2_adversarial")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in losses.CASES]
)
def test_the_first_losses_are_those_recorded(case: str, place: Path) -> None:
    path = losses.file_of_platform()
    if not path.is_file():
        pytest.skip(f"no {path.name}: record one with `python tests/golden/losses.py record`")
    recorded = json.loads(path.read_text(encoding="utf-8"))
    if case != "phase1" and not (place / "phase1").is_dir():  # another process has the first case
        losses.losses("phase1", place)
    largest, missing = losses.differences(recorded, {case: losses.losses(case, place)})
    assert not missing
    assert largest <= losses.TOLERANCE


@pytest.fixture
def legacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what version 0.1.0 has left, in the current folder: its paths are relative."""
    folder = tmp_path / "legacy"
    shutil.copytree(LEGACY, folder)
    for path in losses.photos(folder / "photos").rglob("*.png"):
        Image.open(path).resize((32, 32)).save(path)
    monkeypatch.chdir(folder)
    return folder


def expected() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((LEGACY / "expected.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.usefixtures("legacy")
def test_a_model_file_of_version_0_1_draws_the_same_image() -> None:
    model = load_hyperinverter("model_phase2.safetensors", generator="generator.safetensors")
    inversion = model.invert(read_photo("photos/test/00.png", 32))
    known = expected()
    torch.testing.assert_close(inversion.w[0, :4], torch.tensor(known["w"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        inversion.image[0, :, 0, 0], torch.tensor(known["image"]["corner"]), rtol=1e-3, atol=1e-4
    )
    assert inversion.image.mean().item() == pytest.approx(known["image"]["mean"], rel=1e-3)
    assert inversion.image.std().item() == pytest.approx(known["image"]["std"], rel=1e-3)


def test_an_interrupted_run_of_version_0_1_goes_on_to_the_numbers_it_had_then(legacy: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "resume=run_phase2"],
        cwd=legacy,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    columns = read_metrics(legacy / "run_phase2")[-1].keys()
    header = (legacy / "run_phase2" / "metrics.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert "train/discriminator" in columns
    assert "critic" not in header
    card = json.loads((legacy / "run_phase2" / "run.json").read_text(encoding="utf-8"))
    assert card["status"] == "finished"
    measured = {name: value for name, value in card["metrics"].items() if "seconds" not in name}
    assert measured == pytest.approx(
        expected()["metrics"], rel=1e-2
    )  # forty-five adversarial steps amplify rounding
